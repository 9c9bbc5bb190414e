//! What serve counts. Core publishes it among the metrics of the router.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counted since serve started.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// DHCP messages that came in.
    pub dhcp_requests: AtomicU64,
    /// DHCPACK sent.
    pub dhcp_acks: AtomicU64,
    /// DHCPNAK sent.
    pub dhcp_naks: AtomicU64,
    /// DHCP messages without an answer: malformed, unknown MAC, too many of one MAC.
    pub dhcp_ignored: AtomicU64,
    /// DHCPDECLINE received: another machine uses a guest's address.
    pub dhcp_declines: AtomicU64,
    /// Questions for names.
    pub dns_queries: AtomicU64,
    /// Answered from the guests' names.
    pub dns_local: AtomicU64,
    /// Answered from what upstreams said before.
    pub dns_cached: AtomicU64,
    /// Answered with SERVFAIL: no upstream had an answer in time, or too many questions waited.
    pub dns_failed: AtomicU64,
    /// From strangers, malformed, or of a kind that is not served.
    pub dns_refused: AtomicU64,
    /// Metadata requests answered with 200.
    pub metadata_served: AtomicU64,
    /// Metadata requests answered otherwise.
    pub metadata_refused: AtomicU64,
    /// Passwords handed to their guest.
    pub passwords_sent: AtomicU64,
    /// Passwords confirmed by their guest.
    pub passwords_taken: AtomicU64,
    /// Connections closed at once, since there were too many.
    pub connections_refused: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
