//! Copies between browser and hypervisor once both are ready. Each direction waits for its reader, so that memory
//! stays bounded; the end of either side ends the other at once; a browser that has vanished is found by pings.
//!
//! A session that moves no bytes holds no buffer: what is read lands in a buffer of the thread, from where it goes on
//! at once. Only what the other side does not take is kept, and then nothing more is read until it has been.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    end::End,
    rfb::{
        browser::{Browser, Parts, close},
        view::ViewOnly,
    },
    websocket::{Decoder, HEAD, Opcode, append, head},
    wire::now,
};

/// Bytes read from the hypervisor at a time, and so the largest message to the browser.
const CHUNK: usize = 64 * 1024;
/// Bytes read from the browser at a time.
const INPUT: usize = 16 * 1024;
/// Chunks after which other sessions have their turn.
const TURN: usize = 8;
/// Replies to a browser that takes none, in bytes, after which nothing more is read of it.
const REPLIES: usize = 4 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; HEAD + CHUNK]);
}

/// How long the parts of a relay may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two pings.
    pub ping: Duration,
    /// A browser that has said and taken nothing for this long is gone.
    pub silence: Duration,
    /// For saying good-bye.
    pub close: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(30),
            silence: Duration::from_secs(85),
            close: Duration::from_secs(2),
        }
    }
}

/// What one session has carried.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes from the hypervisor to the browser.
    pub down: AtomicU64,
    /// Bytes from the browser to the hypervisor.
    pub up: AtomicU64,
    /// Last byte in either direction, milliseconds since 1970.
    pub used: AtomicI64,
}

impl Meter {
    fn count(&self, direction: &AtomicU64, bytes: usize) {
        direction.fetch_add(bytes as u64, Ordering::Relaxed);
        self.used.store(now(), Ordering::Relaxed);
    }
}

/// Copies until one side ends or `orders` carries an end; where there is a `filter`, the browser's input passes it.
/// The hypervisor's connection is closed before the browser is told, and all is over when this returns.
pub async fn relay<B, H>(
    browser: Browser<B>,
    hypervisor: H,
    filter: Option<ViewOnly>,
    orders: &mut watch::Receiver<Option<End>>,
    meter: &Meter,
    timing: Timing,
) -> End
where
    B: AsyncRead + AsyncWrite + Unpin,
    H: AsyncRead + AsyncWrite + Unpin,
{
    let Parts { stream, decoder, early, end, replies } = browser.into_parts();
    let mut pump = Pump {
        browser: stream,
        hypervisor,
        decoder,
        filter,
        down: Kept { bytes: replies, ..Kept::default() },
        up: Kept::default(),
        ended: end,
        meter,
        heard: Instant::now(),
        held: false,
        blocked: false,
    };
    let end = match pump.input(&early) {
        Err(end) => end,
        Ok(()) => run(&mut pump, orders, timing).await,
    };
    let Pump { mut browser, hypervisor, mut decoder, down, .. } = pump;
    drop(hypervisor);
    // The browser may have vanished: it gets a moment, not more.
    let _ = timeout(timing.close, close(&mut browser, &mut decoder, down.into_rest(), end)).await;
    end
}

async fn run<B, H>(
    pump: &mut Pump<'_, B, H>,
    orders: &mut watch::Receiver<Option<End>>,
    timing: Timing,
) -> End
where
    B: AsyncRead + AsyncWrite + Unpin,
    H: AsyncRead + AsyncWrite + Unpin,
{
    let mut ordered = pin!(async {
        let order = orders.wait_for(Option::is_some).await.ok().and_then(|order| *order);
        order.unwrap_or(End::Stopped)
    });
    let mut ping = Instant::now() + timing.ping;
    let mut timer = pin!(sleep_until(ping.min(pump.heard + timing.silence)));
    poll_fn(|cx| {
        if let Poll::Ready(end) = ordered.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= pump.heard + timing.silence {
                return Poll::Ready(End::BrowserSilent);
            }
            if now >= ping {
                ping = now + timing.ping;
                pump.down.ping();
            }
            timer.as_mut().reset(ping.min(pump.heard + timing.silence));
        }
        pump.poll(cx)
    })
    .await
}

