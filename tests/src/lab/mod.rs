//! Guards for the things a scenario needs on the machine it runs on.

pub mod cpvm;
pub mod documents;
mod namespace;
pub mod pair;
mod process;
pub mod ssvm;
mod trace;
pub mod vm;

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub use namespace::{Namespace, join};
pub use process::Process;
pub use trace::{Trace, Work};

/// A word that no other running test process uses: the process id and a counter.
pub fn run_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One of our binaries, built by the same `cargo` profile as the test that asks.
///
/// # Panics
/// When it has not been built: `cargo build --release` comes first.
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test");
    // Tests lie one folder deeper than programs.
    let dir = exe.parent().expect("target folder");
    let path = if dir.ends_with("deps") { dir.with_file_name(name) } else { dir.join(name) };
    assert!(path.exists(), "{} is not built: run cargo build --release first", path.display());
    path
}

/// Waits until `ready` says yes, asking every 20 ms.
///
/// # Panics
/// When `limit` has passed; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until something accepts TCP connections at `address` (of the test's own namespace).
pub fn wait_tcp(address: SocketAddr, limit: Duration) {
    wait_until(&format!("TCP {address}"), limit, || {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    });
}
