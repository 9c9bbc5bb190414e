//! The management channel (TCP 8250), both ends: an agent that a server takes for one of its own,
//! and a server that takes in such agents.
//!
//! From the socket upwards: [`link`] frames around TLS records, [`stream`] which drives TLS through
//! them, [`packet`] header and compression, [`json`] and [`message`] the typed text,
//! and above them the two ends, [`agent`] and [`server`]. [`tls`] holds keys, certificates and who
//! trusts whom. [`redact`] decides what of all this may be logged.

pub mod agent;
pub mod json;
pub mod lenient;
pub mod link;
pub mod message;
pub mod packet;
pub mod redact;
pub mod server;
pub mod stream;
pub mod tls;
mod waiters;

/// TCP port of the channel.
pub const PORT: u16 = 8250;
