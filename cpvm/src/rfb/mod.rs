//! The remote frame buffer protocol (RFC 6143), as far as the proxy speaks it itself: version,
//! security and initialisation, towards the [`hypervisor`] and towards the [`browser`]. What follows
//! is copied unread.

pub mod browser;
pub mod des;
pub mod hypervisor;
pub mod view;

/// A version that both ends of a handshake can speak (RFC 6143 7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The server decides on the security type and says nothing about its outcome.
    V3_3,
    /// The client picks from a list.
    V3_7,
    /// The outcome is always told, with a reason.
    V3_8,
}

impl Version {
    /// Bytes of a version message.
    pub const LENGTH: usize = 12;

    /// Reads a version message. Later versions count as 3.8, versions between as the one below.
    /// `None` where it is not one of RFB.
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let number = |digits: &[u8]| -> Option<u16> {
            digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
        };
        let (b"RFB ", b'.', b'\n') = (&bytes[..4], bytes[7], bytes[11]) else { return None };
        match (number(&bytes[4..7])?, number(&bytes[8..11])?) {
            (3, 8..) | (4..=5, _) => Some(Self::V3_8),
            (3, 7) => Some(Self::V3_7),
            (3, 3..) => Some(Self::V3_3),
            _ => None,
        }
    }

    /// The version message.
    pub fn message(self) -> &'static [u8; Self::LENGTH] {
        match self {
            Self::V3_3 => b"RFB 003.003\n",
            Self::V3_7 => b"RFB 003.007\n",
            Self::V3_8 => b"RFB 003.008\n",
        }
    }
}

/// The server's last word before the screen (RFC 6143 7.3.2): size, pixel format and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInit {
    /// Width and height, then the pixel format, as they stand on the wire.
    head: [u8; 20],
}

impl ServerInit {
    /// Bytes before the length of the name.
    pub const HEAD: usize = 20;

    /// From the bytes before the length of the name; the pixel format's padding becomes zero.
    pub fn new(mut head: [u8; Self::HEAD]) -> Self {
        head[17..].fill(0);
        Self { head }
    }

    /// A whole message with another pixel format; one that is too short stays as it is.
    pub fn with(message: &[u8], format: [u8; 16]) -> Vec<u8> {
        let mut message = message.to_vec();
        if let Some(place) = message.get_mut(4..Self::HEAD) {
            place.copy_from_slice(&format);
        }
        message
    }

    /// Width and height, pixels.
    pub fn size(&self) -> (usize, usize) {
        let number = |at: usize| usize::from(u16::from_be_bytes([self.head[at], self.head[at + 1]]));
        (number(0), number(2))
    }

    /// The message with another name.
    pub fn named(&self, name: &str) -> Vec<u8> {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        [&self.head[..], &length.to_be_bytes(), name.as_bytes()].concat()
    }
}

/// A reason as it goes over the wire: its length, then its text.
pub(crate) fn reason(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions() {
        for (text, wanted) in [
            (b"RFB 003.003\n", Some(Version::V3_3)),
            (b"RFB 003.005\n", Some(Version::V3_3)),
            (b"RFB 003.007\n", Some(Version::V3_7)),
            (b"RFB 003.008\n", Some(Version::V3_8)),
            (b"RFB 003.889\n", Some(Version::V3_8)),
            (b"RFB 004.001\n", Some(Version::V3_8)),
            (b"RFB 005.000\n", Some(Version::V3_8)),
            (b"RFB 002.002\n", None),
            (b"RFB 003.002\n", None),
            (b"RFB 006.000\n", None),
            (b"RFB +03.008\n", None),
            (b"RFB 003-008\n", None),
            (b"SSH-2.0-Open", None),
        ] {
            assert_eq!(Version::parse(text), wanted, "{text:?}");
        }
        for version in [Version::V3_3, Version::V3_7, Version::V3_8] {
            assert_eq!(Version::parse(version.message()), Some(version));
        }
    }

    #[test]
    fn server_init_gets_another_name() {
        let recorded = hex::decode("02d001902018000100ff00ff00ff1008000000000000000451454d55").unwrap();
        let init = ServerInit::new(recorded[..20].try_into().unwrap());
        for (name, wanted) in [
            ("web 01 ", "02d001902018000100ff00ff00ff1008000000000000000777656220303120"),
            (
                "web 01 (TLS backend)",
                "02d001902018000100ff00ff00ff100800000000000000147765622030312028544c53206261636b656e6429",
            ),
            (" ", "02d001902018000100ff00ff00ff1008000000000000000120"),
            ("日本 ", "02d001902018000100ff00ff00ff10080000000000000007e697a5e69cac20"),
        ] {
            assert_eq!(hex::encode(init.named(name)), wanted, "{name:?}");
        }
        let mut dirty: [u8; 20] = recorded[..20].try_into().unwrap();
        dirty[17..].fill(0xaa);
        assert_eq!(ServerInit::new(dirty), init);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_version_or_none(bytes in any::<[u8; 12]>()) {
            if let Some(version) = Version::parse(&bytes) {
                prop_assert!(version >= Version::V3_3);
            }
        }
    }
}
