//! The router's core with real packets: `router core` in a namespace with a guest network, a public
//! network and a host, each in namespaces of their own.

mod balance;
mod changes;
mod commands;
mod lab;
mod packets;
mod restart;
mod speed;
mod types;
mod vpc;

use tests::lab::documents;
