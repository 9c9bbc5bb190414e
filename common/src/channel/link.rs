//! Link frames: a clear 4-byte header before each chunk of whole TLS records
//! (management channel 1.4).

/// Bytes of the header.
pub const HEADER: usize = 4;
/// Most bytes of payload in one frame.
pub const MAX_PAYLOAD: usize = 18_000;
/// Bytes of a TLS record's own header.
pub const RECORD_HEADER: usize = 5;
/// More frames belong to the same packet.
const FOLLOWING: u32 = 0x0001_0000;
const LENGTH: u32 = 0x0000_ffff;

/// Why bytes are not frames of whole records.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    /// The header announces more than a frame may have.
    #[error("a frame announces {0} bytes; the limit is {MAX_PAYLOAD}")]
    TooLong(usize),
    /// A TLS record stands where a frame should: the peer closes, or does not frame.
    #[error("a TLS record (type {0}) without a frame around it")]
    Unframed(u8),
    /// The payload ends inside a record.
    #[error("a frame ends inside a TLS record")]
    PartialRecord,
    /// The frames of one packet grow beyond the limit.
    #[error("a packet is longer than {0} bytes")]
    PacketTooLong(usize),
    /// The connection ended inside a frame or packet.
    #[error("the connection ended inside a packet")]
    Truncated,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload.
    pub length: usize,
    /// More frames belong to the same packet.
    pub following: bool,
}

impl FrameHeader {
    /// Reads a header. Bits without a meaning are ignored, except where they make it the
    /// beginning of a TLS record.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, LinkError> {
        if matches!(bytes, [0x14..=0x17, 0x03, 0x00..=0x04, _]) {
            return Err(LinkError::Unframed(bytes[0]));
        }
        let header = u32::from_be_bytes(bytes);
        let length = (header & LENGTH) as usize;
        if length > MAX_PAYLOAD {
            return Err(LinkError::TooLong(length));
        }
        Ok(Self { length, following: header & FOLLOWING != 0 })
    }

    /// The bytes of the header; `length` is at most [`MAX_PAYLOAD`].
    pub fn encode(self) -> [u8; HEADER] {
        let flag = if self.following { FOLLOWING } else { 0 };
        ((self.length as u32 & LENGTH) | flag).to_be_bytes()
    }
}

/// Puts a frame around each record of `records`, the output of the TLS engine for a packet, or for
/// the part of one that more is `following`.
pub fn frame(records: &[u8], following: bool) -> Result<Vec<u8>, LinkError> {
    let mut framed = Vec::with_capacity(records.len() + records.len() / 4096 + 2 * HEADER);
    let mut list = Records(records).peekable();
    while let Some(record) = list.next() {
        let record = record?;
        if record.len() > MAX_PAYLOAD {
            return Err(LinkError::TooLong(record.len()));
        }
        let header = FrameHeader { length: record.len(), following: following || list.peek().is_some() };
        framed.extend_from_slice(&header.encode());
        framed.extend_from_slice(record);
    }
    Ok(framed)
}

/// Cuts the output of a TLS engine, or the payload of a frame, into its records.
#[derive(Debug, Clone)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], LinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let whole = match *self.0 {
            [_, _, _, high, low, ..] => RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])),
            _ => usize::MAX,
        };
        match self.0.split_at_checked(whole) {
            Some((record, rest)) => {
                self.0 = rest;
                Some(Ok(record))
            }
            None => {
                self.0 = &[];
                Some(Err(LinkError::PartialRecord))
            }
        }
    }
}

/// One frame as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whole TLS records.
    pub payload: Vec<u8>,
    /// More frames belong to the same packet.
    pub following: bool,
}

/// Collects bytes in any portion and gives whole frames.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
}

impl Deframer {
    /// Adds bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or none where more bytes are needed. After an error the connection
    /// is of no use any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, LinkError> {
        let bytes = &self.buffer[self.start..];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = FrameHeader::decode(*header)?;
        let Some(payload) = rest.get(..header.length) else {
            return Ok(None);
        };
        let frame = Frame { payload: payload.to_vec(), following: header.following };
        self.start += HEADER + header.length;
        Ok(Some(frame))
    }

    /// True where no byte is left over, so that the connection may end here.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}
