//! The boot arguments of a system VM: one line of `key=value` words, from whatever source the
//! hypervisor offers, read into one typed [`Identity`].

mod identity;

pub use identity::{ArgumentError, Identity, Nic, Role};
