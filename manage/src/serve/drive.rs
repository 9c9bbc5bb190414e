//! The circle: what is wanted and what is seen, the plan, and its execution.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::command::host::{Power, VmReport};
use sha2::{Digest, Sha256};

use super::{Failure, Manage, act};
use crate::{
    db::{DbError, Kind, Owner, Vm},
    plan::{self, Action, Room, Seen, View},
    router::{Password, Rules},
    zone::{Guest, HOST_MIB, Zone},
};

/// Longest time without a look.
const IDLE: Duration = Duration::from_secs(5);

/// Looks, plans and acts until it is cancelled.
pub(super) async fn drive(manage: Arc<Manage>) {
    loop {
        match round(&manage) {
            Ok(()) => {}
            Err(error) => tracing::error!("{error}"),
        }
        let _ = tokio::time::timeout(IDLE, manage.poke.notified()).await;
    }
}

/// Seconds since 1970.
pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn round(manage: &Arc<Manage>) -> Result<(), DbError> {
    let vms = manage.zoned.db.vms()?;
    let views = views(manage, &vms);
    let mut hosts: BTreeMap<String, Room> = manage
        .seen()
        .reports
        .iter()
        .map(|(host, vms)| {
            let vms = vms.values().filter(|v| v.state == Power::PowerOn).count();
            (host.clone(), Room { vms, ..Room::default() })
        })
        .collect();
    let zone = manage.zoned.zone();
    for (host, room) in &mut hosts {
        room.drained = manage.zoned.db.host(host)?.drained;
        let known = zone.hosts.iter().find(|known| known.name == *host);
        let has = manage.seen().memory.get(host).copied().unwrap_or_default().saturating_sub(HOST_MIB);
        // What runs there, and what is being started there.
        let here = |view: &View| match &view.seen {
            Seen::On { host: on, .. } => on == host,
            _ => view.busy && view.host.as_ref() == Some(host),
        };
        let taken: u64 = views.iter().filter(|view| here(view)).map(|view| view.memory_mib).sum();
        room.free_mib = known.and_then(|known| known.memory_mib).unwrap_or(has).saturating_sub(taken);
        room.tags = known.map(|known| known.tags.clone()).unwrap_or_default();
    }
    let plan = plan::plan(&views, &hosts, zone.system.placement, seconds());
    homeless(manage, &vms, plan.homeless);
    for (id, action) in plan.actions {
        let Some(vm) = vms.iter().find(|vm| vm.id == id) else { continue };
        // A host that has reported but is not ready yet takes no commands.
        if manage.agent(host(&action)).is_none() {
            continue;
        }
        manage.seen().busy.insert(id, word(&action));
        tokio::spawn(execute(manage.clone(), vm.clone(), action));
    }
    Ok(())
}

/// Keeps for the screen why there is no host for a VM, and tells what is new.
fn homeless(manage: &Manage, vms: &[Vm], homeless: Vec<(i64, String)>) {
    let homeless: BTreeMap<i64, String> = homeless.into_iter().collect();
    let before = std::mem::replace(&mut manage.seen().homeless, homeless.clone());
    for (id, reason) in homeless.iter().filter(|(id, reason)| before.get(id) != Some(reason)) {
        if let Some(vm) = vms.iter().find(|vm| vm.id == *id) {
            manage.zoned.event(&vm.name, &format!("is not started: {reason}"));
        }
    }
}

/// What is being done, for the screen.
fn word(action: &Action) -> &'static str {
    match action {
        Action::Start(_) => "starting",
        Action::Stop(_) => "stopping",
        Action::Certify { .. } => "certifying",
        Action::Configure { .. } => "configuring",
    }
}

fn host(action: &Action) -> &str {
    match action {
        Action::Start(host)
        | Action::Stop(host)
        | Action::Certify { host, .. }
        | Action::Configure { host, .. } => host,
    }
}

async fn execute(manage: Arc<Manage>, vm: Vm, action: Action) {
    let result = act::perform(&manage, &vm, &action).await;
    if let Err(text) = &result {
        manage.zoned.event(&vm.name, &format!("{} failed: {text}", word(&action)));
    }
    let mut seen = manage.seen();
    seen.busy.remove(&vm.id);
    match result {
        Ok(()) => {
            seen.failed.remove(&vm.id);
        }
        Err(text) => {
            let count = seen.failed.get(&vm.id).map_or(0, |f| f.count) + 1;
            let not_before = seconds() + plan::back_off(count);
            seen.failed.insert(vm.id, Failure { count, not_before, text });
        }
    }
    drop(seen);
    manage.poke.notify_one();
}

