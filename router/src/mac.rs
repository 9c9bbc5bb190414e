//! Ethernet addresses.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An Ethernet address; written as six pairs of lower-case hexadecimal digits with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address (six pairs of hexadecimal digits with colons)")]
pub struct MacError;

impl Mac {
    /// The identifier that a NIC makes for itself (RFC 4291 appendix A).
    pub fn identifier(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The NIC that has made such an identifier.
    pub fn of_identifier(identifier: u64) -> Option<Self> {
        match identifier.to_be_bytes() {
            [a, b, c, 0xff, 0xfe, d, e, f] => Some(Self([a ^ 2, b, c, d, e, f])),
            _ => None,
        }
    }

    /// The address that its NIC makes for itself, known on its link alone (RFC 4862 5.3).
    pub fn link_local(self) -> Ipv6Addr {
        link_local(self.identifier())
    }
}

/// The link-local address of an identifier.
pub fn link_local(identifier: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(identifier))
}

impl FromStr for Mac {
    type Err = MacError;

    /// Takes either case, and `-` for `:`.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() { Err(MacError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_in_either_case() {
        let mac: Mac = "02:01:00:CC:00:09".parse().unwrap();
        assert_eq!(mac.to_string(), "02:01:00:cc:00:09");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("02-01-00-cc-00-09".parse(), Ok(mac));
    }

    #[test]
    fn an_address_comes_from_it_and_leads_back() {
        let mac = Mac([2, 1, 0, 0xcc, 0, 9]);
        assert_eq!(mac.link_local().to_string(), "fe80::1:ff:fecc:9");
        assert_eq!(Mac::of_identifier(mac.identifier()), Some(mac));
        assert_eq!(Mac::of_identifier(1), None);
    }

    #[test]
    fn refuses_what_is_not_six_pairs() {
        for bad in [
            "",
            "02:01:00:cc:00",
            "02:01:00:cc:00:09:11",
            "2:1:0:c:0:9",
            "02:01:00:cc:00:+9",
            "g2:01:00:cc:00:09",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(MacError), "{bad}");
        }
    }
}
