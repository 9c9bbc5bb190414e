//! NICs: their addresses, routes and rules ([`plan`]), brought about by netlink ([`netlink`]), and news
//! of new addresses ([`announce`]).

pub mod announce;
mod devices;
pub mod netlink;
pub mod plan;
pub mod steps;

pub use devices::{Device, Devices};
pub use plan::{Links, NicPlan, Route, Rule};

#[cfg(test)]
mod tests;
