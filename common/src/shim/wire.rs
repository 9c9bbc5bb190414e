//! The socket between the shim and a role's core: one request, one reply, both a 4-byte
//! big-endian length and a JSON object. It lies at [`crate::paths::Paths::core_socket`].

use serde::{Deserialize, Serialize};

/// Longest request or reply in bytes.
pub const LIMIT: usize = 64 * 1024 * 1024;

/// A command line of the contract, already split into words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Base name of the command (`update_config.py`, `status`), then its arguments.
    pub words: Vec<String>,
}

/// What the shim prints, and its exit code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Written to standard output, in one write.
    pub stdout: String,
    /// Written to standard error, in one write.
    pub stderr: String,
    /// Exit code.
    pub code: u8,
}
