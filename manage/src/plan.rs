//! From what is wanted and what is seen to what must be done next: a pure function.

use std::collections::BTreeMap;

use crate::db::{Kind, Wanted};

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Number of VMs on it.
    pub(crate) vms: usize,
    /// It is out of service: nothing is started there, and its system VMs are stopped.
    pub(crate) drained: bool,
}

/// The next action for each VM that needs one. `hosts` are the ones that are up; `now` in seconds.
pub(crate) fn plan(views: &[View], hosts: &BTreeMap<String, Room>, now: u64) -> Vec<(i64, Action)> {
    let mut load = hosts.clone();
    let idle = views.iter().filter(|v| !v.busy && v.not_before <= now);
    idle.filter_map(|view| Some((view.id, next(view, &mut load)?))).collect()
}

fn next(view: &View, load: &mut BTreeMap<String, Room>) -> Option<Action> {
    if let Some(host) = &view.stray {
        return Some(Action::Stop(host.clone()));
    }
    let drained = |host: &String| load.get(host).is_some_and(|room| room.drained);
    match (&view.seen, view.wanted) {
        // A VM of a host that cannot be asked may still run: starting it twice would harm its disk.
        (Seen::Unknown, _) | (Seen::Off, Wanted::Stopped | Wanted::Removed) => None,
        (Seen::On { host, .. }, Wanted::Stopped | Wanted::Removed) => Some(Action::Stop(host.clone())),
        (Seen::Off, Wanted::Running) if view.waits => None,
        (Seen::Off, Wanted::Running) => {
            let host = place(view, load)?;
            load.entry(host.clone()).or_default().vms += 1;
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
    }
}

/// A VM goes where it was, for its disk is there; a new one, and a system VM whose host is out of service, to the host
/// with the fewest VMs. All that a system VM has on its disk it is told again.
fn place(view: &View, load: &BTreeMap<String, Room>) -> Option<String> {
    let free = |room: &Room| !room.drained;
    match &view.host {
        Some(host) if view.kind == Kind::Guest || load.get(host).is_none_or(free) => {
            load.get(host).filter(|room| free(room)).map(|_| host.clone())
        }
        _ => {
            let rooms = load.iter().filter(|(_, room)| free(room));
            rooms.min_by_key(|(_, room)| room.vms).map(|(host, _)| host.clone())
        }
    }
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
            waits: false,
            busy: false,
            not_before: 0,
        }
    }

    fn hosts(names: &[(&str, bool)]) -> BTreeMap<String, Room> {
        names.iter().map(|(name, drained)| ((*name).to_owned(), Room { vms: 0, drained: *drained })).collect()
    }

    fn on(ready: bool) -> Seen {
        Seen::On { host: "h1".into(), start_id: "a".into(), ready }
    }

    fn one(view: &View) -> Option<Action> {
        plan(std::slice::from_ref(view), &hosts(&[("h1", false)]), 10).pop().map(|(_, a)| a)
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
        let next = |view: &View, hosts| plan(std::slice::from_ref(view), hosts, 10).pop().map(|(_, a)| a);
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
        let on_first = plan(&views, &hosts(&[("h1", false), ("h2", false)]), 0)
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
