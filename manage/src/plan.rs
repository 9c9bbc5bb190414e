//! From what is wanted and what is seen to what must be done next: a pure function.

use std::collections::BTreeMap;

use crate::{
    db::{Kind, Wanted},
    zone::Placement,
};

/// What the manager knows of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Number.
    pub(crate) id: i64,
    /// What it is.
    pub(crate) kind: Kind,
    /// Whether it shall run.
    pub(crate) wanted: Wanted,
    /// Host it was started on last.
    pub(crate) host: Option<String>,
    /// Whether it runs.
    pub(crate) seen: Seen,
    /// A host on which another copy of it runs, which must end.
    pub(crate) stray: Option<String>,
    /// The start for which it got a certificate.
    pub(crate) certificate_for: String,
    /// The start for which its documents were applied; empty where they have changed since.
    pub(crate) configured_for: String,
    /// MiB of memory that it takes.
    pub(crate) memory_mib: u64,
    /// Tag of the hosts on which it may run.
    pub(crate) tag: Option<String>,
    /// It is not to be started before something else is done.
    pub(crate) waits: bool,
    /// Something is being done to it.
    pub(crate) busy: bool,
    /// Nothing is tried before this time, in seconds.
    pub(crate) not_before: u64,
}

/// Whether a VM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Its host is not connected, or has not reported.
    Unknown,
    /// It does not.
    Off,
    /// It runs.
    On {
        /// Host.
        host: String,
        /// Which start of it.
        start_id: String,
        /// Whether that start went through.
        ready: bool,
    },
}

/// What must be done to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start it on this host, or go on with a start that was cut off.
    Start(String),
    /// Stop it on this host.
    Stop(String),
    /// Give it its certificate.
    Certify {
        /// Host.
        host: String,
        /// Which start of it.
        start_id: String,
    },
    /// Give a router its documents.
    Configure {
        /// Host.
        host: String,
        /// Which start of it.
        start_id: String,
    },
}

/// A host that is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Number of VMs on it.
    pub(crate) vms: usize,
    /// It is out of service: nothing is started there, and its system VMs are stopped.
    pub(crate) drained: bool,
    /// MiB of memory that no VM takes.
    pub(crate) free_mib: u64,
    /// What it is good for.
    pub(crate) tags: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The next action for each VM that needs one.
    pub(crate) actions: Vec<(i64, Action)>,
    /// Why there is no host for a VM.
    pub(crate) homeless: Vec<(i64, String)>,
}

/// Plans. `hosts` are the ones that are up; `now` in seconds.
pub(crate) fn plan(views: &[View], hosts: &BTreeMap<String, Room>, placement: Placement, now: u64) -> Plan {
    let mut load = hosts.clone();
    let mut plan = Plan::default();
    for view in views.iter().filter(|v| !v.busy && v.not_before <= now) {
        match next(view, &mut load, placement) {
            Ok(Some(action)) => plan.actions.push((view.id, action)),
            Ok(None) => {}
            Err(reason) => plan.homeless.push((view.id, reason)),
        }
    }
    plan
}

fn next(
    view: &View,
    load: &mut BTreeMap<String, Room>,
    placement: Placement,
) -> Result<Option<Action>, String> {
    if let Some(host) = &view.stray {
        return Ok(Some(Action::Stop(host.clone())));
    }
    let drained = |host: &String| load.get(host).is_some_and(|room| room.drained);
    Ok(match (&view.seen, view.wanted) {
        // A VM of a host that cannot be asked may still run: starting it twice would harm its disk.
        (Seen::Unknown, _) | (Seen::Off, Wanted::Stopped | Wanted::Spare | Wanted::Removed) => None,
        (Seen::On { host, .. }, Wanted::Stopped | Wanted::Spare | Wanted::Removed) => {
            Some(Action::Stop(host.clone()))
        }
        (Seen::Off, Wanted::Running) if view.waits => None,
        (Seen::Off, Wanted::Running) => {
            let host = place(view, load, placement)?;
            let room = load.entry(host.clone()).or_default();
            room.vms += 1;
            room.free_mib = room.free_mib.saturating_sub(view.memory_mib);
            Some(Action::Start(host))
        }
        // It goes where there is another host for it.
        (Seen::On { host, .. }, Wanted::Running)
            if view.kind != Kind::Guest && drained(host) && load.values().any(|room| !room.drained) =>
        {
            Some(Action::Stop(host.clone()))
        }
        (Seen::On { host, ready: false, .. }, Wanted::Running) => Some(Action::Start(host.clone())),
        (Seen::On { host, start_id, ready: true }, Wanted::Running) => {
            let (host, start_id) = (host.clone(), start_id.clone());
            match view.kind {
                Kind::Ssvm | Kind::Cpvm if view.certificate_for != start_id => {
                    Some(Action::Certify { host, start_id })
                }
                Kind::Router if view.configured_for != start_id => Some(Action::Configure { host, start_id }),
                _ => None,
            }
        }
    })
}

