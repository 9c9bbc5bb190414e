//! The router's core with real packets: `router core` in a namespace with a guest network, a public
//! network and a host, each in namespaces of their own.

mod addresses;
mod balance;
mod changes;
mod commands;
mod crash;
mod flows;
mod gate;
mod helpers;
mod lab;
mod lists;
mod packets;
mod preview;
mod restart;
mod six;
mod speed;
mod types;
mod vpc;

use tests::lab::documents;
