//! DHCP for guests (RFC 2131), from reservations only.
//!
//! Nothing is remembered but the reservations that core hands over: a guest's own address is granted
//! whenever its MAC asks for it, before and after a rebuild of the router, and any other address is
//! refused. A MAC without a reservation gets no answer at all.
//!
//! - [`request`]: what a client says, out of any bytes.
//! - [`table`]: the reservations, ready to be looked up.
//! - [`answer`]: what to say to whom (pure).
//! - [`reply`]: the answer as bytes.
//! - [`packet`]: the IPv4 and UDP headers of frames to and from a client without an address.
//! - [`task`]: the sockets.
//! - [`stateless`]: the little that there is of DHCPv6.

pub mod answer;
pub mod packet;
pub mod reply;
pub mod request;
pub mod stateless;
pub mod table;
pub mod task;

#[cfg(test)]
mod tests;
