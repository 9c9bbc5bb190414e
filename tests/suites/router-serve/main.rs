//! What guests get from `router serve`: real clients (dhclient, udhcpc, dig, curl) in network namespaces,
//! and a small core that says what to serve.

mod balance;
mod dhcp;
mod dns;
mod lab;
mod life;
mod many;
mod messages;
mod metadata;
mod pair;
mod password;
mod settings;
