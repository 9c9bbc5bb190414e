//! One-time passwords over HTTP.
//!
//! A guest fetches its password, as often as it needs to, and then confirms it. Core forgets a
//! confirmed password durably before the guest is told so; if core cannot, the guest is told to ask
//! again and the password is handed out no more all the same.
//!
//! - [`protocol`]: what a request is answered (pure).
//! - [`task`]: the requests, and core's word on confirmed passwords.

pub mod protocol;
pub mod task;
