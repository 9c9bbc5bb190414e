//! The web service on the public address, part of the serve process: files that were offered by a link of
//! their own, copies for the other secondary storage VMs, uploads from a browser.

mod files;
mod http;
mod limits;
mod listen;
mod multipart;
mod ticket;
mod upload;
mod wire;

pub(crate) use listen::Web;
pub(crate) use multipart::Parts;
pub(crate) use ticket::Ticket;
pub(crate) use wire::{ADVANCE, Advance, BEGIN, Begin, END, End, Link, Receive, SITE, Site, Tls, Verdict};
