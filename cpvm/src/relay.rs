//! Copies between browser and hypervisor once both are ready. Each direction waits for its reader, so that memory
//! stays bounded; the end of either side ends the other at once; a browser that has vanished is found by pings.
//!
//! A session that moves no bytes holds no buffer: what is read lands in a buffer of the thread, from where it goes on
//! at once. Only what the other side does not take is kept, and then nothing more is read until it has been. Where both
//! sides are plain TCP, much of a picture takes the shorter way of [`direct`].

mod direct;
pub mod tape;

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
    io::{AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    end::End,
    relay::{
        direct::{MOST, Moved},
        tape::Tape,
    },
    rfb::{
        browser::{Browser, Parts, close},
        view::ViewOnly,
    },
    screen::Duplex,
    websocket::{Decoder, HEAD, Opcode, append, head},
    wire::now,
};

/// Bytes read from the hypervisor at a time, and so the largest message to the browser: with its head it fills whole
/// records of TLS.
const CHUNK: usize = 64 * 1024 - HEAD;
/// So much at once is a picture, of which more is to be expected.
const MUCH: usize = 16 * 1024;
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

/// What the bytes of a session pass on their way.
#[derive(Debug, Default)]
pub struct Filters {
    /// For the browser's input, where it may look and no more.
    pub view_only: Option<ViewOnly>,
    /// Where the screen is recorded.
    pub tape: Option<Tape>,
}

/// Copies until one side ends or `orders` carries an end; the bytes pass the `filters`.
/// The hypervisor's connection is closed before the browser is told, and all is over when this returns.
pub async fn relay<B, H>(
    browser: Browser<B>,
    hypervisor: H,
    filters: Filters,
    orders: &mut watch::Receiver<Option<End>>,
    meter: &Meter,
    timing: Timing,
) -> End
where
    B: Duplex,
    H: Duplex,
{
    let Parts { stream, decoder, early, end, replies } = browser.into_parts();
    let mut pump = Pump {
        browser: stream,
        hypervisor,
        decoder,
        filters,
        down: Kept { bytes: replies, ..Kept::default() },
        up: Kept::default(),
        ended: end,
        meter,
        heard: Instant::now(),
        held: false,
        blocked: false,
        much: false,
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
    B: Duplex,
    H: Duplex,
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
    filters: Filters,
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
    /// Whether the last portion of the picture was large.
    much: bool,
}

impl<B, H> Pump<'_, B, H>
where
    B: Duplex,
    H: Duplex,
{
    /// Moves all that can be moved now; ready when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        BUFFER.with_borrow_mut(|buffer| {
            // A key does not wait for the picture.
            if let Poll::Ready(end) = self.poll_up(buffer, cx) {
                return Poll::Ready(end);
            }
            let down = self.poll_down(buffer, cx);
            if self.held && self.down.bytes.len() < MOST + REPLIES {
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
            if self.down.bytes.len() >= MOST + REPLIES {
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
        if let Some(tape) = &mut self.filters.tape {
            tape.up(bytes);
        }
        match &mut self.filters.view_only {
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
            let moved = match self.poll_direct(cx) {
                Some(moved) => ready!(moved),
                None => ready!(self.poll_frame(buffer, cx)),
            };
            match moved {
                Ok(count) => {
                    self.much = count >= MUCH;
                    self.meter.count(&self.meter.down, count);
                }
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes more of the picture on without a copy, where that can be and is worth it.
    fn poll_direct(&mut self, cx: &mut Context<'_>) -> Option<Poll<Result<usize, End>>> {
        if !self.much || self.filters.tape.is_some() {
            return None;
        }
        let (hypervisor, browser) = (self.hypervisor.tcp()?, self.browser.tcp()?);
        // Where it takes nothing, nothing is read.
        match browser.poll_write_ready(cx) {
            Poll::Ready(Ok(())) if std::mem::take(&mut self.blocked) => self.heard = Instant::now(),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Some(Poll::Ready(Err(End::BrowserGone))),
            Poll::Pending => {
                self.blocked = true;
                return Some(Poll::Pending);
            }
        }
        let moved = direct::poll_move(direct::pipe()?, hypervisor, browser, cx);
        Some(moved.map_ok(|Moved { count, rest }| {
            self.down.bytes = rest;
            count
        }))
    }

    /// Copies a frame of the picture; how many bytes of the hypervisor it was.
    fn poll_frame(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let mut read = ReadBuf::new(&mut buffer[HEAD..]);
        if ready!(Pin::new(&mut self.hypervisor).poll_read(cx, &mut read)).is_err() {
            return Poll::Ready(Err(End::HypervisorGone));
        }
        let count = read.filled().len();
        if count == 0 {
            return Poll::Ready(Err(End::HypervisorClosed));
        }
        if let Some(tape) = &mut self.filters.tape {
            tape.down(&buffer[HEAD..HEAD + count]);
        }
        let (room, length) = head(Opcode::Binary, count);
        buffer[HEAD - length..HEAD].copy_from_slice(&room[HEAD - length..]);
        let frame = &buffer[HEAD - length..HEAD + count];
        let put = self.down.put(frame, &mut self.browser, cx);
        Poll::Ready(put.map(|()| count).map_err(|_| End::BrowserGone))
    }
}

#[cfg(test)]
mod tests;