/// Bytes that their reader has not taken, and whether what it took may still wait in the layer below.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    from: usize,
    flush: bool,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A ping; where frames wait already the browser has enough to answer.
    fn ping(&mut self) {
        if self.is_empty() {
            append(&mut self.bytes, Opcode::Ping, &[]);
        }
    }

    fn into_rest(mut self) -> Vec<u8> {
        self.bytes.split_off(self.from)
    }

    /// Writes what is kept; ready when some was taken, or nothing is left. Not zero where the reader took something.
    fn write<W: AsyncWrite + Unpin>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while self.from < self.bytes.len() {
            let Poll::Ready(count) = Pin::new(&mut *to).poll_write(cx, &self.bytes[self.from..])? else {
                return if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending };
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.from, self.flush, taken) = (self.from + count, true, taken + count);
        }
        if !self.is_empty() {
            (self.bytes, self.from) = (Vec::new(), 0);
        }
        if self.flush {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.flush = false;
            taken += 1;
        }
        Poll::Ready(Ok(taken))
    }

    /// Writes new bytes as far as they are taken, and keeps the others. Nothing may have been kept before.
    fn put<W: AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let count = match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        self.flush = true;
        if count < bytes.len() {
            self.bytes.extend_from_slice(&bytes[count..]);
        }
        Ok(())
    }
}

/// The two connections and what waits between them.
struct Pump<'a, B, H> {
    browser: B,
    hypervisor: H,
    decoder: Decoder,
    filter: Option<ViewOnly>,
    /// Frames for the browser.
    down: Kept,
    /// Bytes for the hypervisor.
    up: Kept,
    /// How the browser has ended the session, once the hypervisor has its last bytes.
    ended: Option<End>,
    meter: &'a Meter,
    /// When the browser last gave a sign of life.
    heard: Instant,
    /// Whether the browser is not read because it takes no replies.
    held: bool,
    /// Whether the browser takes nothing.
    blocked: bool,
}

