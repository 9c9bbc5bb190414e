//! From core to serve: sockets that only the privileged core may open, and whole immutable
//! snapshots of what to serve, over one local socket; from serve to core, small events.
//!
//! The core listens on [`crate::paths::Paths::serve_socket`] and declares, at any time and as often as it likes,
//! the set of sockets ([`Core::offer`]) and the latest snapshot of each kind ([`Core::publish`]). The
//! serve process connects and is brought up to date; afterwards it gets what changes, one [`Update`]
//! after the other ([`Updates::next`]). An update counts as in force once serve asks for the next one;
//! the core can wait for that ([`Core::applied`]) before it answers a host.
//!
//! Either may be restarted alone. A serve process that comes back gets everything again. While the core
//! is away serve goes on serving; when a new core is there, serve first gives back the sockets it holds,
//! so that the core need not open them a second time, and then is brought up to date.

mod core;
mod frame;
mod serve;

pub use self::{
    core::{Core, Event, Offer},
    serve::{AskError, Serve, Update, Updates},
};

#[cfg(test)]
mod tests;
