//! The state of everything, for the screen.

use std::{collections::BTreeMap, time::Instant};

use common::channel::server::AttachedAgent;

use super::{Manage, drive};
use crate::{
    api::{HostStatus, NicStatus, Status, StoreStatus, VmStatus},
    db::{DbError, Kind, Owner, Vm, Wanted},
    plan::{Seen, View},
    zone::StoreKind,
};

/// How many events are shown.
const EVENTS: u32 = 100;

/// Looks at everything.
pub(super) fn status(manage: &Manage) -> Result<Status, DbError> {
    let zoned = &manage.zoned;
    let vms = zoned.db.vms()?;
    let views = drive::views(manage, &vms);
    let shown =
        vms.iter().zip(&views).filter(|(vm, view)| vm.wanted != Wanted::Removed || view.seen != Seen::Off);
    let vms: Vec<VmStatus> = shown.map(|(vm, view)| vm_status(manage, vm, view)).collect();
    let stores = stores(manage);
    let zone = zoned.zone();
    let hosts: Vec<HostStatus> = zone
        .hosts
        .iter()
        .map(|host| {
            let agent = manage.agent(&host.name);
            Ok(HostStatus {
                standing: manage.standing(&host.name)?,
                name: host.name.clone(),
                address: host.address.to_string(),
                up: agent.is_some(),
                last_ping: agent.map(|a: AttachedAgent| {
                    Instant::now().saturating_duration_since(a.last_ping()).as_secs()
                }),
            })
        })
        .collect::<Result<_, DbError>>()?;
    let settled = |vm: &VmStatus| match vm.wanted.as_str() {
        "running" => vm.state == "ready",
        _ => vm.state == "stopped",
    };
    Ok(Status {
        zone: zone.name.clone(),
        ready: hosts.iter().all(|h| h.up)
            && vms.iter().all(settled)
            && stores.iter().all(|store| store.error.is_none()),
        trouble: {
            let trouble = zoned.troubles();
            trouble.file.clone().or_else(|| trouble.copy.clone())
        },
        hosts,
        vms,
        stores,
        templates: zoned.db.templates()?,
        events: zoned.db.events(EVENTS, 0)?,
    })
}

fn stores(manage: &Manage) -> Vec<StoreStatus> {
    let failed = manage.seen().stores.clone();
    let zone = manage.zoned.zone();
    let stores = zone.stores.iter().map(|store| StoreStatus {
        name: store.name.clone(),
        kind: match store.kind {
            StoreKind::Nfs { .. } => "nfs",
            StoreKind::S3 { .. } => "s3",
        }
        .to_owned(),
        error: reasons(&failed, &store.name),
    });
    stores.collect()
}

/// Why SSVMs could not attach a store.
fn reasons(failed: &BTreeMap<(String, String), String>, store: &str) -> Option<String> {
    let of = failed.iter().filter(|((name, _), _)| name == store);
    let said: Vec<String> = of.map(|((_, ssvm), reason)| format!("{ssvm}: {reason}")).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn vm_status(manage: &Manage, vm: &Vm, view: &View) -> VmStatus {
    let agent = match vm.kind {
        Kind::Ssvm | Kind::Cpvm => Some(manage.agent(&vm.name).is_some()),
        Kind::Router | Kind::Guest => None,
    };
    let (state, host) = match &view.seen {
        Seen::Unknown => ("unknown", None),
        Seen::Off => ("stopped", None),
        Seen::On { host, start_id, ready } => {
            let done = match vm.kind {
                Kind::Router => view.configured_for == *start_id,
                Kind::Ssvm | Kind::Cpvm => view.certificate_for == *start_id && agent == Some(true),
                Kind::Guest => true,
            };
            (if *ready && done { "ready" } else { "running" }, Some(host.clone()))
        }
    };
    let seen = manage.seen();
    VmStatus {
        id: vm.id,
        name: vm.name.clone(),
        owner: match &vm.owner {
            Owner::Network(name) | Owner::Guest(name) => name.clone(),
            Owner::Ssvm(_) | Owner::Cpvm(_) => String::new(),
        },
        kind: vm.kind.text().to_owned(),
        wanted: vm.wanted.text().to_owned(),
        state: state.to_owned(),
        doing: seen.busy.get(&vm.id).map(|word| (*word).to_owned()),
        host,
        agent,
        error: seen
            .failed
            .get(&vm.id)
            .map(|failure| failure.text.clone())
            .or_else(|| seen.homeless.get(&vm.id).cloned()),
        nics: vm
            .nics
            .iter()
            .map(|nic| NicStatus {
                device: format!("eth{}", nic.device),
                traffic: format!("{:?}", nic.traffic),
                address: nic.address.to_string(),
                mac: nic.mac.clone(),
            })
            .collect(),
    }
}
