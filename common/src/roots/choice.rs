//! Which root is started.

use std::fmt;

use super::BLOCK;

const MAGIC: &str = "trivium-choice 1";

/// One of the two places for a root; the partition is called `root-` and its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first, which the image comes with.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one beside it.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// By its letter.
    pub(super) fn parse(letter: &str) -> Option<Self> {
        match letter {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::A { "a" } else { "b" })
    }
}

/// What the first stage is to start. Its block is lines of `key=value` behind a line that names the
/// format, then zeros; one that is not like this counts as slot a and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The slot that is known to be well.
    pub active: Slot,
    /// The slot that is to be tried, or was.
    pub attempt: Option<Slot>,
    /// How many attempts are left, of one.
    pub left: u8,
    /// The slot of the last attempt that failed.
    pub failed: Option<Slot>,
}

impl Choice {
    /// Nothing but a slot that is well.
    pub fn settled(active: Slot) -> Self {
        Self { active, attempt: None, left: 0, failed: None }
    }

    /// Reads a block.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let text = block.split(|byte| *byte == 0).next()?;
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Self {
            active: Slot::parse(value("active")?)?,
            attempt: value("attempt").and_then(Slot::parse),
            left: value("left").and_then(|left| left.parse().ok()).unwrap_or(0),
            failed: value("failed").and_then(Slot::parse),
        })
    }

    /// Its block.
    pub fn block(&self) -> Vec<u8> {
        let mut text = format!("{MAGIC}\nactive={}\n", self.active);
        if let Some(slot) = self.attempt {
            text.push_str(&format!("attempt={slot}\nleft={}\n", self.left));
        }
        if let Some(slot) = self.failed {
            text.push_str(&format!("failed={slot}\n"));
        }
        let mut block = text.into_bytes();
        block.resize(BLOCK, 0);
        block
    }
}
