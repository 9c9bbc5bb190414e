//! The websocket protocol (RFC 6455) as a server speaks it. It holds no buffer of its own: bytes of the browser are
//! unmasked where they lie, and a frame to the browser is a few bytes before a payload that lies ready.

use crate::end::End;

/// Longest payload of a frame from a browser, in bytes.
pub const FRAME_LIMIT: usize = 64 * 1024;
/// Bytes of the longest head of a frame to the browser.
pub const HEAD: usize = 10;
/// Longest payload of a control frame (5.5).
const CONTROL_LIMIT: usize = 125;

/// What a frame is (5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before it.
    Continuation = 0,
    /// Text, which no console has.
    Text = 1,
    /// Bytes of the console.
    Binary = 2,
    /// Good-bye.
    Close = 8,
    /// Are you there?
    Ping = 9,
    /// Yes.
    Pong = 10,
}

impl Opcode {
    fn of(number: u8) -> Option<Self> {
        [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong]
            .into_iter()
            .find(|opcode| *opcode as u8 == number)
    }
}

/// The head of an unfragmented frame to the browser: its bytes are the last `length` of the room.
pub fn head(opcode: Opcode, payload: usize) -> ([u8; HEAD], usize) {
    let mut room = [0; HEAD];
    let first = 0x80 | opcode as u8;
    let length = match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short @ ..=125), _) => {
            room[HEAD - 2..].copy_from_slice(&[first, short]);
            2
        }
        (_, Ok(middle)) => {
            room[HEAD - 4..HEAD - 2].copy_from_slice(&[first, 126]);
            room[HEAD - 2..].copy_from_slice(&middle.to_be_bytes());
            4
        }
        _ => {
            room[..2].copy_from_slice(&[first, 127]);
            room[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            HEAD
        }
    };
    (room, length)
}

/// Appends a whole frame.
pub fn append(frames: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (room, length) = head(opcode, payload.len());
    frames.extend_from_slice(&room[HEAD - length..]);
    frames.extend_from_slice(payload);
}

/// What a portion of a browser's bytes was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the console, which now stand at the front of the portion.
    pub data: usize,
    /// How the browser has ended the session, after those bytes.
    pub end: Option<End>,
}

/// Reads a browser's frames, however they are cut into portions.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of a head that is not whole yet.
    head: [u8; 14],
    have: usize,
    frame: Option<Frame>,
    /// Whether a message has begun and not ended.
    fragmented: bool,
    /// What has come of a control frame.
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    mask: [u8; 4],
    at: usize,
    left: usize,
}

