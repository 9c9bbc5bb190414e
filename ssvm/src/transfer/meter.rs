//! How far a transfer is; written by the pipeline, read by whoever reports.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::store::{Checkpoint, Origin};

/// What a transfer is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Bytes arrive.
    Transfer,
    /// All bytes have arrived.
    Install,
}

/// Counters of one transfer; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    /// 0 while unknown.
    total: AtomicU64,
    installing: AtomicBool,
    origin: OnceLock<Origin>,
    checkpoint: Mutex<Option<Checkpoint>>,
}

impl Meter {
    /// So many bytes are expected.
    pub(crate) fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// So many more bytes have arrived.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes are stored as they come, and come from here.
    pub(crate) fn comes_from(&self, origin: Origin) {
        // A transfer has one source.
        let _ = self.0.origin.set(origin);
    }

    /// Where the bytes come from, if they are stored as they come.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.0.origin.get().cloned()
    }

    /// So much is stored that another process could go on with.
    pub(crate) fn keep(&self, checkpoint: Checkpoint) {
        *self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
    }

    /// What another process could go on with.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All bytes have arrived.
    pub(crate) fn installing(&self) {
        self.0.installing.store(true, Ordering::Relaxed);
    }

    /// Bytes that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Bytes that are expected, where that is known.
    pub(crate) fn total(&self) -> Option<u64> {
        match self.0.total.load(Ordering::Relaxed) {
            0 => None,
            total => Some(total),
        }
    }

    /// What the transfer is busy with.
    pub(crate) fn phase(&self) -> Phase {
        if self.0.installing.load(Ordering::Relaxed) { Phase::Install } else { Phase::Transfer }
    }
}
