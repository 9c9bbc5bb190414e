//! From core to serve: sockets that only the privileged core may open, and whole immutable
//! snapshots of what to serve, over one local socket.
//!
//! The core listens on [`crate::paths::Paths::serve_socket`]; the serve process connects and from then on receives
//! frames. A frame that carries descriptors hands over sockets under a name; any other frame is
//! a snapshot that replaces the last one of its kind whole.
