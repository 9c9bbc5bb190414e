//! Memory that all transfers of a process share: 128 MiB of buffers, which are used again and again. Whoever wants
//! more waits for others to be done.
//!
//! A transfer takes a [`Lane`] first, with all the small buffers that it will ever have under way. Then it may wait
//! for large ones, for the parts of objects. Nobody who has a large one waits for anything of the budget before it is
//! given back, so that no transfer waits for itself.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a small buffer.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Small buffers of a lane: one is filled, one waits, one is written.
const CHUNKS: usize = 3;
/// Transfers at once; their small buffers take 42 MiB.
const LANES: usize = 56;
/// Room for large buffers, in units of 1 MiB.
const PARTS: u32 = 62;
const UNIT: u64 = 1024 * 1024;
/// Bytes of a piece that is fetched beside others of the same file, and their number.
pub(crate) const PIECE: usize = 2 * 1024 * 1024;
const PIECES: usize = 12;

const _: () = assert!(LANES * CHUNKS * CHUNK + ((PARTS as usize) << 20) + PIECES * PIECE == 128 << 20);

static LANES_LEFT: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LANES)));
static PARTS_LEFT: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(PARTS as usize)));
static PIECES_LEFT: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(PIECES)));
/// Buffers that nobody uses, by their length.
static IDLE: LazyLock<Mutex<HashMap<usize, Vec<Vec<u8>>>>> = LazyLock::new(Mutex::default);

/// A buffer of the budget. Its memory and its room are given back when it and all that was made of it are dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    _room: Room,
}

/// A share of the budget. The semaphores are never closed, so that there always is a permit in the end.
type Room = Option<Arc<OwnedSemaphorePermit>>;

impl Buffer {
    fn new(length: usize, room: Room) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = idle.get_mut(&length).and_then(Vec::pop).unwrap_or_else(|| {
            // Parts of another length leave room for those that are wanted now.
            idle.retain(|length, _| matches!(*length, CHUNK | PIECE));
            Vec::with_capacity(length)
        });
        Self { bytes, length, _room: room }
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// Takes as many of the bytes as fit; they are gone from `bytes` then.
    pub(crate) fn take(&mut self, bytes: &mut Bytes) {
        let part = bytes.split_to(bytes.len().min(self.room()));
        self.bytes.extend_from_slice(&part);
    }

    /// To be read into; no more than [`Buffer::room`].
    pub(super) fn target(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is in it.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).entry(self.length).or_default().push(bytes);
    }
}

/// The right to move one file.
#[derive(Debug)]
pub(crate) struct Lane(Room);

impl Lane {
    /// A small buffer.
    pub(crate) fn chunk(&self) -> Buffer {
        Buffer::new(CHUNK, self.0.clone())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nothing is under way any more: the machine may have the memory back.
        if LANES_LEFT.available_permits() + 1 >= LANES {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// Waits for a lane.
pub(crate) async fn lane() -> Lane {
    Lane(Arc::clone(&LANES_LEFT).acquire_owned().await.ok().map(Arc::new))
}

/// Units of a large buffer; one that is larger than everything takes everything.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(PARTS).clamp(1, PARTS)
}

/// Waits for a large buffer.
pub(crate) async fn part(bytes: u64) -> Buffer {
    let permit = Arc::clone(&PARTS_LEFT).acquire_many_owned(units(bytes)).await.ok();
    Buffer::new(usize::try_from(bytes).unwrap_or(usize::MAX), permit.map(Arc::new))
}

/// A buffer for a piece if there is room for it now. Nobody waits for one: who has it may wait for a large one.
pub(crate) fn piece() -> Option<Buffer> {
    let permit = Arc::clone(&PIECES_LEFT).try_acquire_owned().ok()?;
    Some(Buffer::new(PIECE, Some(Arc::new(permit))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_buffer_takes_what_fits_and_gives_its_room_back_at_last() {
        let lane = lane().await;
        let mut buffer = lane.chunk();
        let mut bytes = Bytes::from(vec![7; CHUNK + 3]);
        buffer.take(&mut bytes);
        assert_eq!((bytes.len(), buffer.room()), (3, 0));
        let frozen = buffer.freeze();
        let clone = frozen.slice(1..);
        drop(frozen);
        assert!(clone.iter().all(|b| *b == 7) && clone.len() == CHUNK - 1);
    }

    #[test]
    fn units_of_parts() {
        assert_eq!([1, UNIT, UNIT + 1, u64::MAX].map(units), [1, 1, 2, PARTS]);
    }
}
