//! The log of a process: lines on standard error, which the supervisor's logger stores within bounds and stamps with the time.

use tracing_subscriber::EnvFilter;

/// Starts the log. `TRIVIUM_LOG` chooses what is logged (`info`, `debug`, `common::channel=trace`);
/// without it, `info`. A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("TRIVIUM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only where a log was started before, which then stays in force.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .try_init();
}
