//! Typed commands and answers, a module per family. Field names are the wire's.
//!
//! Reading is lenient where the peer's own reader is (numbers in quotes, `4.0` for a whole number,
//! explicit nulls, unknown fields); writing is always complete, since some of the peer's classes
//! break on a missing member.

pub mod agent;
pub mod console;
pub mod host;
mod secret;
pub mod storage;

pub use secret::Secret;

/// Ties types to their class names: `wire! { ReadyCommand = "com.cloud.agent.api.ReadyCommand" }`.
macro_rules! wire {
    ($($type:ident = $class:literal),+ $(,)?) => {
        $(impl $crate::channel::message::Wire for $type {
            const CLASS: &'static str = $class;
        })+
    };
}
pub(crate) use wire;
