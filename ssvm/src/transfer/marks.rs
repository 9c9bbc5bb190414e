//! What a transfer knew at the ends of the parts of an object, until the service has them: another process can go on
//! there.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::{Algorithm, digest::Hasher};
use crate::{
    format::HEAD,
    store::{Checkpoint, Stored},
};

/// The checksum's computation at the ends of parts.
#[derive(Debug)]
pub(super) struct Marks {
    /// Bytes of a part; `None` where nothing is kept.
    part: Option<u64>,
    algorithm: Algorithm,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Offset and state, in their order.
    states: VecDeque<(u64, String)>,
    head: Option<String>,
}

/// Where a transfer goes on.
#[derive(Debug, Clone)]
pub(crate) struct Resumed {
    pub(crate) checkpoint: Checkpoint,
    /// The first bytes of the file, for the inspection.
    pub(crate) head: Vec<u8>,
}

/// The sum of a file's first bytes, which must be the same when it is gone on with.
pub(crate) fn sum_of_head(head: &[u8]) -> String {
    hex::encode(Sha256::digest(head))
}

impl Marks {
    pub(super) fn new(part: Option<u64>, algorithm: Algorithm) -> Self {
        Self { part, algorithm, inner: Mutex::default() }
    }

    /// Hashes bytes that begin at `offset`, and marks the ends of parts among them.
    pub(super) fn hash(&self, hasher: &mut Hasher, mut bytes: &[u8], mut offset: u64) {
        let Some(part) = self.part else { return hasher.update(bytes) };
        while !bytes.is_empty() {
            let left = usize::try_from(part - offset % part).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(left));
            hasher.update(now);
            offset += now.len() as u64;
            if offset.is_multiple_of(part) {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.states.push_back((offset, hasher.kept()));
            }
            bytes = later;
        }
    }

    /// The first bytes have been judged.
    pub(super) fn judged(&self, head: &[u8]) {
        if self.part.is_some() && head.len() >= HEAD {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.head.get_or_insert_with(|| sum_of_head(head));
        }
    }

    /// The service has these parts: what can be gone on with, if that is news.
    pub(super) fn reached(&self, stored: Stored) -> Option<Checkpoint> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = stored.bytes();
        inner.states.retain(|(offset, _)| *offset >= bytes);
        let state = inner.states.pop_front_if(|(offset, _)| *offset == bytes)?.1;
        Some(Checkpoint { stored, algorithm: self.algorithm, state, head: inner.head.clone()? })
    }
}
