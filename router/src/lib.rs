//! The virtual router, a room a feature.
//!
//! Two processes: [`core`] is privileged and owns links, packet filter and state; [`serve`] runs as its
//! own user in a sandbox and answers guests. [`snapshot`] is what passes between them.

pub mod acl;
pub mod advert;
pub mod apply;
pub mod balance;
pub mod bgp;
pub mod conntrack;
pub mod core;
pub mod daemon;
pub mod dhcp;
pub mod dns;
pub mod document;
pub mod explain;
pub mod firewall;
pub mod helper;
pub mod link;
pub mod mac;
pub mod metadata;
pub mod nat;
pub mod nft;
pub mod password;
pub mod plan;
pub mod preview;
pub mod redundancy;
pub mod scope;
pub mod serve;
pub mod serving;
pub mod snapshot;
pub mod state;
pub mod sysctl;
pub mod types;
pub mod usage;
pub mod view;
pub mod vpn;
