//! The token inside a console URL: which VM's screen, on which host, for which session, sealed
//! so that the browser can neither read nor change it.
//!
//! Management seals with [`TokenKey::seal`], the console proxy opens with [`TokenKey::open`].
//! Both hold the same [`TokenKey`], which management delivers as the `encryptorPassword` text.
//! The [`ticket`] inside makes the URL expire; only management computes and verifies it.

mod fields;
mod key;
pub mod ticket;

pub use fields::Token;
pub use key::{KeyError, OpenError, SealError, TokenKey};

#[cfg(test)]
mod tests;
