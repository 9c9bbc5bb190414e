//! The privileged half of the router.

use common::paths::Paths;

/// Why the core could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for sockets cannot be made.
    #[error("Cannot create {path}: {source}")]
    Run {
        /// The folder.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Runs until the service is stopped.
pub fn run(paths: &Paths) -> Result<(), Error> {
    std::fs::create_dir_all(paths.run()).map_err(|source| Error::Run { path: paths.run(), source })
}
