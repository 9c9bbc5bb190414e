//! Packets: a 40-byte header, big-endian, and the JSON text, zipped from 8192 bytes on
//! (management channel 1.6 to 1.10).

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::json::{self, TextError};
use super::message::{Message, MessageError};
use super::redact;

/// Bytes of the header.
pub const HEADER: usize = 40;
/// Text of so many bytes or more is zipped.
pub const COMPRESS_FROM: usize = 8192;
/// Most bytes of text in one packet, unzipped.
pub const MAX_CONTENT: usize = 64 * 1024 * 1024;

/// The flags of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// A request; clear in a response.
    pub const REQUEST: Self = Self(0x0001);
    /// Stop at the first command that fails.
    pub const STOP_ON_ERROR: Self = Self(0x0002);
    /// The server sends the next packet with this flag only after the answer to this one.
    pub const IN_SEQUENCE: Self = Self(0x0004);
    /// Comes from a server.
    pub const FROM_SERVER: Self = Self(0x0020);
    /// Between servers only.
    pub const CONTROL: Self = Self(0x0040);
    /// The content is zipped.
    pub const COMPRESSED: Self = Self(0x0080);

    /// True where all flags of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The flags of the response to a request with these: REQUEST cleared, FROM_SERVER turned
    /// round, STOP_ON_ERROR and IN_SEQUENCE kept.
    pub const fn answered(self) -> Self {
        let kept = self.0 & (Self::STOP_ON_ERROR.0 | Self::IN_SEQUENCE.0);
        Self(kept | (!self.0 & Self::FROM_SERVER.0))
    }
}

/// A packet, its text unzipped.
#[derive(Clone, PartialEq)]
pub struct Packet {
    /// Flags, without [`Flags::COMPRESSED`].
    pub flags: Flags,
    /// Number of the request, copied into its response; -1 for those outside any count.
    pub sequence: i64,
    /// Id of the server; -1 = whoever receives it.
    pub management: i64,
    /// Host id of the agent; -1 = not known yet.
    pub agent: i64,
    /// Id of the agent that the packet travels through; -1 = not known yet.
    pub via: i64,
    /// The JSON text.
    pub content: Vec<u8>,
}

/// Why bytes are not a packet.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// Fewer bytes than the header has.
    #[error("a packet of {0} bytes is shorter than its header")]
    Short(usize),
    /// Not the one version of this wire.
    #[error("version {0} of the packet is not known")]
    Version(u8),
    /// The announced length is negative or beyond the limit.
    #[error("the packet announces {announced} bytes of text; the limit is {limit}")]
    Limit {
        /// What the header says.
        announced: i32,
        /// Most bytes taken.
        limit: usize,
    },
    /// The announced length is not that of the text.
    #[error("the packet announces {announced} bytes of text but has {found}")]
    Length {
        /// What the header says.
        announced: usize,
        /// Bytes found; for zipped text at most one more than announced.
        found: usize,
    },
    /// The content is not zipped as its flag says.
    #[error("the zipped text cannot be read: {0}")]
    Zip(std::io::Error),
}

impl Packet {
    /// A packet with `messages` as its text.
    pub fn new(flags: Flags, sequence: i64, ids: Ids, messages: &[Message]) -> Self {
        Self {
            flags,
            sequence,
            management: ids.management,
            agent: ids.agent,
            via: ids.via,
            content: json::write(messages),
        }
    }

    /// The response of an agent to this request: sequence and ids copied (management channel 1.8).
    pub fn response(&self, answers: &[Message]) -> Self {
        let ids = Ids { management: self.management, agent: self.agent, via: self.via };
        Self::new(self.flags.answered(), self.sequence, ids, answers)
    }

    /// True for a request.
    pub fn is_request(&self) -> bool {
        self.flags.has(Flags::REQUEST)
    }

    /// The messages of the text.
    pub fn messages(&self) -> Result<Vec<Result<Message, MessageError>>, TextError> {
        json::parse(&self.content)
    }

    /// The bytes of the packet, the text zipped where it is long.
    pub fn encode(&self) -> Vec<u8> {
        let zipped = if self.content.len() >= COMPRESS_FROM { zip(&self.content) } else { None };
        let flags = match zipped {
            Some(_) => self.flags.with(Flags::COMPRESSED),
            None => self.flags.without(Flags::COMPRESSED),
        };
        let body = zipped.as_deref().unwrap_or(&self.content);
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&flags.0.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(self.content.len()).unwrap_or(u32::MAX).to_be_bytes());
        for id in [self.management, self.agent, self.via] {
            bytes.extend_from_slice(&id.to_be_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads a packet whose text has at most `limit` bytes, unzipped.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Self, PacketError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(PacketError::Short(bytes.len()));
        };
        if header[0] != 0 {
            return Err(PacketError::Version(header[0]));
        }
        let flags = Flags(u16::from_be_bytes([header[2], header[3]]));
        let announced = i32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= limit => length,
            _ => return Err(PacketError::Limit { announced, limit }),
        };
        let content = if flags.has(Flags::COMPRESSED) { unzip(body, length)? } else { body.to_vec() };
        if content.len() != length {
            return Err(PacketError::Length { announced: length, found: content.len() });
        }
        Ok(Self {
            flags: flags.without(Flags::COMPRESSED),
            sequence: number(header, 4),
            management: number(header, 16),
            agent: number(header, 24),
            via: number(header, 32),
            content,
        })
    }

    /// The packet as one log line, in the form that operators of the peer look for; no secrets.
    pub fn describe(&self, what: &str) -> String {
        let kind = if self.is_request() { "Cmd" } else { "Ans:" };
        let text = match self.messages() {
            Ok(messages) => redact::messages(messages.iter().filter_map(|item| item.as_ref().ok())),
            Err(error) => format!("({error})"),
        };
        format!(
            "Seq {}-{}: {what} {{ {kind} , MgmtId: {}, via: {}, Ver: v1, Flags: {:b}, {text} }}",
            self.agent, self.sequence, self.management, self.via, self.flags.0
        )
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe(""))
    }
}

/// The three ids of a packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Id of the server; -1 = whoever receives it.
    pub management: i64,
    /// Host id of the agent; -1 = not known yet.
    pub agent: i64,
    /// Id of the agent that the packet travels through.
    pub via: i64,
}

impl Ids {
    /// Those of an agent's request: any server, and its own id or -1.
    pub fn of_agent(id: Option<i64>) -> Self {
        let id = id.unwrap_or(-1);
        Self { management: -1, agent: id, via: id }
    }
}

fn number(header: &[u8; HEADER], at: usize) -> i64 {
    header[at..at + 8].iter().fold(0, |number, byte| (number << 8) | i64::from(*byte))
}

fn zip(content: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 4), Compression::default());
    encoder.write_all(content).ok()?;
    encoder.finish().ok()
}

/// Unzips at most one byte more than `length`, so that a wrong length shows and a bomb does not burst.
fn unzip(body: &[u8], length: usize) -> Result<Vec<u8>, PacketError> {
    let mut content = Vec::with_capacity(length.min(1024 * 1024));
    let most = u64::try_from(length).unwrap_or(u64::MAX).saturating_add(1);
    GzDecoder::new(body).take(most).read_to_end(&mut content).map_err(PacketError::Zip)?;
    Ok(content)
}
