//! Typed commands and answers, a module per family. Field names are the wire's.

pub mod console;
mod secret;
pub mod storage;

pub use secret::Secret;
