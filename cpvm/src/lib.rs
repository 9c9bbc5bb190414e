//! The console proxy: shows a virtual machine's screen in a browser.
//!
//! A session passes through the rooms in this order: [`ticket`] reads what the browser brought,
//! [`core::gate`] decides together with management, [`screen`] finds the way to the machine's screen,
//! [`rfb`] speaks to the hypervisor and to the browser ([`websocket`]) until both are ready, [`relay`] copies between them, [`serve::sessions`] knows who is
//! there, and [`end`] says how it ended. Pages come from [`serve::page`].
//!
//! [`core`] is privileged and opens every socket, also those to hypervisors; [`serve`] parses what
//! strangers send and may open none. [`wire`] is what the two say to each other.

pub mod core;
pub mod end;
pub mod keystore;
pub mod relay;
pub mod rfb;
pub mod screen;
pub mod serve;
pub mod ticket;
pub mod websocket;
pub mod wire;
