//! Both ends of the management channel against each other and against raw peers, over TCP.

// Test code: a failed expectation panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bytes;
mod certificates;
mod framing;
mod joining;
mod peers;
mod samples;
mod staying;
mod support;
