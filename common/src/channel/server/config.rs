//! How a management end is set up.

use std::time::Duration;

/// Identity, times and limits of a management end. The defaults are those of the protocol.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Id of this server: 48 bits, taken from a MAC address.
    pub id: i64,
    /// Seconds between two pings that agents are told to keep.
    pub ping_interval: u32,
    /// An agent without a ping for so long is closed; 2.5 intervals.
    pub ping_timeout: Duration,
    /// Longest wait for the TLS handshake.
    pub handshake: Duration,
    /// Longest wait for the start-up command after it, and for the admission.
    pub startup: Duration,
    /// Connections that may be in set-up at once; more are closed at accept.
    pub setups: usize,
    /// Of these, from one address.
    pub setups_of_one: usize,
    /// Longest wait for an answer where neither the caller nor the command says one.
    pub wait: Duration,
    /// Longest wait for the answer to Ready.
    pub ready_wait: Duration,
    /// Requests that may be on their way to one agent, queued ones included.
    pub requests: usize,
    /// Control requests of one agent that are worked on at once.
    pub controls: usize,
    /// Longest time that an agent may take no byte of what is sent.
    pub write: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            id: 1,
            ping_interval: 60,
            ping_timeout: Duration::from_secs(150),
            handshake: Duration::from_secs(30),
            startup: Duration::from_secs(60),
            setups: 64,
            setups_of_one: 16,
            wait: Duration::from_secs(1800),
            ready_wait: Duration::from_secs(60),
            requests: 1024,
            controls: 64,
            write: Duration::from_secs(60),
        }
    }
}
