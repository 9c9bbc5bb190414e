//! Labs for the scenarios: network namespaces, processes, booted VMs.
//!
//! A guard object owns each outside thing and removes it when dropped, so that a failed test
//! leaves nothing behind. Names carry a run id, so that two checkouts never collide.

pub mod bench;
pub mod lab;
pub mod zone;
