//! The SSVMs and CPVMs of a zone: who gets the next transfer or session, and how many of them run.

use std::time::{Duration, Instant};

use common::channel::server::AttachedAgent;

use super::{Manage, drive::seconds};
use crate::{
    db::{DbError, Kind, Vm, Wanted},
    scale::{Change, Member, scale},
};

/// For how long a console that was handed out counts as a session: as long as its URL is good.
const HANDED: Duration = Duration::from_secs(70);

/// What SSVMs and CPVMs have to do, as far as the manager sees it.
#[derive(Default)]
pub(super) struct Work {
    /// Copies that are under way, by the name of the SSVM.
    copies: Vec<String>,
    /// Sessions that a CPVM told of last.
    sessions: std::collections::HashMap<String, u32>,
    /// Consoles that were handed out, and when.
    handed: Vec<(String, Instant)>,
    /// Since when fewer SSVMs, and fewer CPVMs, would do.
    calm: [Option<u64>; 2],
}

impl Work {
    /// A CPVM says how many sessions it has.
    pub(super) fn told(&mut self, cpvm: &str, sessions: usize) {
        self.sessions.insert(cpvm.to_owned(), u32::try_from(sessions).unwrap_or(u32::MAX));
    }

    /// A console of that CPVM was handed out.
    pub(super) fn hand_out(&mut self, cpvm: &str) {
        self.handed.push((cpvm.to_owned(), Instant::now()));
    }

    fn of_cpvm(&mut self, name: &str) -> u32 {
        self.handed.retain(|(_, at)| at.elapsed() < HANDED);
        let handed = self.handed.iter().filter(|(cpvm, _)| cpvm == name).count();
        let told = self.sessions.get(name).copied().unwrap_or_default();
        told.saturating_add(u32::try_from(handed).unwrap_or(u32::MAX))
    }

    fn copies_of(&self, name: &str) -> u32 {
        u32::try_from(self.copies.iter().filter(|ssvm| *ssvm == name).count()).unwrap_or(u32::MAX)
    }
}

/// A copy that an SSVM is busy with, as long as it lives.
pub(super) struct Busy<'a> {
    manage: &'a Manage,
    name: String,
}

impl<'a> Busy<'a> {
    /// Counts it.
    pub(super) fn new(manage: &'a Manage, name: &str) -> Self {
        manage.seen().work.copies.push(name.to_owned());
        Self { manage, name: name.to_owned() }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let copies = &mut self.manage.seen().work.copies;
        if let Some(place) = copies.iter().position(|name| *name == self.name) {
            copies.swap_remove(place);
        }
    }
}

/// What one of them has to do.
fn load(manage: &Manage, vm: &Vm) -> Result<u32, DbError> {
    Ok(match vm.kind {
        Kind::Ssvm => {
            let downloads = manage.zoned.db.downloads_of(&vm.name)?;
            downloads.saturating_add(manage.seen().work.copies_of(&vm.name))
        }
        _ => manage.seen().work.of_cpvm(&vm.name),
    })
}

/// The SSVM or CPVM that shall have the next transfer or session: of those that can work the one with the least.
pub(super) fn pick(manage: &Manage, kind: Kind) -> Result<(Vm, AttachedAgent), String> {
    let vms = manage.zoned.db.vms().map_err(|error| error.to_string())?;
    let crew: Vec<Vm> =
        vms.into_iter().filter(|vm| vm.kind == kind && vm.wanted != Wanted::Removed).collect();
    let Some(first) = crew.first() else {
        return Err(match kind {
            Kind::Ssvm => "The zone has no SSVM (system.ssvm)".to_owned(),
            _ => "The zone has no CPVM (system.cpvm)".to_owned(),
        });
    };
    let missing = format!("{} has not joined yet; see `manage status`", first.name);
    let mut able = Vec::new();
    for vm in crew.into_iter().filter(|vm| vm.wanted == Wanted::Running) {
        if let Some(agent) = manage.agent(&vm.name) {
            able.push((load(manage, &vm).map_err(|error| error.to_string())?, vm, agent));
        }
    }
    let best = able.into_iter().min_by_key(|(load, vm, _)| (*load, vm.id));
    best.map(|(_, vm, agent)| (vm, agent)).ok_or(missing)
}

/// Starts or stops one where that is due; true where something has changed.
pub(super) fn adjust(manage: &Manage, vms: &[Vm]) -> Result<bool, DbError> {
    let zone = manage.zoned.zone();
    let mut changed = false;
    for (place, kind, each) in
        [(0, Kind::Ssvm, zone.system.ssvm_transfers), (1, Kind::Cpvm, zone.system.cpvm_sessions)]
    {
        let member = |vm: &Vm| -> Result<Member, DbError> {
            let ready = manage.agent(&vm.name).is_some();
            Ok(Member { id: vm.id, wanted: vm.wanted, ready, load: load(manage, vm)? })
        };
        let members: Vec<Member> =
            vms.iter().filter(|vm| vm.kind == kind).map(member).collect::<Result<_, DbError>>()?;
        let hold = zone.system.spare_after.as_secs();
        let change = scale(&members, each, &mut manage.seen().work.calm[place], hold, seconds());
        let (id, wanted, text) = match change {
            Some(Change::Start(id)) => (id, Wanted::Running, "is needed: the others have enough to do"),
            Some(Change::Stop(id)) => (id, Wanted::Spare, "is not needed now: it has nothing to do"),
            None => continue,
        };
        manage.zoned.db.want(id, wanted)?;
        if let Some(vm) = vms.iter().find(|vm| vm.id == id) {
            manage.zoned.event(&vm.name, text);
        }
        changed = true;
    }
    Ok(changed)
}
