//! User data and metadata over HTTP, to each guest its own.
//!
//! A guest is known by the address it asks from and by the network in which it asks: core opens each
//! listener on one NIC, and only guests of that network are answered. Whoever is not known gets
//! a definite answer at once, so that no boot waits for a time-out.
//!
//! - [`tree`]: which path means what (pure).
//! - [`store`]: what the guests may read.
//! - [`media`]: the disk in the drive, which is served beside it.
//! - [`task`]: the requests.

pub mod media;
pub mod store;
pub mod task;
pub mod tree;
