//! TLS through link frames over a TCP connection: raw records during the handshake, frames after
//! it. The packet ends where the frame without FOLLOWING ends.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::link::{self, Deframer, FrameHeader, LinkError, Records};
use super::packet::{MAX_CONTENT, Packet, PacketError};

/// Most bytes read from the socket at once.
const PORTION: usize = 16 * 1024;
/// Most bytes of plain text in one TLS record.
const RECORD: usize = 16 * 1024;
/// Most bytes of a handshake, both directions counted apart.
const MAX_HANDSHAKE: usize = 256 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The TLS engine.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The frames.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// The handshake takes too long or is too long.
    #[error("the TLS handshake did not end in time")]
    Handshake,
    /// The peer closed during the handshake.
    #[error("the peer closed during the TLS handshake")]
    ClosedInHandshake,
    /// The peer takes nothing of what is sent.
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
}

/// A connection after its handshake.
pub struct Stream {
    /// Packets that arrive.
    pub reader: PacketReader,
    /// Packets that leave.
    pub writer: PacketWriter,
    /// Certificates that the peer showed.
    pub certificates: Option<Vec<CertificateDer<'static>>>,
}

/// Shakes hands as the client, within `limit`.
pub async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    limit: Duration,
) -> Result<Stream, StreamError> {
    let peer = socket.peer_addr()?;
    let client = ClientConnection::new(config, ServerName::from(peer.ip()))?;
    shake_hands(socket, client.into(), limit).await
}

/// Shakes hands as the server, within `limit`.
pub async fn accept(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> Result<Stream, StreamError> {
    let server = ServerConnection::new(config)?;
    shake_hands(socket, server.into(), limit).await
}

/// Connects a TCP socket with the options of the channel: no delay, keep-alive.
pub async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
    tune(&socket)?;
    Ok(socket)
}

/// Sets the options of the channel on a socket.
pub(super) fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20));
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

async fn shake_hands(
    socket: TcpStream,
    mut engine: Connection,
    limit: Duration,
) -> Result<Stream, StreamError> {
    engine.set_buffer_limit(None);
    let (mut reader, mut writer) = socket.into_split();
    let rest = tokio::time::timeout(limit, handshake(&mut reader, &mut writer, &mut engine))
        .await
        .map_err(|_| StreamError::Handshake)??;
    let certificates =
        engine.peer_certificates().map(|list| list.iter().map(|one| one.clone().into_owned()).collect());
    let engine = Arc::new(Mutex::new(engine));
    let mut frames = Deframer::default();
    frames.push(&rest);
    Ok(Stream {
        reader: PacketReader {
            socket: reader,
            engine: engine.clone(),
            frames,
            packet: Vec::new(),
            inside: false,
            heard: Instant::now(),
        },
        writer: PacketWriter { socket: writer, engine },
        certificates,
    })
}

/// Runs the handshake; gives the bytes that came after its last record.
async fn handshake(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    engine: &mut Connection,
) -> Result<Vec<u8>, StreamError> {
    let mut waiting = Vec::new();
    let mut taken = 0;
    let mut portion = vec![0; PORTION];
    loop {
        let outcome = feed_handshake(engine, &mut waiting);
        // An alert for the peer is written even where the engine has given up.
        let mut out = Vec::new();
        while engine.wants_write() {
            engine.write_tls(&mut out)?;
        }
        writer.write_all(&out).await?;
        outcome?;
        if !engine.is_handshaking() {
            return Ok(waiting);
        }
        let length = reader.read(&mut portion).await?;
        if length == 0 {
            return Err(StreamError::ClosedInHandshake);
        }
        taken += length;
        if taken > MAX_HANDSHAKE {
            return Err(StreamError::Handshake);
        }
        waiting.extend_from_slice(&portion[..length]);
    }
}

/// Gives the engine whole records, one at a time, until the handshake is done; what follows are frames.
fn feed_handshake(engine: &mut Connection, waiting: &mut Vec<u8>) -> Result<(), StreamError> {
    while engine.is_handshaking() {
        let Some(Ok(record)) = Records(waiting).next() else {
            return match waiting.first() {
                // Not the beginning of a record: let the engine name the error.
                Some(first) if !(0x14..=0x17).contains(first) => feed(engine, waiting).map(drop),
                _ => Ok(()),
            };
        };
        let length = record.len();
        feed(engine, record)?;
        waiting.drain(..length);
    }
    Ok(())
}

