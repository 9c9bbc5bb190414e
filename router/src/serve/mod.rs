//! The sandboxed half of the router: answers guests from the snapshots that core hands over.

pub mod sockets;

use common::paths::Paths;

/// Why serve could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The core does not answer on its socket.
    #[error("Cannot reach the core at {path}: {source}")]
    Core {
        /// The socket.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Runs until the service is stopped.
pub fn run(paths: &Paths) -> Result<(), Error> {
    let path = paths.serve_socket();
    std::os::unix::net::UnixStream::connect(&path).map(drop).map_err(|source| Error::Core { path, source })
}
