//! The one attempt that a new root has.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Choice, RootsError, Running, io_at, write_last};
use crate::{paths::Paths, supervise};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the role was ready and its services have run for `settle`, and then keeps this root for
/// good. Returns whether it did within `limit`; where not, the machine must be restarted, and the first
/// stage goes back to the root before. A root that is not on trial is well.
///
/// # Errors
/// Where it cannot be written down.
pub fn confirm(paths: &Paths, settle: Duration, limit: Duration) -> Result<bool, RootsError> {
    let running = Running::load(paths)?;
    if !running.trial {
        return Ok(true);
    }
    let start = Instant::now();
    while !well(paths, settle) {
        if start.elapsed() >= limit {
            return Ok(false);
        }
        sleep(PAUSE);
    }
    let choice = Choice::settled(running.slot).block();
    write_last(&running.choice, &choice).map_err(|source| io_at(&running.choice, source))?;
    Ok(true)
}

/// The role has said that it is ready, and core and serve have been up for some time.
fn well(paths: &Paths, settle: Duration) -> bool {
    let steady = |name: &str| {
        supervise::status(paths, name).is_ok_and(|status| status.up && status.seconds >= settle.as_secs())
    };
    paths.boot_done().exists() && ["core", "serve"].into_iter().all(steady)
}