impl<B, H> Pump<'_, B, H>
where
    B: AsyncRead + AsyncWrite + Unpin,
    H: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves all that can be moved now; ready when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        BUFFER.with_borrow_mut(|buffer| {
            // A key does not wait for the picture.
            if let Poll::Ready(end) = self.poll_up(buffer, cx) {
                return Poll::Ready(end);
            }
            let down = self.poll_down(buffer, cx);
            if self.held && self.down.bytes.len() < CHUNK + REPLIES {
                self.held = false;
                cx.waker().wake_by_ref();
            }
            down
        })
    }

    fn poll_up(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.up.write(&mut self.hypervisor, cx) {
                Poll::Ready(Ok(_)) if self.up.is_empty() => {}
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(_)) => return Poll::Ready(End::HypervisorGone),
                Poll::Pending => return Poll::Pending,
            }
            if let Some(end) = self.ended {
                return Poll::Ready(end);
            }
            if self.down.bytes.len() >= CHUNK + REPLIES {
                self.held = true;
                return Poll::Pending;
            }
            let mut read = ReadBuf::new(&mut buffer[..INPUT]);
            if ready!(Pin::new(&mut self.browser).poll_read(cx, &mut read)).is_err()
                || read.filled().is_empty()
            {
                return Poll::Ready(End::BrowserGone);
            }
            self.heard = Instant::now();
            let count = read.filled().len();
            let decoded = self.decoder.decode(&mut buffer[..count], &mut self.down.bytes);
            self.ended = decoded.end;
            if let Err(end) = self.input(&buffer[..decoded.data]) {
                return Poll::Ready(end);
            }
        }
    }

    /// Input of the browser that is to go to the hypervisor.
    fn input(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.meter.count(&self.meter.up, bytes.len());
        match &mut self.filter {
            Some(filter) => filter.pass(bytes, &mut self.up.bytes),
            None => {
                self.up.bytes.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn poll_down(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURN {
            loop {
                match self.down.write(&mut self.browser, cx) {
                    Poll::Ready(Ok(taken)) => {
                        // It took nothing and does again: it has read.
                        if taken > 0 && std::mem::take(&mut self.blocked) {
                            self.heard = Instant::now();
                        }
                        if self.down.is_empty() {
                            break;
                        }
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(End::BrowserGone),
                    Poll::Pending => {
                        self.blocked = true;
                        return Poll::Pending;
                    }
                }
            }
            let mut read = ReadBuf::new(&mut buffer[HEAD..]);
            if ready!(Pin::new(&mut self.hypervisor).poll_read(cx, &mut read)).is_err() {
                return Poll::Ready(End::HypervisorGone);
            }
            let count = read.filled().len();
            if count == 0 {
                return Poll::Ready(End::HypervisorClosed);
            }
            self.meter.count(&self.meter.down, count);
            let (room, length) = head(Opcode::Binary, count);
            buffer[HEAD - length..HEAD].copy_from_slice(&room[HEAD - length..]);
            let frame = &buffer[HEAD - length..HEAD + count];
            if self.down.put(frame, &mut self.browser, cx).is_err() {
                return Poll::Ready(End::BrowserGone);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::*;

    struct Lab {
        client: WebSocketStream<DuplexStream>,
        server: DuplexStream,
        stop: watch::Sender<Option<End>>,
        ended: tokio::task::JoinHandle<(End, u64, u64)>,
    }

    async fn lab(timing: Timing) -> Lab {
        viewing(timing, None).await
    }

    async fn viewing(timing: Timing, filter: Option<ViewOnly>) -> Lab {
        let (near, far) = duplex(16 * 1024);
        let (hypervisor, server) = duplex(16 * 1024);
        let browser = Browser::new(near, &[]);
        let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let (stop, mut orders) = watch::channel(None);
        let ended = tokio::spawn(async move {
            let meter = Meter::default();
            let end = relay(browser, hypervisor, filter, &mut orders, &meter, timing).await;
            (end, meter.down.into_inner(), meter.up.into_inner())
        });
        Lab { client, server, stop, ended }
    }

    fn close_code(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> u16 {
        match message {
            Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_both_ways() {
        let mut lab = lab(Timing::default()).await;
        let sent: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n * 7 + n / 251) as u8).collect();
        let copy = sent.clone();
        let (mut from, mut to) = tokio::io::split(lab.server);
        let serving = tokio::spawn(async move {
            to.write_all(&copy).await.unwrap();
            let mut got = vec![0; 300_000];
            from.read_exact(&mut got).await.unwrap();
            (got, from, to)
        });
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let message = lab.client.next().await.unwrap().unwrap();
            assert!(message.len() <= CHUNK);
            got.extend_from_slice(&message.into_data());
        }
        assert!(got == sent);
        for piece in sent[..300_000].chunks(10_000) {
            lab.client.send(Message::binary(piece.to_vec())).await.unwrap();
        }
        let (up, from, to) = serving.await.unwrap();
        assert!(up == sent[..300_000]);
        drop((from, to));
        assert_eq!(close_code(lab.client.next().await), 4002);
        assert_eq!(lab.ended.await.unwrap(), (End::HypervisorClosed, sent.len() as u64, 300_000));
    }

    #[tokio::test]
    async fn the_browsers_end_closes_the_hypervisor() {
        let mut one = lab(Timing::default()).await;
        one.client.close(None).await.unwrap();
        assert_eq!(one.server.read(&mut [0]).await.unwrap(), 0);
        while let Some(Ok(_)) = one.client.next().await {}
        assert_eq!(one.ended.await.unwrap().0, End::BrowserClosed);

        let mut two = lab(Timing::default()).await;
        drop(two.client);
        assert_eq!(two.server.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(two.ended.await.unwrap().0, End::BrowserGone);
    }

    #[tokio::test]
    async fn text_and_frames_over_the_limit_reach_no_hypervisor() {
        for (message, end, code) in [
            (Message::text("x"), End::BrowserText, 1003),
            (Message::binary(vec![0; 65_537]), End::BrowserTooBig, 1009),
        ] {
            let mut lab = lab(Timing::default()).await;
            // The proxy stops reading in the middle of what is too long.
            let _ = lab.client.feed(message).await;
            let (mut sink, mut stream) = lab.client.split();
            let (_, closed) = tokio::join!(sink.flush(), stream.next());
            assert_eq!(close_code(closed), code);
            drop((sink, stream));
            let mut seen = Vec::new();
            lab.server.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, b"");
            assert_eq!(lab.ended.await.unwrap().0, end);
        }
    }

    #[tokio::test]
    async fn an_order_ends_it() {
        for end in [End::TakenOver, End::Cut] {
            let mut lab = lab(Timing::default()).await;
            lab.stop.send_replace(Some(end));
            assert_eq!(close_code(lab.client.next().await), end.close().0);
            assert_eq!(lab.server.read(&mut [0]).await.unwrap(), 0);
            while let Some(Ok(_)) = lab.client.next().await {}
            assert_eq!(lab.ended.await.unwrap().0, end);
        }
    }

    const QUICK: Timing = Timing {
        ping: Duration::from_millis(50),
        silence: Duration::from_millis(400),
        close: Duration::from_millis(50),
    };

    #[tokio::test]
    async fn a_browser_that_answers_pings_stays_and_a_silent_one_goes() {
        let mut lab = lab(QUICK).await;
        // Reading answers the pings; nothing else is sent for three times the silence that is allowed.
        for _ in 0..24 {
            assert!(matches!(lab.client.next().await, Some(Ok(Message::Ping(_)))));
            lab.client.flush().await.unwrap();
        }
        assert!(!lab.ended.is_finished());
        // From now on nobody reads.
        let silent = Instant::now();
        assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
        assert!(silent.elapsed() < QUICK.silence * 3, "{:?}", silent.elapsed());
    }

    #[tokio::test]
    async fn a_browser_that_does_not_read_holds_the_hypervisor_back() {
        let mut lab = lab(QUICK).await;
        let mut taken = 0;
        while lab.server.write_all(&[0; 4096]).await.is_ok() {
            taken += 4096;
            assert!(taken < 1024 * 1024, "nothing holds it back");
        }
        assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
    }

    #[test]
    fn a_vanished_browser_is_found_within_90_seconds() {
        let timing = Timing::default();
        assert!(timing.silence + timing.close < Duration::from_secs(90));
        assert!(timing.silence > timing.ping * 2);
    }

    #[tokio::test]
    async fn pings_that_nobody_reads_the_answers_of_are_not_hoarded() {
        let mut lab = lab(QUICK).await;
        let mut sent = 0_usize;
        let ping = Message::Ping(Bytes::from(vec![1; 125]));
        while lab.client.feed(ping.clone()).await.is_ok()
            && timeout(Duration::from_millis(100), lab.client.flush()).await.is_ok()
        {
            sent += 125;
            assert!(sent < 1024 * 1024, "all are taken");
        }
        // Once it reads again, every answer is there.
        let mut answers = 0;
        while answers < sent {
            match timeout(Duration::from_secs(5), lab.client.next()).await.unwrap().unwrap().unwrap() {
                Message::Pong(payload) => answers += payload.len(),
                other => assert!(matches!(other, Message::Ping(_)), "{other:?}"),
            }
        }
        lab.server.write_all(b"picture").await.unwrap();
        loop {
            if let Message::Binary(bytes) = lab.client.next().await.unwrap().unwrap() {
                break assert_eq!(&bytes[..], b"picture");
            }
        }
    }

    #[tokio::test]
    async fn a_slow_browser_that_takes_a_little_stays() {
        let mut lab = lab(QUICK).await;
        let (mut from, mut to) = tokio::io::split(lab.server);
        let serving = tokio::spawn(async move {
            while to.write_all(&[0; 4096]).await.is_ok() {}
            from.read(&mut [0]).await
        });
        // Each message takes longer than a pong may, but some of it is taken all the time.
        let raw = lab.client.get_mut();
        let mut piece = vec![0; 4096];
        for _ in 0..40 {
            raw.read_exact(&mut piece).await.unwrap();
            tokio::time::sleep(QUICK.silence / 10).await;
        }
        assert!(!lab.ended.is_finished());
        lab.stop.send_replace(Some(End::Cut));
        assert_eq!(lab.ended.await.unwrap().0, End::Cut);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_viewer_who_may_only_look_presses_no_key() {
        let mut lab = viewing(Timing::default(), Some(ViewOnly::default())).await;
        lab.client.send(Message::binary(vec![4, 1, 0, 0, 0, 0, 0, 0x61])).await.unwrap();
        lab.client.send(Message::binary(vec![3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90])).await.unwrap();
        let mut seen = [0; 10];
        lab.server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen[0], 3);
        lab.client.send(Message::binary(vec![99])).await.unwrap();
        assert_eq!(close_code(lab.client.next().await), 1002);
        assert_eq!(lab.ended.await.unwrap().0, End::BrowserProtocol);
    }

    #[test]
    fn an_idle_session_holds_no_buffer() {
        assert!(std::mem::size_of::<Pump<'_, tokio::net::TcpStream, tokio::net::TcpStream>>() < 512);
    }
}
