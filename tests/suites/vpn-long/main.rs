//! What takes long of VPNs: a pair of routers of which one takes over, clients of a VPC, a peer that falls silent, and
//! an IKE daemon that is killed, measured alone.

#[allow(dead_code, reason = "the suite `vpn` uses the rest of it")]
#[path = "../vpn/debian.rs"]
mod debian;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/lab.rs"]
mod lab;
#[allow(dead_code, reason = "the suite `vpn` uses the rest of it")]
#[path = "../vpn/pair.rs"]
mod pair;
mod redundant;
#[path = "../vpn/texts.rs"]
mod texts;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/traffic.rs"]
mod traffic;
mod vpc;

use tests::lab::documents;
