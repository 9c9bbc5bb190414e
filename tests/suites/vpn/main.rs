//! Tunnels between routers booted from the built image, to machines of plain Debian, and clients that come in from
//! outside.

mod branch;
#[allow(dead_code, reason = "the suite `vpn-long` uses the rest of it")]
mod debian;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/lab.rs"]
mod lab;
#[allow(dead_code, reason = "the suite `vpn-long` uses the rest of it")]
mod pair;
mod sites;
#[allow(dead_code, reason = "the suite `vpn-long` uses the rest of it")]
mod texts;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/traffic.rs"]
mod traffic;

use tests::lab::documents;
