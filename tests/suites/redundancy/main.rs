//! Pairs of routers, with real packets: who is in force, who takes over, and what survives it.

mod bgp;
mod faults;
mod partner;
mod takeover;
mod vpc;
