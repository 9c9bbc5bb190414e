//! From state to everything that should be: one line a feature.

use crate::{
    acl,
    balance::{self, Balance},
    bgp, firewall, helper,
    link::{self, Devices, Links},
    nat,
    nft::Table,
    state::{Setup, State},
    sysctl, usage,
    view::View,
    vpn,
};

/// Everything that the kernel should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The packet filter.
    pub table: Table,
    /// Addresses, routes and rules.
    pub links: Links,
    /// Kernel settings of NICs: path below `/proc/sys/net`, value.
    pub settings: Vec<(String, String)>,
    /// What HAProxy does.
    pub balance: Balance,
}

/// Says what should be, for the NICs that are there. Pure: the same input gives the same plan.
pub fn plan(setup: &Setup, state: &State, devices: &Devices) -> Plan {
    let view = View::new(setup, state, devices);
    let (links, settings) = (link::plan::plan(&view, devices), sysctl::nics(&view));
    Plan { table: table(&view), links, settings, balance: balance::streams(setup, state) }
}

/// The packet filter alone, as far as the view's scope goes.
pub fn table(view: &View<'_>) -> Table {
    let mut table = Table::default();
    for feature in [
        firewall::plan,
        helper::plan,
        acl::plan,
        nat::plan,
        balance::plan,
        bgp::filter,
        vpn::filter::plan,
        usage::plan,
    ] {
        feature(view, &mut table);
    }
    table
}
