//! What the system VMs and the management end share.
//!
//! - [`boot`]: the boot arguments of a system VM, as one typed [`boot::Identity`].
//! - [`channel`]: the management channel (TCP 8250), both ends.
//! - [`command`]: typed commands and answers of that channel, a module per family.
//! - [`shim`]: what answers the host over SSH, and its road to the role's daemon.
//! - [`handover`]: how a role's core hands sockets and snapshots to its serve process.
//! - [`sandbox`]: what a serve process may still do.
//! - [`persist`]: state files that survive a power cut.
//! - [`log`], [`journal`], [`metrics`], [`health`], [`timeline`]: what an operator sees of a process.
//! - [`supervise`]: starts and stops services through the init's supervisor; [`program`]: runs a program to its end.
//! - [`paths`]: where things lie in a system VM.
//! - [`roots`]: the two roots of the image, and bundles with a new one.
//! - [`token`]: the sealed token of a console URL.

pub mod boot;
pub mod channel;
pub mod command;
pub mod handover;
pub mod health;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod paths;
pub mod persist;
pub mod program;
pub mod roots;
pub mod sandbox;
pub mod shim;
pub mod supervise;
pub mod timeline;
pub mod token;