/// Gives the engine bytes and takes the plain text they carry.
fn feed(engine: &mut Connection, mut bytes: &[u8]) -> Result<Vec<u8>, StreamError> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        if engine.read_tls(&mut bytes)? == 0 {
            break;
        }
        let state = engine.process_new_packets()?;
        if state.plaintext_bytes_to_read() > 0 {
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            engine.reader().read_exact(&mut plain[start..])?;
        }
    }
    Ok(plain)
}

/// The arriving half of a connection.
pub struct PacketReader {
    socket: OwnedReadHalf,
    engine: Arc<Mutex<Connection>>,
    frames: Deframer,
    packet: Vec<u8>,
    inside: bool,
    heard: Instant,
}

impl PacketReader {
    /// The next packet: its bytes, or none where the peer has closed between two packets. May be
    /// dropped while waiting without losing anything. After an error the connection is of no use.
    pub async fn next_bytes(&mut self, limit: usize) -> Result<Option<Vec<u8>>, StreamError> {
        let mut portion = vec![0; PORTION];
        loop {
            while let Some(frame) = self.frames.next_frame()? {
                self.take(&frame.payload, limit)?;
                self.inside = frame.following;
                if !frame.following {
                    return Ok(Some(std::mem::take(&mut self.packet)));
                }
            }
            let length = match self.socket.read(&mut portion).await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && self.is_between() => 0,
                Err(error) => return Err(error.into()),
            };
            if length == 0 {
                return if self.is_between() { Ok(None) } else { Err(LinkError::Truncated.into()) };
            }
            self.heard = Instant::now();
            self.frames.push(&portion[..length]);
        }
    }

    /// The next packet with a text of at most 64 MiB. The inner error is one packet that cannot be
    /// read; the connection may go on after it.
    pub async fn next(&mut self) -> Result<Option<Result<Packet, PacketError>>, StreamError> {
        let bytes = self.next_bytes(MAX_CONTENT + super::packet::HEADER).await?;
        Ok(bytes.map(|bytes| Packet::decode(&bytes, MAX_CONTENT)))
    }

    /// When the peer was last heard, be it in the middle of a packet.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    fn is_between(&self) -> bool {
        self.frames.is_empty() && !self.inside
    }

    fn take(&mut self, payload: &[u8], limit: usize) -> Result<(), StreamError> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        for record in Records(payload) {
            self.packet.extend_from_slice(&feed(&mut engine, record?)?);
            if self.packet.len() > limit {
                return Err(LinkError::PacketTooLong(limit).into());
            }
        }
        Ok(())
    }
}

/// The leaving half of a connection.
pub struct PacketWriter {
    socket: OwnedWriteHalf,
    engine: Arc<Mutex<Connection>>,
}

impl PacketWriter {
    /// Sends a packet whole. Fails where the peer takes nothing for `limit`. Must not be dropped
    /// while it runs: the rest of a packet would be missing.
    pub async fn send(&mut self, packet: &Packet, limit: Duration) -> Result<(), StreamError> {
        self.send_bytes(&packet.encode(), limit).await
    }

    /// The same with the bytes of a packet, which are not looked at.
    pub async fn send_bytes(&mut self, bytes: &[u8], limit: Duration) -> Result<(), StreamError> {
        if bytes.is_empty() {
            let empty = FrameHeader { length: 0, following: false };
            return Ok(self.socket.write_all(&empty.encode()).await?);
        }
        let mut chunks = bytes.chunks(RECORD).peekable();
        while let Some(chunk) = chunks.next() {
            let frame = self.frame(chunk, chunks.peek().is_some())?;
            let mut rest = frame.as_slice();
            while !rest.is_empty() {
                let length = tokio::time::timeout(limit, self.socket.write(rest))
                    .await
                    .map_err(|_| StreamError::Stalled(limit))??;
                rest = &rest[length..];
            }
        }
        Ok(())
    }

    /// Encrypts one portion of a packet and puts it into frames.
    fn frame(&self, chunk: &[u8], following: bool) -> Result<Vec<u8>, StreamError> {
        let mut records = Vec::with_capacity(chunk.len() + 64);
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.writer().write_all(chunk)?;
        while engine.wants_write() {
            engine.write_tls(&mut records)?;
        }
        Ok(link::frame(&records, following)?)
    }

    /// Sends bytes as they are, neither encrypted nor framed: for those who want to see what the
    /// other end makes of it.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Closes the sending side; the peer sees the end after what was sent.
    pub async fn close(&mut self) {
        let _ = self.socket.shutdown().await;
    }
}
