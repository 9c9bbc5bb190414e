//! The virtual router, a room a feature.
//!
//! Two processes: [`core`] is privileged and owns links, packet filter and state; [`serve`] runs as its
//! own user in a sandbox and answers guests. [`snapshot`] is what passes between them.

pub mod core;
pub mod dhcp;
pub mod dns;
pub mod mac;
pub mod metadata;
pub mod password;
pub mod serve;
pub mod snapshot;
