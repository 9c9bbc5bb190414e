//! The management channel between machines, and against a peer made of other parts (Python and
//! OpenSSL). Needs root for the network namespaces, and the packages iproute2 and python3.

mod addresses;
mod cable;
mod peer;
mod support;
