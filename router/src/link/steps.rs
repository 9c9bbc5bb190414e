//! The difference between what there is and what should be, as single steps that can each be undone.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    Devices, Links,
    plan::{Route, Rule},
};

/// What the kernel has of what is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// NICs.
    pub devices: Devices,
    /// Addresses by the name of the NIC, without the link-local one that the kernel has given it.
    pub addresses: BTreeMap<String, Vec<IpNet>>,
    /// Routes of ours.
    pub routes: BTreeSet<Route>,
    /// Rules of ours.
    pub rules: BTreeSet<Rule>,
}

/// One change; the second member of a pair is what was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// MTU of a NIC.
    Mtu(String, u32, u32),
    /// A NIC goes up; it is not taken down again when this is undone.
    Up(String),
    /// A NIC goes down.
    Down(String),
    /// A NIC gets an address.
    AddAddress(String, IpNet),
    /// A NIC loses an address.
    DeleteAddress(String, IpNet),
    /// A route appears, in the place of another one to the same destination where there was one.
    SetRoute(Route, Option<Route>),
    /// A route goes.
    DeleteRoute(Route),
    /// A rule appears.
    AddRule(Rule),
    /// A rule goes.
    DeleteRule(Rule),
}

impl Step {
    /// What undoes it.
    pub fn undo(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::Mtu(nic, new, old) => Self::Mtu(nic, old, new),
            Self::Up(_) => return None,
            Self::Down(nic) => Self::Up(nic),
            Self::AddAddress(nic, net) => Self::DeleteAddress(nic, net),
            Self::DeleteAddress(nic, net) => Self::AddAddress(nic, net),
            Self::SetRoute(new, Some(old)) => Self::SetRoute(old, Some(new)),
            Self::SetRoute(new, None) => Self::DeleteRoute(new),
            Self::DeleteRoute(old) => Self::SetRoute(old, None),
            Self::AddRule(rule) => Self::DeleteRule(rule),
            Self::DeleteRule(rule) => Self::AddRule(rule),
        })
    }
}

/// The steps from what there is to what should be: new things first, in an order in which each has what
/// it needs, then what is to go. An address that nothing asks for goes.
pub fn steps(present: &Present, wanted: &Links) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut gone = Vec::new();
    for device in &present.devices.0 {
        let name = &device.name;
        let has = present.addresses.get(name).map(Vec::as_slice).unwrap_or_default();
        let plan = wanted.nics.get(name);
        let four = plan.into_iter().flat_map(|p| &p.addresses).map(|net| IpNet::V4(*net));
        let six = plan.into_iter().flat_map(|p| &p.six).map(|net| IpNet::V6(*net));
        let wants: Vec<IpNet> = four.chain(six).collect();
        let shared = plan.and_then(|p| p.shared).map(IpNet::V4);
        let stale = has.iter().filter(|a| !wants.contains(a) && shared != Some(**a));
        gone.extend(stale.map(|a| Step::DeleteAddress(name.clone(), *a)));
        let Some(plan) = plan else { continue };
        if let Some(mtu) = plan.mtu.filter(|mtu| *mtu != device.mtu) {
            steps.push(Step::Mtu(name.clone(), mtu, device.mtu));
        }
        if device.up == plan.down {
            let step = if plan.down { Step::Down } else { Step::Up };
            steps.push(step(name.clone()));
        }
        steps.extend(wants.iter().filter(|a| !has.contains(a)).map(|a| Step::AddAddress(name.clone(), *a)));
    }
    let place = |route: &Route| (route.table, route.destination);
    for route in wanted.routes.difference(&present.routes) {
        let before = present.routes.iter().find(|r| place(r) == place(route)).cloned();
        steps.push(Step::SetRoute(route.clone(), before));
    }
    steps.extend(wanted.rules.difference(&present.rules).cloned().map(Step::AddRule));
    steps.extend(present.rules.difference(&wanted.rules).cloned().map(Step::DeleteRule));
    let kept: BTreeSet<_> = wanted.routes.iter().map(place).collect();
    let stale = present.routes.iter().filter(|r| !kept.contains(&place(r)));
    steps.extend(stale.cloned().map(Step::DeleteRoute));
    steps.extend(gone);
    steps
}
