//! Frames of the hand-over: a 4-byte big-endian length, a JSON header of that length, then the
//! number of bytes and descriptors that the header names.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::{io::Interest, net::UnixStream};

/// Longest header in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
/// Longest body in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub(super) enum Head {
    /// Both ways: a socket under a name. Core to serve: use it. Serve to core, before `Ready`: held already.
    Socket { name: String, version: u64 },
    /// Core to serve: a socket is no longer wanted.
    Withdraw { name: String, version: u64 },
    /// Core to serve: a snapshot that replaces the last one of its kind; the body is its bytes.
    Snapshot { kind: String, version: u64 },
    /// Serve to core, before `Ready`: the kinds of the snapshots that it has; the body is their JSON list.
    Kinds,
    /// Serve to core: all that it holds has been named.
    Ready,
    /// Serve to core: everything up to this version is in force.
    Applied { version: u64 },
    /// Serve to core: an event; `id` is there where an answer is awaited; the body is its bytes.
    Event { kind: String, id: Option<u64> },
    /// Core to serve: the answer to an event; the body is its bytes where `refused` is absent. May carry a socket.
    Answer { id: u64, refused: Option<String> },
}

/// A frame with what comes along with it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) fd: Option<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(flatten)]
    head: Head,
    body: usize,
    fds: usize,
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Sends one frame, with a descriptor where one is given.
pub(super) async fn send(
    stream: &UnixStream,
    head: &Head,
    body: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    if body.len() > BODY_LIMIT {
        return Err(invalid(format_args!("a body of {} bytes is too long", body.len())));
    }
    let header = serde_json::to_vec(&Header { head: head.clone(), body: body.len(), fds: fd.iter().count() })
        .map_err(invalid)?;
    let mut bytes = u32::try_from(header.len()).map_err(invalid)?.to_be_bytes().to_vec();
    bytes.extend_from_slice(&header);
    let mut fd = fd;
    let (mut first, mut second) = (&bytes[..], body);
    while !first.is_empty() || !second.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds: Vec<BorrowedFd<'_>> = fd.iter().copied().collect();
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&fds));
                }
                let parts = [IoSlice::new(first), IoSlice::new(second)];
                Ok(rustix::net::sendmsg(
                    stream,
                    &parts,
                    &mut control,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )?)
            })
            .await?;
        fd = None;
        let of_first = sent.min(first.len());
        first = &first[of_first..];
        second = &second[sent - of_first..];
    }
    Ok(())
}

/// Puts frames together again from what arrives.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: BytesMut,
    fds: VecDeque<OwnedFd>,
}

impl Reader {
    /// The next frame; `None` where the other end has closed between two frames. May be cancelled.
    pub(super) async fn next(&mut self, stream: &UnixStream) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if stream.async_io(Interest::READABLE, || self.receive(stream)).await? == 0 {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            rustix::net::recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > 64 {
            return Err(invalid("descriptors without frames"));
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes)
    }

    /// A whole frame out of the bytes so far.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.bytes.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok()) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > HEAD_LIMIT {
            return Err(invalid(format_args!("a header of {length} bytes is too long")));
        }
        let Some(header) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let header: Header = serde_json::from_slice(header).map_err(invalid)?;
        if header.body > BODY_LIMIT || header.fds > 1 {
            return Err(invalid("a frame is too big"));
        }
        if self.bytes.len() < 4 + length + header.body {
            self.bytes.reserve((4 + length + header.body - self.bytes.len()).min(1024 * 1024));
            return Ok(None);
        }
        self.bytes.advance(4 + length);
        let body = self.bytes.split_to(header.body).freeze();
        let fd = match header.fds {
            0 => None,
            _ => Some(self.fds.pop_front().ok_or_else(|| invalid("a frame without its descriptor"))?),
        };
        Ok(Some(Frame { head: header.head, body, fd }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn frames_carry_bytes_and_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let big = vec![7; 3_000_000];
        let sender = async {
            send(&a, &Head::Ready, &[], None).await.unwrap();
            let socket = Head::Socket { name: "dhcp".into(), version: 1 };
            send(&a, &socket, &[], Some(far.as_fd())).await.unwrap();
            send(&a, &Head::Snapshot { kind: "k".into(), version: 2 }, &big, None).await.unwrap();
        };
        let receiver = async {
            let mut reader = Reader::default();
            assert_eq!(reader.next(&b).await.unwrap().unwrap().head, Head::Ready);
            let socket = reader.next(&b).await.unwrap().unwrap();
            let mut passed = std::os::unix::net::UnixStream::from(socket.fd.unwrap());
            passed.write_all(b"hi").unwrap();
            assert_eq!(reader.next(&b).await.unwrap().unwrap().body, big);
        };
        tokio::join!(sender, receiver);
        let mut hi = [0; 2];
        near.read_exact(&mut hi).unwrap();
        assert_eq!(&hi, b"hi");
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader { bytes: BytesMut::from(&bytes[..]), ..Reader::default() };
            while let Ok(Some(_)) = reader.take() {}
        }
    }
}
