//! A beat: one datagram of which one side at least has a vote. It says which beat of the other side was heard last, so
//! that this one knows whether it is heard, too; to the manager one with a vote says as well when each host was heard.
//! It is JSON behind an HMAC-SHA256 with the key of the pair.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use serde::{Deserialize, Serialize};

/// Bytes of the HMAC.
const SUM: usize = 32;
/// Longest datagram: some 10 bytes for each host.
pub(crate) const LIMIT: usize = 32 * 1024;

/// What one says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Beat {
    /// Who says it.
    pub(crate) from: String,
    /// To whom.
    pub(crate) to: String,
    /// Which run of the sender this is; a later one has a greater number.
    pub(crate) run: u64,
    /// Number of the beat in this run.
    pub(crate) number: u64,
    /// Milliseconds since the run began.
    pub(crate) age: u64,
    /// Which list of votes the sender goes by.
    pub(crate) generation: String,
    /// Run and number of the last beat heard of the other side.
    pub(crate) heard: Option<(u64, u64)>,
    /// Milliseconds since each host was heard, in the order of [`super::Roll::hosts`]; -1 for one that never was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ages: Vec<i64>,
}

fn key(hex: &str) -> Key {
    Key::new(HMAC_SHA256, hex.as_bytes())
}

/// HMAC-SHA256 of a text, in hex.
pub(crate) fn sum(secret: &str, text: &str) -> String {
    hex::encode(sign(&key(secret), text.as_bytes()))
}

impl Beat {
    /// The datagram.
    pub(crate) fn write(&self, secret: &str) -> Vec<u8> {
        // A structure of texts and numbers can always be written.
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut datagram = sign(&key(secret), &body).as_ref().to_vec();
        datagram.extend(body);
        datagram
    }

    /// Who says that a datagram is theirs; nothing in it is known to be true.
    pub(crate) fn claimed(datagram: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct From {
            from: String,
        }
        let body = datagram.get(SUM..).filter(|body| body.len() <= LIMIT)?;
        serde_json::from_slice::<From>(body).ok().map(|claim| claim.from)
    }

    /// The beat in a datagram; `None` where it is none of the pair with that key.
    pub(crate) fn read(datagram: &[u8], secret: &str) -> Option<Self> {
        let (sum, body) = datagram.split_at_checked(SUM).filter(|(_, body)| body.len() <= LIMIT)?;
        verify(&key(secret), body, sum).ok()?;
        serde_json::from_slice(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beat() -> Beat {
        Beat {
            from: "h1".into(),
            to: "h2".into(),
            run: 7,
            number: 9,
            age: 9_000,
            generation: "g".into(),
            heard: Some((1, 2)),
            ages: vec![-1, 3],
        }
    }

    #[test]
    fn a_beat_is_read_with_the_key_of_the_pair_alone() {
        let datagram = beat().write("key");
        assert_eq!(Beat::claimed(&datagram).unwrap(), "h1");
        assert_eq!(Beat::read(&datagram, "key"), Some(beat()));
        assert_eq!(Beat::read(&datagram, "other"), None);
        for place in 0..datagram.len() {
            let mut bent = datagram.clone();
            bent[place] ^= 1;
            assert_eq!(Beat::read(&bent, "key"), None, "byte {place}");
        }
        assert_eq!(Beat::read(&datagram[..SUM], "key"), None);
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes: Vec<u8>) {
            prop_assert_eq!(Beat::read(&bytes, "key"), None);
            let _ = Beat::claimed(&bytes);
        }
    }
}