/// A VM goes where it was, for its disk is there; a new one, and a system VM whose host is out of service, to the host
/// that the placement prefers. All that a system VM has on its disk it is told again.
fn place(view: &View, load: &BTreeMap<String, Room>, placement: Placement) -> Result<String, String> {
    let kept = view
        .host
        .as_ref()
        .filter(|host| view.kind == Kind::Guest || load.get(*host).is_none_or(|room| !room.drained));
    let fits = |room: &Room| {
        let tagged = view.tag.as_ref().is_none_or(|tag| room.tags.contains(tag));
        !room.drained && room.free_mib >= view.memory_mib && (tagged || kept.is_some())
    };
    let rooms = load.iter().filter(|(name, room)| kept.is_none_or(|kept| kept == *name) && fits(room));
    let best = match placement {
        Placement::Spread => rooms.min_by_key(|(_, room)| room.vms),
        Placement::Pack => rooms.max_by_key(|(_, room)| room.vms),
    };
    best.map(|(host, _)| host.clone()).ok_or_else(|| {
        let tag = view.tag.as_ref().map(|tag| format!(", tag {tag}")).unwrap_or_default();
        let wanted = format!("{} MiB of memory free{tag}, in service", view.memory_mib);
        match kept {
            Some(host) => format!("its disk is on {host}, which must be up, with {wanted}"),
            None => format!("no host is up with {wanted}"),
        }
    })
}

