//! What answers a host over SSH: the shim recognises the command, hands it to the role's core
//! over a local socket, and writes the answer in one go.
//!
//! - [`run`]: the shim itself, which is root's login shell, every script below `/opt/cloud/bin` and the
//!   `sftp` subsystem. It recognises exactly the strings of the contract ([`recognise`]); there is no shell.
//! - [`listen`]: the core's side of the socket; [`wire`]: what goes over it.

mod certificate;
mod entry;
mod listen;
mod local;
pub mod recognise;
mod scp;
mod service;
mod sftp;
mod upload;
pub mod wire;
mod words;

pub use entry::run;
pub(crate) use listen::bind;
pub use listen::{AT_ONCE, COMMAND_LIMIT, TRANSFER_LIMIT, listen};
pub use words::WordsError;
