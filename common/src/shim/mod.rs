//! What answers a host over SSH: the shim recognises the command, hands it to the role's core
//! over a local socket, and writes the answer in one go.

mod listen;
pub mod wire;

pub(crate) use listen::bind;
pub use listen::{AT_ONCE, COMMAND_LIMIT, TRANSFER_LIMIT, listen};
