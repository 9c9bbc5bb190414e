//! What answers a host over SSH: the shim recognises the command, hands it to the role's core
//! over a local socket, and writes the answer in one go.

pub mod wire;
