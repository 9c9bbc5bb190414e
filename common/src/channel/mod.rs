//! The management channel: link frames around TLS records, packets, messages,
//! and the two ends that speak them.

pub mod message;
