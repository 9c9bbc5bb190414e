//! What a viewer may send who may only look (RFC 6143 7.5): how the picture is wanted, and nothing that reaches the
//! machine. Messages are told apart by their lengths; one of unknown length ends the session.

use crate::end::End;

/// Reads the messages of a browser, however they are cut into portions, and leaves out those that the machine
/// would notice.
#[derive(Debug, Default)]
pub struct ViewOnly {
    /// The beginning of a message whose length is not known yet.
    start: Vec<u8>,
    /// Bytes that are still to come of the message.
    left: usize,
    /// Whether it goes through.
    passes: bool,
    /// The last SetPixelFormat, as far as it has come.
    format: Vec<u8>,
}

/// What the beginning of a message says.
enum Length {
    /// All of its bytes, and whether it goes through.
    Whole(usize, bool),
    /// More bytes are needed to know.
    Unknown,
}

/// Longest message of a viewer, in bytes.
const LIMIT: usize = 1024 * 1024;

fn length(start: &[u8]) -> Option<Length> {
    let number = |at: usize, bytes: usize| {
        let part = start.get(at..at + bytes)?;
        Some(part.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte)))
    };
    let counted = |needs: usize, at: usize, bytes: usize, base: usize, each: usize, passes| {
        let count = number(at, bytes).filter(|_| start.len() >= needs);
        count.map_or(Length::Unknown, |count| Length::Whole(base + each * count, passes))
    };
    Some(match *start.first()? {
        // SetPixelFormat, SetEncodings, FramebufferUpdateRequest.
        0 => Length::Whole(20, true),
        2 => counted(4, 2, 2, 4, 4, true),
        3 => Length::Whole(10, true),
        // Keys and the pointer.
        4 => Length::Whole(8, false),
        5 => Length::Whole(6, false),
        // The clipboard; of its extended form the length is negative.
        6 => match number(4, 4) {
            None => Length::Unknown,
            Some(length) => {
                let signed = u32::try_from(length).ok()?.cast_signed();
                Length::Whole(8 + usize::try_from(signed.unsigned_abs()).ok()?, false)
            }
        },
        // Keys as VMware has them.
        127 => Length::Whole(8, false),
        // Continuous updates and their fence.
        150 => Length::Whole(10, true),
        248 => counted(9, 8, 1, 9, 1, true),
        // Power, size of the screen.
        250 => Length::Whole(4, false),
        251 => counted(8, 6, 1, 8, 16, false),
        // QEMU: keys, sound.
        255 => match start.get(1) {
            None => Length::Unknown,
            Some(0) => Length::Whole(12, false),
            Some(1) => match number(2, 2) {
                None => Length::Unknown,
                Some(2) => Length::Whole(10, false),
                Some(_) => Length::Whole(4, false),
            },
            Some(_) => return None,
        },
        _ => return None,
    })
}

/// Bytes of a SetPixelFormat (7.5.1), of which the last 16 are the format.
const FORMAT: usize = 20;

impl ViewOnly {
    /// How the viewer wants pixels (7.4), once it has said so.
    pub fn format(&self) -> Option<[u8; 16]> {
        self.format.get(4..FORMAT)?.try_into().ok()
    }

    /// Appends to `through` what of these bytes may go through.
    ///
    /// # Errors
    /// [`End::BrowserProtocol`] where a message is of an unknown kind or too long.
    pub fn pass(&mut self, mut bytes: &[u8], through: &mut Vec<u8>) -> Result<(), End> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count = self.left.min(bytes.len());
                if self.passes {
                    through.extend_from_slice(&bytes[..count]);
                }
                if !self.format.is_empty() && self.format.len() + self.left == FORMAT {
                    self.format.extend_from_slice(&bytes[..count]);
                }
                self.left -= count;
                bytes = &bytes[count..];
                continue;
            }
            self.start.push(*first);
            bytes = rest;
            match length(&self.start).ok_or(End::BrowserProtocol)? {
                Length::Unknown => {}
                Length::Whole(whole, _) if whole > LIMIT => return Err(End::BrowserProtocol),
                Length::Whole(whole, passes) => {
                    if passes {
                        through.extend_from_slice(&self.start);
                    }
                    (self.left, self.passes) = (whole - self.start.len(), passes);
                    if self.start[0] == 0 {
                        self.format.clone_from(&self.start);
                    }
                    self.start.clear();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(bytes: &[u8], portion: usize) -> Result<Vec<u8>, End> {
        let (mut filter, mut through) = (ViewOnly::default(), Vec::new());
        for part in bytes.chunks(portion) {
            filter.pass(part, &mut through)?;
        }
        Ok(through)
    }

    const FORMAT: [u8; 20] = [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    const REQUEST: [u8; 10] = [3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90];

    #[test]
    fn the_picture_may_be_asked_for_and_nothing_reaches_the_machine() {
        let encodings = [&[2, 0, 0, 2][..], &[0, 0, 0, 7], &[0xff, 0xff, 0xfe, 0xc7]].concat();
        let fence = [&[248, 0, 0, 0, 0x80, 0, 0, 1, 3][..], b"abc"].concat();
        let silent: [&[u8]; 10] = [
            &[4, 1, 0, 0, 0, 0, 0, 0x61],
            &[5, 1, 0, 9, 0, 9],
            &[6, 0, 0, 0, 0, 0, 0, 3, b'x', b'y', b'z'],
            &[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc, 1, 0, 0, 0],
            &[127, 0, 0, 8, 0, 30, 1, 0],
            &[250, 0, 1, 2],
            &[251, 0, 4, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0, 0],
            &[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30],
            &[255, 1, 0, 0],
            &[255, 1, 0, 2, 0, 1, 0, 0, 0xac, 0x44],
        ];
        let loud: [&[u8]; 5] =
            [&FORMAT, &encodings, &fence, &REQUEST, &[150, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90]];
        let mut all = Vec::new();
        for round in 0..10 {
            all.extend_from_slice(silent[round]);
            all.extend_from_slice(loud[round % 5]);
        }
        let wanted = [loud.concat(), loud.concat()].concat();
        for portion in [1, 2, 3, 11, 1000] {
            assert_eq!(passed(&all, portion), Ok(wanted.clone()), "{portion}");
        }
    }

    #[test]
    fn messages_of_unknown_or_absurd_length_end_the_session() {
        for bytes in [&[7_u8][..], &[255, 9], &[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]] {
            assert_eq!(passed(bytes, 1), Err(End::BrowserProtocol), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_format_of_pixels_is_known() {
        let (mut filter, mut other) = (ViewOnly::default(), FORMAT);
        other[4] = 16;
        for bytes in [[4_u8, 1, 0, 0, 0, 0, 0, 0x61].as_slice(), &FORMAT[..7], &FORMAT[7..19]] {
            filter.pass(bytes, &mut Vec::new()).unwrap();
            assert_eq!(filter.format(), None);
        }
        filter.pass(&[FORMAT[19], 3], &mut Vec::new()).unwrap();
        assert_eq!(filter.format().unwrap(), FORMAT[4..]);
        filter.pass(&REQUEST[1..], &mut Vec::new()).unwrap();
        filter.pass(&other, &mut Vec::new()).unwrap();
        assert_eq!(filter.format().unwrap(), other[4..]);
    }

    proptest! {
        #[test]
        fn portions_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 1..300), portion in 1_usize..40) {
            prop_assert_eq!(passed(&bytes, portion), passed(&bytes, bytes.len()));
        }
    }
}