/// Seconds to wait after so many failures in a row: 1, 2, 4 … 60.
pub(crate) fn back_off(failures: u32) -> u64 {
    1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(60).clamp(1, 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(kind: Kind, wanted: Wanted, seen: Seen) -> View {
        View {
            id: 1,
            kind,
            wanted,
            host: None,
            seen,
            stray: None,
            certificate_for: String::new(),
            configured_for: String::new(),
            memory_mib: 512,
            tag: None,
            waits: false,
            busy: false,
            not_before: 0,
        }
    }

    fn room(vms: usize, drained: bool, free_mib: u64) -> Room {
        Room { vms, drained, free_mib, tags: Vec::new() }
    }

    fn now(views: &[View], hosts: &BTreeMap<String, Room>) -> Vec<(i64, Action)> {
        plan(views, hosts, Placement::Spread, 10).actions
    }

    fn hosts(names: &[(&str, bool)]) -> BTreeMap<String, Room> {
        names.iter().map(|(name, drained)| ((*name).to_owned(), room(0, *drained, 4096))).collect()
    }

    fn on(ready: bool) -> Seen {
        Seen::On { host: "h1".into(), start_id: "a".into(), ready }
    }

    fn one(view: &View) -> Option<Action> {
        now(std::slice::from_ref(view), &hosts(&[("h1", false)])).pop().map(|(_, a)| a)
    }

    #[test]
    fn a_vm_goes_through_its_stages() {
        let mut vm = view(Kind::Ssvm, Wanted::Running, Seen::Off);
        assert_eq!(one(&vm), Some(Action::Start("h1".into())));
        vm.seen = on(false);
        assert_eq!(one(&vm), Some(Action::Start("h1".into())));
        vm.seen = on(true);
        assert_eq!(one(&vm), Some(Action::Certify { host: "h1".into(), start_id: "a".into() }));
        vm.certificate_for = "a".into();
        assert_eq!(one(&vm), None);
        vm.wanted = Wanted::Stopped;
        assert_eq!(one(&vm), Some(Action::Stop("h1".into())));
    }

    #[test]
    fn a_router_that_started_anew_is_configured_anew() {
        let mut vm = view(Kind::Router, Wanted::Running, on(true));
        vm.configured_for = "before".into();
        assert_eq!(one(&vm), Some(Action::Configure { host: "h1".into(), start_id: "a".into() }));
        vm.configured_for = "a".into();
        assert_eq!(one(&vm), None);
    }

    #[test]
    fn a_vm_that_may_still_run_is_left_alone() {
        assert_eq!(one(&view(Kind::Router, Wanted::Running, Seen::Unknown)), None);
        assert_eq!(one(&view(Kind::Router, Wanted::Stopped, Seen::Unknown)), None);
    }

    #[test]
    fn a_vm_whose_disk_is_on_a_host_that_is_gone_waits_for_it() {
        let mut vm = view(Kind::Cpvm, Wanted::Running, Seen::Off);
        vm.host = Some("h2".into());
        assert_eq!(one(&vm), None);
    }

    #[test]
    fn system_vms_leave_a_drained_host_and_guests_stay() {
        let both = hosts(&[("h1", true), ("h2", false)]);
        let next = |view: &View, hosts| now(std::slice::from_ref(view), hosts).pop().map(|(_, a)| a);
        let mut vm = View { host: Some("h1".into()), ..view(Kind::Router, Wanted::Running, on(true)) };
        assert_eq!(next(&vm, &both), Some(Action::Stop("h1".into())));
        vm.seen = Seen::Off;
        assert_eq!(next(&vm, &both), Some(Action::Start("h2".into())));
        let mut guest = View { host: Some("h1".into()), ..view(Kind::Guest, Wanted::Running, on(true)) };
        assert_eq!(next(&guest, &both), None);
        guest.seen = Seen::Off;
        assert_eq!(next(&guest, &both), None, "its disk is on the host that is out of service");
        // With nowhere to go a VM runs on.
        vm.seen = on(true);
        vm.configured_for = "a".into();
        assert_eq!(next(&vm, &hosts(&[("h1", true)])), None);
    }

    #[test]
    fn a_host_needs_room_and_the_tag() {
        let mut all = BTreeMap::from([
            ("h1".to_owned(), room(1, false, 100)),
            ("h2".to_owned(), room(5, false, 4096)),
            ("h3".to_owned(), room(7, false, 4096)),
        ]);
        let vm = view(Kind::Router, Wanted::Running, Seen::Off);
        let home = |vm: &View, all: &BTreeMap<String, Room>, placement| {
            plan(std::slice::from_ref(vm), all, placement, 10)
        };
        let start = |host: &str| vec![(1, Action::Start(host.to_owned()))];
        assert_eq!(home(&vm, &all, Placement::Spread).actions, start("h2"), "h1 has no room");
        assert_eq!(home(&vm, &all, Placement::Pack).actions, start("h3"));
        let tagged = View { tag: Some("ssd".into()), ..vm.clone() };
        let none = home(&tagged, &all, Placement::Spread);
        assert!(none.actions.is_empty() && none.homeless[0].1.contains("512 MiB of memory free, tag ssd"));
        all.get_mut("h3").unwrap().tags.push("ssd".to_owned());
        assert_eq!(home(&tagged, &all, Placement::Spread).actions, start("h3"));
        // Where a VM has its disk the tag does not matter any more, the room does.
        let kept = View { host: Some("h2".into()), ..tagged };
        assert_eq!(home(&kept, &all, Placement::Spread).actions, start("h2"));
        all.get_mut("h2").unwrap().free_mib = 511;
        let none = home(&kept, &all, Placement::Spread);
        assert!(none.homeless[0].1.starts_with("its disk is on h2"), "{none:?}");
    }

    #[test]
    fn what_is_planned_together_shares_the_room() {
        let views: Vec<_> =
            (0..3).map(|id| View { id, ..view(Kind::Guest, Wanted::Running, Seen::Off) }).collect();
        let all = BTreeMap::from([("h1".to_owned(), room(0, false, 1024))]);
        let plan = plan(&views, &all, Placement::Spread, 10);
        assert_eq!((plan.actions.len(), plan.homeless.len()), (2, 1));
    }

    #[test]
    fn a_second_copy_ends() {
        let vm = View { stray: Some("h2".into()), ..view(Kind::Router, Wanted::Running, on(true)) };
        assert_eq!(one(&vm), Some(Action::Stop("h2".into())));
    }

    #[test]
    fn a_guest_waits_for_its_router() {
        let mut vm = View { waits: true, ..view(Kind::Guest, Wanted::Running, Seen::Off) };
        assert_eq!(one(&vm), None);
        vm.waits = false;
        assert_eq!(one(&vm), Some(Action::Start("h1".into())));
    }

    #[test]
    fn new_vms_spread_over_the_hosts() {
        let views: Vec<_> =
            (0..4).map(|id| View { id, ..view(Kind::Guest, Wanted::Running, Seen::Off) }).collect();
        let on_first = now(&views, &hosts(&[("h1", false), ("h2", false)]))
            .iter()
            .filter(|(_, a)| *a == Action::Start("h1".into()))
            .count();
        assert_eq!(on_first, 2);
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        assert_eq!([1, 2, 3, 6, 7, 100].map(back_off), [1, 2, 4, 32, 60, 60]);
        let mut vm = view(Kind::Router, Wanted::Running, Seen::Off);
        vm.not_before = 11;
        assert_eq!(one(&vm), None);
    }

    proptest! {
        #[test]
        fn nothing_is_planned_for_a_busy_vm(ready: bool, stopped: bool) {
            let wanted = if stopped { Wanted::Stopped } else { Wanted::Running };
            let vm = View { busy: true, ..view(Kind::Router, wanted, on(ready)) };
            prop_assert_eq!(one(&vm), None);
        }
    }
}
