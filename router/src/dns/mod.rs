//! DNS for guests: local names, and a forwarder for everything else.
//!
//! What guests are called is answered here, at once and with TTL 0; what lies below the router's own
//! domains or is private by nature is never asked elsewhere. The rest goes to the upstream resolvers,
//! each question once however many guests ask it, and what they say is kept for as long as they allow.
//!
//! - [`zone`]: the local names (pure).
//! - [`query`]: a guest's question, and how answers to it are put into bytes (pure).
//! - [`cache`]: what upstreams said (pure; the caller holds the clock).
//! - [`exchange`]: one question to one upstream.
//! - [`forward`]: one question to all upstreams, and whom of the guests to let ask.
//! - [`task`]: the sockets.

pub mod cache;
pub mod exchange;
pub mod forward;
pub mod query;
pub mod task;
pub mod zone;
