//! The socket between the shim and a role's core: one request, one reply, both a 4-byte
//! big-endian length and a JSON object. It lies at [`crate::paths::Paths::core_socket`].

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::paths::Paths;

/// Longest request or reply in bytes.
pub const LIMIT: usize = 64 * 1024 * 1024;

/// A command line of the contract, already split into words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Base name of the command (`update_config.py`, `status`), then its arguments.
    pub words: Vec<String>,
}

impl Request {
    /// A request of these words.
    pub fn new<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect() }
    }
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

impl Reply {
    /// Success with this standard output, which may be empty.
    pub fn ok(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    /// Failure: one line of text on standard error, and an exit code that is not 0.
    pub fn fail(code: u8, text: impl std::fmt::Display) -> Self {
        Self { stderr: format!("{text}\n"), code, ..Self::default() }
    }
}

/// Why a message did not go through the socket.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket said no, or the other end went away or was too slow.
    #[error("socket of the core: {0}")]
    Io(#[from] io::Error),
    /// A message is longer than [`LIMIT`].
    #[error("a message of {0} bytes is longer than {LIMIT}")]
    TooLong(usize),
    /// The bytes are not the JSON object they should be.
    #[error("a message cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Puts a message into bytes, length first.
///
/// # Errors
/// Where it is longer than [`LIMIT`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|l| *l as usize <= LIMIT);
    let length = length.ok_or(WireError::TooLong(body.len()))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Checks the length before a message.
///
/// # Errors
/// Where it is longer than [`LIMIT`].
pub fn length(head: [u8; 4]) -> Result<usize, WireError> {
    let length = u32::from_be_bytes(head) as usize;
    if length <= LIMIT { Ok(length) } else { Err(WireError::TooLong(length)) }
}

/// The shim's side: sends one request to the core and waits for its reply, at most `limit`.
///
/// # Errors
/// Where the core is not there, breaks off or takes longer.
pub fn call(paths: &Paths, request: &Request, limit: Duration) -> Result<Reply, WireError> {
    let mut stream = UnixStream::connect(paths.core_socket())?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(&encode(request)?)?;
    receive(&mut stream)
}

/// Reads one message from a blocking stream.
fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, WireError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; length(head)?];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
