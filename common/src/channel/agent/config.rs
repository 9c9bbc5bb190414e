//! How an agent is set up.

use std::path::PathBuf;
use std::time::Duration;

use crate::paths::Paths;

/// Where an agent connects to, and how.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Servers from the boot arguments, in order. A list that a server gave later takes their place;
    /// they stay the last resort. Names or addresses; an `@<algorithm>` suffix belongs to the list.
    pub hosts: Vec<String>,
    /// Port of the servers.
    pub port: u16,
    /// Simple class name of the resource: prefix of what is kept in `agent.properties`
    /// (`NfsSecondaryStorageResource`, `ConsoleProxyResource`, `LibvirtComputingResource`).
    pub resource_name: String,
    /// Commands that run at once.
    pub workers: usize,
    /// Folder of `cloud.crt`, `cloud.ca.crt`, `cloud.key` and `agent.properties`.
    pub folder: PathBuf,
    /// Refuse to talk to a server while there is no `cloud.ca.crt` to know it by.
    pub require_authority: bool,
    /// Times and limits.
    pub timings: Timings,
}

/// Times and limits of an agent; the defaults are those of the protocol.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Longest wait for a TCP connection.
    pub connect: Duration,
    /// Longest wait for the TLS handshake.
    pub handshake: Duration,
    /// Longest wait for the answer to the start-up; doubled once after a failure.
    pub startup: Duration,
    /// First wait before a new attempt; doubled with each failure, with some chance in it.
    pub backoff: Duration,
    /// Longest wait before a new attempt.
    pub backoff_limit: Duration,
    /// Between two looks at the certificate files.
    pub watch: Duration,
    /// Between the answer to a migration command and the move.
    pub migrate: Duration,
    /// Longest wait for a server that is probed.
    pub probe: Duration,
    /// Longest time that the peer may take no byte of what is sent.
    pub write: Duration,
    /// The server is taken for dead after so many ping intervals without any packet.
    pub silence: f64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            startup: Duration::from_secs(180),
            backoff: Duration::from_secs(1),
            backoff_limit: Duration::from_secs(30),
            watch: Duration::from_secs(2),
            migrate: Duration::from_secs(3),
            probe: Duration::from_secs(5),
            write: Duration::from_secs(60),
            silence: 2.5,
        }
    }
}

impl AgentConfig {
    /// An agent of a system VM with the protocol's defaults: port 8250, 5 workers.
    pub fn new(hosts: Vec<String>, resource_name: impl Into<String>, paths: &Paths) -> Self {
        Self {
            hosts,
            port: super::super::PORT,
            resource_name: resource_name.into(),
            workers: 5,
            folder: paths.agent(),
            require_authority: false,
            timings: Timings::default(),
        }
    }
}
