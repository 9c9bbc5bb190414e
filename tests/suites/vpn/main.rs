//! Tunnels between routers booted from the built image, and clients that come in from outside.

mod clients;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/lab.rs"]
mod lab;
mod pair;
mod sites;
#[allow(dead_code, reason = "written for the suite `image`, which uses all of it")]
#[path = "../image/traffic.rs"]
mod traffic;

use tests::lab::documents;
