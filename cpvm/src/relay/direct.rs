//! The short way from one TCP connection to another: the bytes pass a pipe inside the kernel and never come into this
//! process. There is one pipe a thread, which is empty between two frames: what the browser does not take at once is
//! read out of it, so that no session ever holds a pipe of its own.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use rustix::{
    net::{SendFlags, send},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

use super::CHUNK;
use crate::{
    end::End,
    websocket::{HEAD, Opcode, append, head},
};

/// Most bytes that are taken from the hypervisor at once: each time is acknowledged, which costs more than the bytes.
pub(super) const MOST: usize = 4 * CHUNK;
/// Room of the pipe, in bytes: it counts pages, of which the kernel's small packets fill but a part.
const ROOM: usize = 1024 * 1024;

thread_local! {
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

/// The ends of a pipe with nothing in it.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does, with more and shorter frames.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Self { read, write })
    }

    /// What lies in the pipe, so many bytes.
    fn drain(&self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut from = 0;
        while from < count {
            match rustix::io::read(&self.read, &mut bytes[from..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => from += more,
            }
        }
        Ok(bytes)
    }
}

/// Frames that are on their way to the browser.
pub(super) struct Moved {
    /// Bytes of the hypervisor in them.
    pub(super) count: usize,
    /// Their end, which the browser has not taken yet.
    pub(super) rest: Vec<u8>,
}

/// The pipe of this thread; [`poll_move`] puts it back. `None` where there cannot be one.
pub(super) fn pipe() -> Option<Pipe> {
    PIPE.take().or_else(|| Pipe::new().ok())
}

/// Passes on what the hypervisor has sent, up to [`MOST`] bytes, in frames of [`CHUNK`]. The browser must have taken all
/// before. Where it breaks off the pipe is closed: no other session gets what is in it.
pub(super) fn poll_move(
    pipe: Pipe,
    hypervisor: &TcpStream,
    browser: &TcpStream,
    cx: &mut Context<'_>,
) -> Poll<Result<Moved, End>> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let count = loop {
        match hypervisor.poll_read_ready(cx) {
            Poll::Pending => {
                PIPE.set(Some(pipe));
                return Poll::Pending;
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::HypervisorGone)),
            Poll::Ready(Ok(())) => {}
        }
        let read = || Ok(splice(hypervisor, None, &pipe.write, None, MOST, flags)?);
        match hypervisor.try_io(Interest::READABLE, read) {
            Ok(0) => return Poll::Ready(Err(End::HypervisorClosed)),
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(Err(End::HypervisorGone)),
        }
    };
    let mut left = count;
    let mut rest = Vec::new();
    while left > 0 && rest.is_empty() {
        let frame = left.min(CHUNK);
        rest = give(&pipe, browser, frame).map_err(|_| End::BrowserGone)?;
        left -= frame;
    }
    for frame in pipe.drain(left).map_err(|_| End::BrowserGone)?.chunks(CHUNK) {
        append(&mut rest, Opcode::Binary, frame);
    }
    PIPE.set(Some(pipe));
    Poll::Ready(Ok(Moved { count, rest }))
}

/// Sends a head and so many bytes of the pipe; what is left of both.
fn give(pipe: &Pipe, browser: &TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let taken = |result: io::Result<usize>| match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other.map(Some),
    };
    let (room, length) = head(Opcode::Binary, count);
    let head = &room[HEAD - length..];
    let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let begun = taken(browser.try_io(Interest::WRITABLE, || Ok(send(browser, head, flags)?)))?.unwrap_or(0);
    let mut left = count;
    while begun == length && left > 0 {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let write = || Ok(splice(&pipe.read, None, browser, None, left, flags)?);
        match taken(browser.try_io(Interest::WRITABLE, write))? {
            Some(sent) => left -= sent,
            None => break,
        }
    }
    if begun == length && left == 0 {
        return Ok(Vec::new());
    }
    Ok([&head[begun..], &pipe.drain(left)?].concat())
}
