//! How many SSVMs and CPVMs run: as many as there is to do, a pure function.
//!
//! Another one is started while all that run have as much to do as they should. One that has nothing to do is stopped when
//! for some time half of what the others that work can do would have been enough; the first one is never stopped.

use crate::db::Wanted;

/// One of several VMs that share their work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Number of the VM.
    pub(crate) id: i64,
    /// Whether it shall run.
    pub(crate) wanted: Wanted,
    /// It can be given work.
    pub(crate) ready: bool,
    /// Transfers or sessions that it has.
    pub(crate) load: u32,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is needed.
    Start(i64),
    /// It is not needed, and has nothing to do.
    Stop(i64),
}

/// Decides. `each` is what one should have to do at most; `calm` is since when fewer would do; `hold` is for how long
/// they must, in seconds as `now`.
pub(crate) fn scale(
    members: &[Member],
    each: u32,
    calm: &mut Option<u64>,
    hold: u64,
    now: u64,
) -> Option<Change> {
    // Work may have come between the decision to stop it and the stop.
    if let Some(busy) = members.iter().find(|m| m.wanted == Wanted::Spare && m.load > 0) {
        return Some(Change::Start(busy.id));
    }
    let running: Vec<&Member> = members.iter().filter(|m| m.wanted == Wanted::Running).collect();
    let count = u32::try_from(running.len()).unwrap_or(u32::MAX);
    let load = running.iter().fold(0_u32, |sum, m| sum.saturating_add(m.load));
    if load >= each.saturating_mul(count) {
        *calm = None;
        let spare = members.iter().find(|m| m.wanted == Wanted::Spare);
        return spare.filter(|_| count > 0).map(|m| Change::Start(m.id));
    }
    let others = running.iter().filter(|m| m.ready).count().saturating_sub(1);
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    if others == 0 || load.saturating_mul(2) > each.saturating_mul(others) {
        *calm = None;
        return None;
    }
    if now.saturating_sub(*calm.get_or_insert(now)) < hold {
        return None;
    }
    let idle = running.iter().skip(1).rev().find(|m| m.ready && m.load == 0)?;
    *calm = None;
    Some(Change::Stop(idle.id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(all: &[(Wanted, u32)]) -> Vec<Member> {
        let member = |(id, (wanted, load)): (i64, &(Wanted, u32))| Member {
            id,
            wanted: *wanted,
            ready: *wanted == Wanted::Running,
            load: *load,
        };
        (1..).zip(all).map(member).collect()
    }

    #[test]
    fn another_one_starts_when_all_have_enough_to_do() {
        use Wanted::{Running, Spare, Stopped};
        let mut calm = None;
        let mut now = |all: &[(Wanted, u32)]| scale(&members(all), 5, &mut calm, 300, 10);
        assert_eq!(now(&[(Running, 4), (Spare, 0)]), None);
        assert_eq!(now(&[(Running, 5), (Spare, 0), (Spare, 0)]), Some(Change::Start(2)));
        assert_eq!(now(&[(Running, 5), (Running, 0), (Spare, 0)]), None, "the second one is coming");
        assert_eq!(now(&[(Running, 7), (Running, 3), (Spare, 0)]), Some(Change::Start(3)));
        assert_eq!(now(&[(Running, 9), (Running, 9)]), None, "there are no more");
        assert_eq!(
            now(&[(Running, 5), (Stopped, 0), (Spare, 0)]),
            Some(Change::Start(3)),
            "the operator's word counts"
        );
        assert_eq!(now(&[(Stopped, 0), (Spare, 0)]), None);
        assert_eq!(now(&[(Running, 1), (Spare, 1)]), Some(Change::Start(2)), "work came in the last moment");
    }

    #[test]
    fn one_that_is_idle_is_stopped_after_a_while_and_not_before() {
        use Wanted::Running;
        let mut calm = None;
        let mut at = |now: u64, all: &[(Wanted, u32)]| scale(&members(all), 5, &mut calm, 300, now);
        assert_eq!(at(0, &[(Running, 1), (Running, 0), (Running, 0)]), None);
        assert_eq!(at(299, &[(Running, 1), (Running, 0), (Running, 0)]), None);
        assert_eq!(at(300, &[(Running, 1), (Running, 0), (Running, 0)]), Some(Change::Stop(3)));
        assert_eq!(at(301, &[(Running, 1), (Running, 0)]), None, "it begins to count anew");
        assert_eq!(at(400, &[(Running, 3), (Running, 0)]), None, "half of five is less than three");
        assert_eq!(at(700, &[(Running, 1), (Running, 1)]), None, "it counts from now");
        assert_eq!(at(1000, &[(Running, 1), (Running, 1)]), None, "none is idle");
        assert_eq!(at(1001, &[(Running, 2), (Running, 0)]), Some(Change::Stop(2)));
        assert_eq!(at(5000, &[(Running, 0)]), None);
        assert_eq!(at(9000, &[(Running, 0)]), None, "the last one stays");
    }

    proptest! {
        #[test]
        fn none_with_work_and_never_the_first_is_stopped(
            all in prop::collection::vec((0..3_u8, 0..20_u32, any::<bool>()), 1..8),
            each in 1..10_u32,
        ) {
            let wanted = [Wanted::Running, Wanted::Spare, Wanted::Stopped];
            let members: Vec<Member> = (1..).zip(&all).map(|(id, (state, load, ready))| {
                Member { id, wanted: wanted[usize::from(*state)], ready: *ready, load: *load }
            }).collect();
            let of = |id: i64| members.iter().find(|m| m.id == id).unwrap();
            match scale(&members, each, &mut Some(0), 10, 1_000) {
                Some(Change::Stop(id)) => {
                    let first = members.iter().find(|m| m.wanted == Wanted::Running).unwrap();
                    prop_assert!(of(id).load == 0 && of(id).ready && id != first.id);
                    prop_assert_eq!(of(id).wanted, Wanted::Running);
                }
                Some(Change::Start(id)) => prop_assert_eq!(of(id).wanted, Wanted::Spare),
                None => {}
            }
        }
    }
}
