//! The circle: what is wanted and what is seen, the plan, and its execution.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::command::host::{Power, VmReport};
use sha2::{Digest, Sha256};

use super::{Failure, Manage, act, crew, groups};
use crate::{
    db::{DbError, Owner, Vm},
    fence,
    index::Index,
    plan::{self, Action, Room, Seen, View},
    router::{Password, Rules},
    zone::HOST_MIB,
};

/// Longest time without a look.
const IDLE: Duration = Duration::from_secs(5);
/// Shortest time between two looks: whatever is reported meanwhile is seen by the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks, plans and acts until it is cancelled.
pub(super) async fn drive(manage: Arc<Manage>) {
    loop {
        // Of many VMs a look takes its time, and others have work to do.
        let looking = manage.clone();
        let looked = tokio::task::spawn_blocking(move || round(&looking)).await;
        match looked {
            Ok(Ok(actions)) => {
                for (vm, action) in actions {
                    tokio::spawn(execute(manage.clone(), vm, action));
                }
            }
            Ok(Err(error)) => manage.zoned.trouble(&error),
            Err(error) => tracing::error!("a look at the zone failed: {error}"),
        }
        manage.zoned.try_again();
        let _ = tokio::time::timeout(IDLE, manage.poke.notified()).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Seconds on a clock that nobody sets.
pub(super) fn seconds() -> u64 {
    fence::now().as_secs()
}

/// Looks at everything, and marks as busy what must be done something to.
fn round(manage: &Arc<Manage>) -> Result<Vec<(Vm, Action)>, DbError> {
    let mut vms = manage.zoned.db.vms()?;
    make_sure(manage)?;
    groups::look(manage, &vms);
    if crew::adjust(manage, &vms)? {
        vms = manage.zoned.db.vms()?;
    }
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
    // What runs on each, and what is being started there.
    let mut taken: HashMap<&String, u64> = HashMap::new();
    for view in &views {
        let on = match &view.seen {
            Seen::On { host, .. } => Some(host),
            _ => view.host.as_ref().filter(|_| view.busy),
        };
        if let Some(host) = on {
            *taken.entry(host).or_default() += view.memory_mib;
        }
    }
    let rows = manage.zoned.db.hosts()?;
    let zone = manage.zoned.zone();
    let memory = manage.seen().memory.clone();
    for known in &zone.hosts {
        let Some(room) = hosts.get_mut(&known.name) else { continue };
        room.drained = rows.get(&known.name).is_some_and(|row| row.drained);
        let has = memory.get(&known.name).copied().unwrap_or_default().saturating_sub(HOST_MIB);
        let taken = taken.get(&known.name).copied().unwrap_or_default();
        room.free_mib = known.memory_mib.unwrap_or(has).saturating_sub(taken);
        room.tags.clone_from(&known.tags);
    }
    let plan = plan::plan(&views, &hosts, zone.system.placement, seconds());
    homeless(manage, &vms, plan.homeless);
    let mut actions = Vec::new();
    for (id, action) in plan.actions {
        let Some(vm) = vms.iter().find(|vm| vm.id == id) else { continue };
        // A host that has reported but is not ready yet takes no commands.
        if manage.agent(host(&action)).is_none() {
            continue;
        }
        manage.seen().busy.insert(id, word(&action));
        actions.push((vm.clone(), action));
    }
    Ok(actions)
}

/// After a copy has taken the place of a damaged database: once all hosts that can run VMs have said what they run, all
/// is known again.
fn make_sure(manage: &Manage) -> Result<(), DbError> {
    if !manage.unsure.load(Ordering::Acquire) {
        return Ok(());
    }
    let (db, rows) = (&manage.zoned.db, manage.zoned.db.hosts()?);
    for host in &manage.zoned.zone().hosts {
        let lost = rows.get(&host.name).is_some_and(|row| row.lost.is_some());
        let told = lost || manage.seen().reports.contains_key(&host.name);
        if !told && db.has_certificate(&host.name)? {
            return Ok(());
        }
    }
    db.is_sure()?;
    manage.unsure.store(false, Ordering::Release);
    manage.zoned.event("database", "all hosts have said what they run; what is missing is started again");
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
    let index = Index::new(&zone, vms);
    let unsure = manage.unsure.load(Ordering::Acquire);
    let configured: Vec<String> = vms.iter().map(|vm| configured_for(&index, vm)).collect();
    let seen = manage.seen();
    let mut on: HashMap<&str, Vec<Copy<'_>>> = HashMap::new();
    for (host, vms) in &seen.reports {
        for (name, report) in vms {
            on.entry(name).or_default().push((host, report));
        }
    }
    let view = |(vm, configured_for): (&Vm, String)| {
        let copies = copies(vm, on.get(vm.name.as_str()).into_iter().flatten().copied());
        View {
            id: vm.id,
            kind: vm.kind,
            wanted: vm.wanted,
            host: vm.host.clone(),
            seen: see(&seen, vm, &copies, unsure),
            // A host that runs another copy: one that was lost, whose guard had not ended it.
            stray: copies.get(1).map(|(host, _)| (*host).clone()),
            certificate_for: vm.certificate_for.clone(),
            configured_for,
            memory_mib: memory(&index, vm),
            tag: tag(&index, vm),
            waits: false,
            busy: seen.busy.contains_key(&vm.id),
            not_before: seen.failed.get(&vm.id).map_or(0, |f| f.not_before),
        }
    };
    let mut views: Vec<View> = vms.iter().zip(configured).map(view).collect();
    drop(seen);
    // A guest asks its router for an address as soon as it boots.
    let configured: HashSet<i64> = views.iter().filter(|v| is_configured(v)).map(|v| v.id).collect();
    for (index_of, vm) in vms.iter().enumerate() {
        if let Some(guest) = index.guest(vm) {
            let router = index.vm(&Owner::Network(guest.network.clone()));
            views[index_of].waits = !router.is_some_and(|router| configured.contains(&router.id));
        }
    }
    views
}

/// Where one VM runs.
pub(super) fn look_for(manage: &Manage, vm: &Vm) -> Seen {
    let seen = manage.seen();
    let on = seen.reports.iter().filter_map(|(host, vms)| Some((host, vms.get(&vm.name)?)));
    see(&seen, vm, &copies(vm, on), manage.unsure.load(Ordering::Acquire))
}

fn memory(index: &Index<'_>, vm: &Vm) -> u64 {
    index.guest(vm).map_or(index.zone.system.memory_mib, |guest| guest.memory_mib)
}

fn tag(index: &Index<'_>, vm: &Vm) -> Option<String> {
    match &vm.owner {
        Owner::Network(name) => index.network(name)?.host_tag.clone(),
        _ => index.guest(vm)?.host_tag.clone(),
    }
}

fn is_configured(view: &View) -> bool {
    matches!(&view.seen, Seen::On { start_id, ready: true, .. } if *start_id == view.configured_for)
}

/// What a host says of a VM.
type Copy<'a> = (&'a String, &'a VmReport);

/// The hosts on which a VM runs, the one where it belongs first.
fn copies<'a>(vm: &Vm, said: impl Iterator<Item = Copy<'a>>) -> Vec<Copy<'a>> {
    let mut on: Vec<_> = said.filter(|(_, report)| report.state == Power::PowerOn).collect();
    on.sort_by_key(|(host, _)| (vm.host.as_ref() != Some(*host), *host));
    on
}

