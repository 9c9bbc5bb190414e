//! Tells hosts which packets their guests may send and get, and operators what the groups are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    channel::message::Message,
    command::{agent::Answer, host::GroupsCommand},
};
use sha2::{Digest, Sha256};

use super::{Failure, Manage, answer::ask, drive::seconds};
use crate::{
    api::{GroupStatus, Member},
    db::Vm,
    groups::{Policy, policies},
    index::Index,
    plan::back_off,
    zone::{Network, Zone},
};

/// Longest time for a host to change its packet filter.
const LIMIT: Duration = Duration::from_secs(60);

type Sum = [u8; 32];

/// What hosts were told, by their names.
#[derive(Default)]
pub(super) struct Told {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Sum>>>>>,
    failed: Mutex<HashMap<String, Failure>>,
}

impl Told {
    /// One policy at a time goes to a host, so that an older one does not overtake a newer one.
    fn turn(&self, host: &str) -> Arc<tokio::sync::Mutex<Option<Sum>>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(host.to_owned()).or_default().clone()
    }
}

/// A host that has gone is told anew when it comes back.
pub(super) fn forget(manage: &Manage, host: &str) {
    manage.told.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    manage.told.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
}

fn is_guarded(zone: &Zone) -> bool {
    zone.networks.iter().any(Network::is_guarded)
}

fn text(policy: &Policy) -> String {
    serde_json::to_string(policy).unwrap_or_default()
}

fn sum(text: &str) -> Sum {
    Sha256::digest(text).into()
}

/// Tells each host that is connected and does not know it yet.
pub(super) fn look(manage: &Arc<Manage>, vms: &[Vm]) {
    let zone = manage.zoned.zone();
    let all = if is_guarded(&zone) { policies(&Index::new(&zone, vms), vms) } else { BTreeMap::new() };
    let nothing = sum(&text(&Policy::default()));
    for host in &zone.hosts {
        let wanted = all.get(&host.name).map_or(nothing, |policy| sum(&text(policy)));
        let knows = manage.told.turn(&host.name).try_lock().is_ok_and(|told| *told == Some(wanted));
        let waits = {
            let failed = manage.told.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get(&host.name).is_some_and(|failure| failure.not_before > seconds())
        };
        if knows || waits || manage.agent(&host.name).is_none() {
            continue;
        }
        let (manage, name) = (manage.clone(), host.name.clone());
        tokio::spawn(async move {
            let outcome = tell(&manage, &name).await;
            settle(&manage, &name, outcome);
        });
    }
}

/// Remembers what went wrong, and says it once.
fn settle(manage: &Manage, host: &str, outcome: Result<(), String>) {
    let mut failed = manage.told.failed.lock().unwrap_or_else(PoisonError::into_inner);
    let before = failed.remove(host);
    let Err(text) = outcome else { return };
    // One that has gone is told when it is back.
    if manage.agent(host).is_none() {
        return;
    }
    if before.as_ref().is_none_or(|failure| failure.text != text) {
        manage.zoned.event(host, &format!("does not enforce the security groups: {text}"));
    }
    let count = before.map_or(0, |failure| failure.count) + 1;
    failed.insert(host.to_owned(), Failure { count, not_before: seconds() + back_off(count), text });
}

/// Tells a host, where it does not know it yet.
pub(super) async fn tell(manage: &Manage, host: &str) -> Result<(), String> {
    let turn = manage.told.turn(host);
    let mut told = turn.lock().await;
    let agent = manage.agent(host).ok_or_else(|| format!("host {host} is not connected"))?;
    let zone = manage.zoned.zone();
    let policy = if is_guarded(&zone) {
        let vms = manage.zoned.db.vms().map_err(|error| error.to_string())?;
        policies(&Index::new(&zone, &vms), &vms).remove(host).unwrap_or_default()
    } else {
        Policy::default()
    };
    let policy = text(&policy);
    let wanted = sum(&policy);
    if *told == Some(wanted) {
        return Ok(());
    }
    *told = None;
    let command = GroupsCommand { policy, ..GroupsCommand::default() };
    ask::<Answer>(&agent, Message::wrap(&command), LIMIT).await?;
    *told = Some(wanted);
    Ok(())
}

/// All security groups, or the one of that name.
pub(super) fn list(manage: &Manage, name: Option<&str>) -> Result<Vec<GroupStatus>, String> {
    let zone = manage.zoned.zone();
    let wanted = |group: &&crate::zone::SecurityGroup| name.is_none_or(|name| name == group.name);
    let groups: Vec<GroupStatus> =
        zone.groups.iter().filter(wanted).map(|group| status(&zone, group)).collect();
    match name {
        Some(name) if groups.is_empty() => Err(format!("The zone file has no [[security_group]] {name:?}")),
        _ => Ok(groups),
    }
}

fn status(zone: &Zone, group: &crate::zone::SecurityGroup) -> GroupStatus {
    let guests = zone.guests.iter().filter(|guest| guest.groups.contains(&group.name));
    let guests = guests.map(|guest| (&guest.name, guest.address, &guest.addresses));
    let ports = zone.ports.iter().filter(|port| port.groups.contains(&group.name));
    let ports = ports.map(|port| (&port.name, port.address, &port.addresses));
    let member =
        |(name, address, more): (&String, std::net::Ipv4Addr, &std::collections::BTreeSet<_>)| Member {
            name: name.clone(),
            addresses: std::iter::once(address.into()).chain(more.iter().copied()).collect(),
        };
    GroupStatus {
        name: group.name.clone(),
        ingress: group.ingress.iter().map(|rule| rule.text("from")).collect(),
        egress: group.egress.iter().map(|rule| rule.text("to")).collect(),
        members: guests.chain(ports).map(member).collect(),
    }
}
