//! Memory that all transfers of a worker share: whoever wants more waits for others to be done.

use std::sync::{Arc, LazyLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one unit.
const UNIT: u64 = 1024 * 1024;
/// Units in all: 256 MiB.
const UNITS: u32 = 256;

static UNITS_LEFT: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(UNITS as usize)));

/// Waits for room for a buffer of `bytes`; a buffer larger than everything takes everything. The
/// room is given back when the permit is dropped.
pub(crate) async fn reserve(bytes: u64) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(UNITS).clamp(1, UNITS);
    // The semaphore is never closed, so there always is a permit in the end.
    Arc::clone(&UNITS_LEFT).acquire_many_owned(units).await.ok()
}
