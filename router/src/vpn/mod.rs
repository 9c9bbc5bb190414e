//! Virtual private networks: sites over IPsec, clients over L2TP and IKEv2, and WireGuard.
//!
//! Documents change the state; [`filter`] lets in what it takes, and [`wanted`] says what charon, the IKE daemon, is to
//! have: connections for sites and for clients. No document waits for a tunnel: [`keeper`] brings charon to what is wanted by its [`vici`] socket, connection
//! by connection, so that a change of one leaves the others alone, and [`report`] says what charon says of them. [`machine`] is what else
//! it takes, xl2tpd and the interface of WireGuard, and [`authority`] the certificates that clients check.

pub mod authority;
pub mod filter;
pub mod keeper;
pub mod machine;
pub mod report;
pub mod steps;
pub mod vici;
pub mod wanted;

pub use authority::Authority;
pub use keeper::Keeper;
pub use machine::{Machine, MachineKeeper};
pub use report::{Peer, Report};
pub use wanted::Wanted;