impl Decoder {
    /// Takes a portion. Answers to pings are appended to `replies`.
    pub fn decode(&mut self, bytes: &mut [u8], replies: &mut Vec<u8>) -> Decoded {
        let (mut from, mut data) = (0, 0);
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => {
                    let Some(byte) = bytes.get(from) else { return Decoded { data, end: None } };
                    self.head[self.have] = *byte;
                    self.have += 1;
                    from += 1;
                    match self.begin() {
                        Ok(Some(frame)) => frame,
                        Ok(None) => continue,
                        Err(end) => return Decoded { data, end: Some(end) },
                    }
                }
            };
            let count = frame.left.min(bytes.len() - from);
            let part = &mut bytes[from..from + count];
            for (index, byte) in part.iter_mut().enumerate() {
                *byte ^= frame.mask[(frame.at + index) & 3];
            }
            if matches!(frame.opcode, Opcode::Binary | Opcode::Continuation) {
                bytes.copy_within(from..from + count, data);
                data += count;
            } else {
                self.control.extend_from_slice(part);
            }
            from += count;
            let left = frame.left - count;
            self.frame = (left > 0).then_some(Frame { at: frame.at + count, left, ..frame });
            if left > 0 {
                return Decoded { data, end: None };
            }
            let control = std::mem::take(&mut self.control);
            match frame.opcode {
                Opcode::Ping => append(replies, Opcode::Pong, &control),
                Opcode::Close if control.len() == 1 => {
                    return Decoded { data, end: Some(End::BrowserProtocol) };
                }
                Opcode::Close => return Decoded { data, end: Some(End::BrowserClosed) },
                _ => {}
            }
        }
    }

    /// The frame whose head is whole now.
    fn begin(&mut self) -> Result<Option<Frame>, End> {
        if self.have < 2 {
            return Ok(None);
        }
        let (first, second) = (self.head[0], self.head[1]);
        let opcode = Opcode::of(first & 0x0f).filter(|_| first & 0x70 == 0).ok_or(End::BrowserProtocol)?;
        let last = first & 0x80 != 0;
        let control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        let fits = if control { last } else { self.fragmented == (opcode == Opcode::Continuation) };
        // Every frame of a browser is masked (5.3).
        if !fits || second & 0x80 == 0 {
            return Err(End::BrowserProtocol);
        }
        if opcode == Opcode::Text {
            return Err(End::BrowserText);
        }
        let more = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + more + 4 {
            return Ok(None);
        }
        let length = match more {
            0 => u64::from(second & 0x7f),
            _ => self.head[2..2 + more].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if control && length > CONTROL_LIMIT as u64 {
            return Err(End::BrowserProtocol);
        }
        let left = usize::try_from(length).ok().filter(|left| *left <= FRAME_LIMIT);
        let left = left.ok_or(End::BrowserTooBig)?;
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.head[2 + more..2 + more + 4]);
        self.have = 0;
        if !control {
            self.fragmented = !last;
        }
        Ok(Some(Frame { opcode, mask, at: 0, left }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame as Peer, FrameHeader,
        coding::{Control, Data, OpCode},
    };

    use super::*;

    /// A frame as a browser sends it.
    pub(crate) fn masked(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![if last { 0x80 } else { 0 } | opcode];
        match payload.len() {
            short @ ..=125 => frame.push(0x80 | short as u8),
            middle @ ..=65535 => {
                frame.push(0x80 | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        frame.extend(mask);
        frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at & 3]));
        frame
    }

    /// All data, all replies and the end, with the bytes cut into portions.
    fn decoded(bytes: &[u8], portion: usize) -> (Vec<u8>, Vec<u8>, Option<End>) {
        let (mut decoder, mut data, mut replies) = (Decoder::default(), vec![], vec![]);
        for part in bytes.chunks(portion.max(1)) {
            let mut part = part.to_vec();
            let found = decoder.decode(&mut part, &mut replies);
            data.extend_from_slice(&part[..found.data]);
            if found.end.is_some() {
                return (data, replies, found.end);
            }
        }
        (data, replies, None)
    }

    #[test]
    fn heads_are_those_that_another_implementation_writes() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
            for (ours, theirs) in [
                (Opcode::Binary, OpCode::Data(Data::Binary)),
                (Opcode::Pong, OpCode::Control(Control::Pong)),
                (Opcode::Close, OpCode::Control(Control::Close)),
            ] {
                let mut wanted = Vec::new();
                let header = FrameHeader { opcode: theirs, ..FrameHeader::default() };
                header.format(length, &mut wanted).unwrap();
                let (room, count) = head(ours, length as usize);
                assert_eq!(room[HEAD - count..], wanted, "{length}");
            }
        }
        let mut wanted = Vec::new();
        Peer::message(b"RFB".to_vec(), OpCode::Data(Data::Binary), true).format(&mut wanted).unwrap();
        let mut frames = Vec::new();
        append(&mut frames, Opcode::Binary, b"RFB");
        assert_eq!(frames, wanted);
    }

    #[test]
    fn messages_in_fragments_with_pings_between_them_are_one_stream() {
        let bytes = [
            masked(2, false, b"RFB "),
            masked(9, true, b"are you there"),
            masked(0, false, b""),
            masked(10, true, b"x"),
            masked(0, true, b"003.008\n"),
            masked(2, true, &[7; 300]),
            masked(8, true, &[3, 0xe8]),
        ]
        .concat();
        for portion in [1, 2, 3, 7, 64, 10_000] {
            let (data, replies, end) = decoded(&bytes, portion);
            assert_eq!(data, [b"RFB 003.008\n".to_vec(), vec![7; 300]].concat());
            assert_eq!(replies, b"\x8a\x0dare you there");
            assert_eq!(end, Some(End::BrowserClosed));
        }
    }

    #[test]
    fn what_breaks_the_protocol_ends_it_by_its_name() {
        let mut unmasked = masked(2, true, b"x");
        unmasked[1] &= 0x7f;
        let mut reserved = masked(2, true, b"x");
        reserved[0] |= 0x40;
        let huge = [&[0x82, 0xff][..], &[0xff; 8], &[0; 4]].concat();
        for (bytes, wanted) in [
            (unmasked, End::BrowserProtocol),
            (reserved, End::BrowserProtocol),
            (masked(3, true, b""), End::BrowserProtocol),
            (masked(0, true, b"x"), End::BrowserProtocol),
            ([masked(2, false, b"x"), masked(2, true, b"y")].concat(), End::BrowserProtocol),
            (masked(9, false, b"x"), End::BrowserProtocol),
            (masked(9, true, &[0; 126]), End::BrowserProtocol),
            (masked(8, true, &[3]), End::BrowserProtocol),
            (masked(1, true, b"text"), End::BrowserText),
            (masked(2, true, &vec![0; FRAME_LIMIT + 1]), End::BrowserTooBig),
            (huge, End::BrowserTooBig),
        ] {
            assert_eq!(decoded(&bytes, 5).2, Some(wanted), "{bytes:02x?}");
        }
        assert_eq!(decoded(&masked(2, true, &vec![1; FRAME_LIMIT]), 4096).0.len(), FRAME_LIMIT);
    }

    proptest! {
        #[test]
        fn portions_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..400), portion in 1_usize..50) {
            prop_assert_eq!(decoded(&bytes, portion), decoded(&bytes, bytes.len()));
        }

        #[test]
        fn what_is_sent_arrives(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            portion in 1_usize..400,
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| masked(2, true, part)).collect();
            prop_assert_eq!(decoded(&bytes, portion), (parts.concat(), vec![], None));
        }
    }
}