/// What is known of each VM.
pub(super) fn views(manage: &Manage, vms: &[Vm]) -> Vec<View> {
    let zone = manage.zoned.zone();
    let seen = manage.seen();
    let mut views: Vec<View> = vms
        .iter()
        .map(|vm| View {
            id: vm.id,
            kind: vm.kind,
            wanted: vm.wanted,
            host: vm.host.clone(),
            seen: see(&seen, vm),
            stray: stray(&seen, vm),
            certificate_for: vm.certificate_for.clone(),
            configured_for: configured_for(manage, vm, vms),
            memory_mib: memory(&zone, vm),
            tag: tag(&zone, vm),
            waits: false,
            busy: seen.busy.contains_key(&vm.id),
            not_before: seen.failed.get(&vm.id).map_or(0, |f| f.not_before),
        })
        .collect();
    drop(seen);
    // A guest asks its router for an address as soon as it boots.
    for (index, vm) in vms.iter().enumerate() {
        if vm.kind == Kind::Guest {
            let router = router_of(manage, vm, vms).and_then(|id| views.iter().find(|v| v.id == id));
            views[index].waits = !router.is_some_and(is_configured);
        }
    }
    views
}

/// The guest of the zone file that a VM is.
fn guest<'a>(zone: &'a Zone, vm: &Vm) -> Option<&'a Guest> {
    let Owner::Guest(name) = &vm.owner else { return None };
    zone.guests.iter().find(|guest| guest.name == *name)
}

fn memory(zone: &Zone, vm: &Vm) -> u64 {
    guest(zone, vm).map_or(zone.system.memory_mib, |guest| guest.memory_mib)
}

fn tag(zone: &Zone, vm: &Vm) -> Option<String> {
    match &vm.owner {
        Owner::Network(name) => zone.network(name)?.host_tag.clone(),
        _ => guest(zone, vm)?.host_tag.clone(),
    }
}

fn is_configured(view: &View) -> bool {
    matches!(&view.seen, Seen::On { start_id, ready: true, .. } if *start_id == view.configured_for)
}

fn router_of(manage: &Manage, guest: &Vm, vms: &[Vm]) -> Option<i64> {
    let Owner::Guest(name) = &guest.owner else { return None };
    let zone = manage.zoned.zone();
    let network = &zone.guests.iter().find(|g| g.name == *name)?.network;
    vms.iter().find(|vm| vm.owner == Owner::Network(network.clone())).map(|vm| vm.id)
}

/// The hosts on which it runs, the one where it belongs first.
fn copies<'a>(seen: &'a super::Seen, vm: &'a Vm) -> Vec<(&'a String, &'a VmReport)> {
    let on = seen.reports.iter().filter_map(|(host, vms)| Some((host, vms.get(&vm.name)?)));
    let mut on: Vec<_> = on.filter(|(_, report)| report.state == Power::PowerOn).collect();
    on.sort_by_key(|(host, _)| (vm.host.as_ref() != Some(*host), *host));
    on
}

fn see(seen: &super::Seen, vm: &Vm) -> Seen {
    match (copies(seen, vm).first(), &vm.host) {
        (Some((host, report)), _) => {
            Seen::On { host: (*host).clone(), start_id: report.start_id.clone(), ready: report.ready }
        }
        // Only the host on which it was started can say that it does not run.
        (None, Some(host)) if !seen.reports.contains_key(host) => Seen::Unknown,
        (None, _) => Seen::Off,
    }
}

/// A host that runs another copy: one that was lost, whose guard had not ended it.
fn stray(seen: &super::Seen, vm: &Vm) -> Option<String> {
    copies(seen, vm).get(1).map(|(host, _)| (*host).clone())
}

/// For which start a router has what the zone says now; empty where it has not.
fn configured_for(manage: &Manage, vm: &Vm, vms: &[Vm]) -> String {
    let Some(rules) = Rules::of(&manage.zoned.zone(), vm, vms) else { return String::new() };
    let same = serde_json::to_string(&rules).is_ok_and(|text| text == vm.applied);
    if same && passwords(manage, vm, vms).is_empty() { vm.configured_for.clone() } else { String::new() }
}

/// Passwords that a router must still be told: the guest's number, hash and password.
pub(super) fn passwords(manage: &Manage, router: &Vm, vms: &[Vm]) -> Vec<(i64, String, Password)> {
    let Owner::Network(network) = &router.owner else { return Vec::new() };
    let zone = manage.zoned.zone();
    let guests = zone.guests_of(network).filter_map(|guest| {
        let password = guest.password.clone()?;
        let vm = vms.iter().find(|vm| vm.owner == Owner::Guest(guest.name.clone()))?;
        let hash = hex::encode(Sha256::digest(&password));
        (vm.password_sent != hash).then_some((vm.id, hash, Password { ip: guest.address, password }))
    });
    guests.collect()
}
