//! A download over several connections, where one alone is slow and the other end serves parts. The bytes come in
//! their order all the same; each connection goes on where it broke.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;

use super::limits;
use crate::{
    source::HttpSource,
    store::{Origin, Source, SourceError},
    transfer::budget::{self, Buffer, PIECE},
};

/// Connections of one download.
const CONNECTIONS: usize = 4;
/// When a connection is slow: so long a look at it has brought fewer bytes a second, and most of that time went
/// into waiting for them.
const LOOK: Duration = Duration::from_secs(2);
const SLOW: f64 = 32.0 * 1024.0 * 1024.0;
const WAITED: f64 = 0.8;

/// A source that spreads where that helps.
pub(super) struct Spread {
    single: HttpSource,
    host: String,
    look: Duration,
    begun: Instant,
    waited: Duration,
    came: u64,
    /// First byte that no piece has been asked for, once it has spread.
    next: Option<u64>,
    pieces: VecDeque<AbortOnDropHandle<Result<Bytes, SourceError>>>,
}

impl Spread {
    /// `host` is the one whose place the download has.
    pub(super) fn new(single: HttpSource, host: String) -> Self {
        Self {
            single,
            host,
            look: LOOK,
            begun: Instant::now(),
            waited: Duration::ZERO,
            came: 0,
            next: None,
            pieces: VecDeque::new(),
        }
    }

    /// Whether the connection is found to be slow; each look begins anew.
    fn is_slow(&mut self) -> bool {
        let looked = self.begun.elapsed();
        if looked < self.look {
            return false;
        }
        let slow = self.came as f64 / looked.as_secs_f64() < SLOW
            && self.waited.as_secs_f64() > WAITED * looked.as_secs_f64();
        (self.begun, self.waited, self.came) = (Instant::now(), Duration::ZERO, 0);
        slow
    }

    /// Asks for as many pieces as there is room for.
    fn fill(&mut self) {
        let (Some(mut next), Some(size)) = (self.next, self.single.size()) else { return };
        while self.pieces.len() < CONNECTIONS && next < size {
            let Some(buffer) = budget::piece() else { break };
            // The first connection has its place already.
            let place = limits::spare(&self.host);
            if place.is_none() && !self.pieces.is_empty() {
                break;
            }
            let until = size.min(next + PIECE as u64);
            let part = self.single.part(next, until);
            let task = tokio::spawn(async move {
                let piece = fetch(part, buffer).await;
                drop(place);
                piece
            });
            self.pieces.push_back(AbortOnDropHandle::new(task));
            next = until;
        }
        self.next = Some(next);
    }

    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            if self.next.is_none() {
                let asked = Instant::now();
                let chunk = self.single.chunk().await?;
                self.waited += asked.elapsed();
                self.came += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                if chunk.is_some() && self.is_slow() {
                    self.spread();
                }
                return Ok(chunk);
            }
            // What the first connection still brings comes before the pieces.
            if let Some(chunk) = self.single.chunk().await? {
                return Ok(Some(chunk));
            }
            self.fill();
            if let Some(piece) = self.pieces.pop_front() {
                let piece = piece.await.map_err(|e| SourceError::Remote(e.to_string()))??;
                self.fill();
                return Ok(Some(piece));
            }
            let Some(next) = self.next else { continue };
            if self.single.size().is_some_and(|size| next >= size) {
                return Ok(None);
            }
            // There is no room for pieces.
            self.single.jump(next);
            self.single.end_at(None);
            self.next = None;
        }
    }

    /// The connection that is there brings a piece more, others the pieces behind it.
    fn spread(&mut self) {
        let from = self.single.position() + PIECE as u64;
        if !self.single.is_divisible() || self.single.size().is_none_or(|size| from + PIECE as u64 >= size) {
            return;
        }
        tracing::debug!(host = self.host, from, "one connection is slow");
        self.single.end_at(Some(from));
        self.next = Some(from);
        self.fill();
    }
}

/// Fetches a piece as a whole.
async fn fetch(mut part: HttpSource, mut buffer: Buffer) -> Result<Bytes, SourceError> {
    while let Some(mut chunk) = part.chunk().await? {
        buffer.take(&mut chunk);
    }
    Ok(buffer.freeze())
}

impl Source for Spread {
    fn size(&self) -> Option<u64> {
        self.single.size()
    }

    fn origin(&self) -> Option<Origin> {
        self.single.origin()
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(self.next())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use common::command::Secret;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::source::{HttpOrder, Policy};

    const SIZE: usize = 9 * PIECE + 12_345;

    fn file() -> Vec<u8> {
        (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// Serves parts of a file; the first request trickles after its first bytes, and every third of the others is
    /// cut half-way.
    async fn server(tag: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x.raw", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            let file = Arc::new(file());
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (file, requests) = (Arc::clone(&file), Arc::clone(&requests));
                tokio::spawn(async move {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let head = String::from_utf8(head).unwrap().to_lowercase();
                    let number = {
                        let mut requests = requests.lock().unwrap();
                        requests.push(head.clone());
                        requests.len()
                    };
                    let range = head.split("range: bytes=").nth(1).map(|r| {
                        let (from, to) = r.split("\r\n").next().unwrap().split_once('-').unwrap();
                        (from.parse::<usize>().unwrap(), to.parse().unwrap_or(SIZE - 1))
                    });
                    let (from, to) = range.unwrap_or((0, SIZE - 1));
                    let status = match range {
                        None => "200 OK\r\nAccept-Ranges: bytes".to_owned(),
                        Some(_) => format!("206 Part\r\nContent-Range: bytes {from}-{to}/{SIZE}"),
                    };
                    let head = format!(
                        "HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        to + 1 - from
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let body = &file[from..=to];
                    if range.is_some() && number % 3 == 0 {
                        let _ = stream.write_all(&body[..body.len() / 2]).await;
                        return;
                    }
                    for piece in body.chunks(64 * 1024) {
                        if stream.write_all(piece).await.is_err() {
                            return;
                        }
                        if range.is_none() {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                });
            }
        });
        (url, seen)
    }

    async fn fetched(url: &str) -> Vec<u8> {
        let order = HttpOrder {
            url: Secret::new(url),
            user: None,
            proxy: None,
            follow_redirects: false,
            policy: Policy { loopback: true, ..Policy::default() },
            trust: vec![],
            stall: 5,
        };
        let host = order.host();
        let _place = limits::enter(&host).await;
        let mut spread = Spread::new(HttpSource::open(&order, u64::MAX).await.unwrap(), host);
        spread.look = Duration::from_millis(50);
        let mut bytes = Vec::new();
        while let Some(chunk) = spread.chunk().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    #[tokio::test]
    async fn a_slow_source_is_asked_for_pieces_which_come_in_order() {
        let (url, seen) = server("\"a\"").await;
        assert!(fetched(&url).await == file());
        let seen = seen.lock().unwrap();
        assert!(seen.len() > 8, "{}", seen.len());
        assert!(seen[1..].iter().all(|head| head.contains("if-range: \"a\"")));
    }

    #[tokio::test]
    async fn a_source_that_does_not_tell_its_file_is_asked_once() {
        let (url, seen) = server("W/\"a\"").await;
        assert!(fetched(&url).await == file());
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}
