//! The control protocol of charon, the IKE daemon: [`message`] is what passes, [`session`] a conversation.

pub mod message;
pub mod session;

pub use message::{Message, MessageError, Value};
pub use session::{Session, ViciError};
