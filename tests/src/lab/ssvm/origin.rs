//! A web server that serves one answer after the other, well or badly.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::WEB;

/// What is done with a request.
#[derive(Clone)]
pub enum Act {
    /// The whole file, or the range that is asked for.
    Serve(Arc<Vec<u8>>),
    /// The first so many bytes of the file, then the connection is cut.
    Cut(Arc<Vec<u8>>, usize),
    /// The first so many bytes, then nothing, for ever.
    Stall(Arc<Vec<u8>>, usize),
    /// Bytes without end and without a length.
    Endless,
    /// This head and body.
    Raw(Vec<u8>),
    /// The whole file, or the range that is asked for, so many bytes a second.
    Slow(Arc<Vec<u8>>, usize),
    /// So slow that the file is asked for in pieces; what is done with the requests for these.
    Pieces(Arc<Vec<u8>>, Piece),
    /// What is done with requests for a path that contains these words; nothing for others.
    Paths(Vec<(&'static str, Act)>),
}

/// What a server does with requests for a piece of a file. All others that are for pieces it serves well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The third one is cut half-way, the first time.
    Cut,
    /// The third one stalls half-way, the first time.
    Stalls,
    /// The third one has fewer bytes than were asked for, and says so.
    Short,
    /// The third one is answered with the whole file.
    Whole,
    /// The third one is answered with the bytes before it.
    Elsewhere,
    /// From the third one on the file is another one, as its tag says.
    Changed,
    /// From the third one on the file is longer.
    Longer,
}

/// Bytes a second of the first connection of such a server.
const SLOW: usize = 2 << 20;

/// The server; it stops with the runtime.
pub struct Origin {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Serves with the acts in turn; the last one stays.
    pub async fn start(acts: Vec<Act>) -> Self {
        Self::start_at(WEB, acts).await
    }

    /// The same at another address of the machine.
    pub async fn start_at(address: &str, acts: Vec<Act>) -> Self {
        let address: SocketAddr = format!("{address}:0").parse().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/images", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut next = 0;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let act = acts[next.min(acts.len() - 1)].clone();
                next += 1;
                tokio::spawn(serve(stream, act, next, Arc::clone(&seen)));
            }
        });
        Self { url, requests }
    }

    /// Heads of the requests so far, in lower case.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, act: Act, number: usize, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    seen.lock().unwrap().push(head.clone());
    let from = head.split("range: bytes=").nth(1).and_then(|r| r.split('-').next()?.parse::<usize>().ok());
    let act = match act {
        Act::Paths(paths) => {
            let path = head.split(' ').nth(1).unwrap_or_default();
            match paths.into_iter().find(|(word, _)| path.contains(word)) {
                Some((_, act)) => act,
                None => return,
            }
        }
        act => act,
    };
    // A peer that has seen enough closes the connection.
    let _ = match act {
        Act::Pieces(file, how) => piece(&mut stream, &file, how, number, range(&head, file.len())).await,
        act => act_out(&mut stream, act, from).await,
    };
}

/// The range that is asked for of so many bytes: the first one and the one behind the last.
fn range(head: &str, size: usize) -> Option<(usize, usize)> {
    let (from, rest) = head.split("range: bytes=").nth(1)?.split_once('-')?;
    let last = rest.split('\r').next()?.parse::<usize>();
    Some((from.parse().ok()?, last.map_or(size, |last| last + 1)))
}

/// Serves the request of this number; the first one is for the whole file.
async fn piece(
    stream: &mut TcpStream,
    file: &[u8],
    how: Piece,
    number: usize,
    range: Option<(usize, usize)>,
) -> std::io::Result<()> {
    let whole = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\nETag: \"v1\"\r\n\r\n",
        file.len()
    );
    let Some((from, until)) = range else {
        stream.write_all(whole.as_bytes()).await?;
        for part in file.chunks(SLOW / 20) {
            stream.write_all(part).await?;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        return Ok(());
    };
    let (is_third, is_later) = (number == 4, number >= 4);
    if is_third && how == Piece::Whole {
        stream.write_all(whole.as_bytes()).await?;
        return stream.write_all(file).await;
    }
    let (mut first, mut behind, mut size, mut tag) = (from, until, file.len(), "v1");
    let mut bytes = file[from..until].to_vec();
    match how {
        Piece::Short if is_third => behind -= (until - from) / 2,
        Piece::Elsewhere if is_third => (first, behind) = (2 * from - until, from),
        Piece::Longer if is_later => size += 4096,
        Piece::Changed if is_later => {
            tag = "v2";
            bytes.fill(7);
        }
        _ => {}
    }
    bytes.truncate(behind - first);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{size}\r\n\
         ETag: \"{tag}\"\r\n\r\n",
        bytes.len(),
        behind - 1,
    );
    stream.write_all(head.as_bytes()).await?;
    if is_third && matches!(how, Piece::Cut | Piece::Stalls) {
        stream.write_all(&bytes[..bytes.len() / 2]).await?;
        if how == Piece::Stalls {
            std::future::pending::<()>().await;
        }
        return Ok(());
    }
    stream.write_all(&bytes).await
}

async fn act_out(stream: &mut TcpStream, act: Act, from: Option<usize>) -> std::io::Result<()> {
    let start = |file: &[u8]| match from {
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v1\"\r\n\r\n", file.len()),
        Some(from) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
            file.len() - from,
            file.len() - 1,
            file.len()
        ),
    };
    let from = from.unwrap_or(0);
    match act {
        Act::Serve(file) => {
            stream.write_all(start(&file).as_bytes()).await?;
            stream.write_all(&file[from..]).await
        }
        Act::Cut(file, bytes) => {
            stream.write_all(start(&file).as_bytes()).await?;
            stream.write_all(&file[from..file.len().min(from + bytes)]).await
        }
        Act::Stall(file, bytes) => {
            stream.write_all(start(&file).as_bytes()).await?;
            stream.write_all(&file[from..file.len().min(from + bytes)]).await?;
            std::future::pending().await
        }
        Act::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(b"10000\r\n").await?;
                stream.write_all(&[7; 0x10000]).await?;
                stream.write_all(b"\r\n").await?;
            }
        }
        Act::Raw(bytes) => stream.write_all(&bytes).await,
        Act::Slow(file, rate) => {
            stream.write_all(start(&file).as_bytes()).await?;
            for part in file[from..].chunks(rate.div_ceil(20)) {
                stream.write_all(part).await?;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Ok(())
        }
        Act::Paths(_) | Act::Pieces(..) => Ok(()),
    }
}