fn see(seen: &super::Seen, vm: &Vm, copies: &[Copy<'_>], unsure: bool) -> Seen {
    match (copies.first(), &vm.host) {
        (Some((host, report)), _) => {
            Seen::On { host: (*host).clone(), start_id: report.start_id.clone(), ready: report.ready }
        }
        // A copy of the database may not know where it was started.
        (None, _) if unsure => Seen::Unknown,
        // Only the host on which it was started can say that it does not run.
        (None, Some(host)) if !seen.reports.contains_key(host) => Seen::Unknown,
        (None, _) => Seen::Off,
    }
}

/// For which start a router has what the zone says now; empty where it has not.
fn configured_for(index: &Index<'_>, vm: &Vm) -> String {
    let Some(rules) = Rules::of(index, vm) else { return String::new() };
    let same = serde_json::to_string(&rules).is_ok_and(|text| text == vm.applied);
    if same && passwords(index, vm).is_empty() { vm.configured_for.clone() } else { String::new() }
}

/// Passwords that a router must still be told: the guest's number, hash and password.
pub(super) fn passwords(index: &Index<'_>, router: &Vm) -> Vec<(i64, String, Password)> {
    let Owner::Network(network) = &router.owner else { return Vec::new() };
    let guests = index.members(network).iter().filter_map(|guest| {
        let password = guest.password.clone()?;
        let vm = index.vm(&Owner::Guest(guest.name.clone()))?;
        let hash = hex::encode(Sha256::digest(&password));
        (vm.password_sent != hash).then_some((vm.id, hash, Password { ip: guest.address, password }))
    });
    guests.collect()
}
