//! Whole zones on a clock of their own: links are cut, beats are late, guards and the manager start again.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{
    guard::Word,
    judge::{Verdict, judge},
    links::Links,
    *,
};

const FENCE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(250);

struct Sim {
    now: Moment,
    rolls: Vec<Roll>,
    /// The manager is the first.
    links: Vec<Links>,
    words: Vec<Word>,
    /// Who reaches whom.
    cut: Vec<Vec<bool>>,
    /// Beats on their way: when they arrive, to whom, what.
    wire: VecDeque<(Moment, usize, usize, Vec<u8>)>,
    delay: Duration,
    /// The hosts on which the one VM runs.
    runs: Vec<bool>,
    /// Where the manager has put it.
    placed: usize,
    runs_of_guards: u64,
    moves: usize,
}

impl Sim {
    fn new(hosts: usize) -> Self {
        Self::placed(hosts, 1)
    }

    /// With the VM on that host.
    fn placed(hosts: usize, placed: usize) -> Self {
        let names: Vec<_> = (1..=hosts)
            .map(|n| (format!("h{n}"), Ipv4Addr::new(192, 0, 2, u8::try_from(n).unwrap())))
            .collect();
        let rolls = rolls("secret", Ipv4Addr::new(192, 0, 2, 100), &names, FENCE);
        let now = Duration::from_secs(1_000);
        let links = rolls.iter().map(|roll| Links::new(roll.clone(), 1, now)).collect();
        let mut sim = Self {
            now,
            links,
            words: vec![Word::default(); hosts + 1],
            cut: vec![vec![false; hosts + 1]; hosts + 1],
            wire: VecDeque::new(),
            delay: Duration::ZERO,
            runs: vec![false; hosts + 1],
            placed,
            runs_of_guards: 1,
            moves: 0,
            rolls,
        };
        sim.pass(Duration::from_secs(5));
        assert!(sim.words[1..].iter().all(|word| word.holds));
        sim.runs[placed] = true;
        sim
    }

    fn index(&self, at: SocketAddrV4) -> usize {
        self.rolls.iter().position(|roll| roll.at == at).unwrap()
    }

    /// Splits all into two parts; those whose bit is set cannot reach those whose bit is not.
    fn split(&mut self, side: u32) {
        let len = self.cut.len();
        for (a, b) in (0..len).flat_map(|a| (0..len).map(move |b| (a, b))) {
            self.cut[a][b] = (side >> a) & 1 != (side >> b) & 1;
        }
    }

    /// A new run of one: it has forgotten everything but what a guard keeps.
    fn begin_again(&mut self, who: usize) {
        self.runs_of_guards += 1;
        self.links[who] = Links::new(self.rolls[who].clone(), self.runs_of_guards, self.now);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        if now.subsec_millis() == 0 {
            for from in 0..self.links.len() {
                for (at, datagram) in self.links[from].beats(now) {
                    let to = self.index(at);
                    self.wire.push_back((now + self.delay, from, to, datagram));
                }
            }
        }
        for _ in 0..self.wire.len() {
            let Some((due, from, to, datagram)) = self.wire.pop_front() else { break };
            if due > now {
                self.wire.push_back((due, from, to, datagram));
            } else if !self.cut[from][to] {
                self.links[to].receive(&datagram, now);
            }
        }
        if now.subsec_millis().is_multiple_of(500) {
            for host in 1..self.links.len() {
                let holds = self.links[host].holds(now);
                if self.words[host].look(holds, "g", now, FENCE) {
                    self.runs[host] = false;
                }
            }
            self.manage();
        }
        let running = self.runs.iter().filter(|runs| **runs).count();
        assert!(running <= 1, "{running} copies at {now:?}");
    }

    /// What the manager does: the VM of a lost host is started on one that it reaches and that holds; one that it
    /// knows to be off is started again where it was.
    fn manage(&mut self) {
        let now = self.now;
        let reaches = |sim: &Self, host: usize| !sim.cut[0][host] && !sim.cut[host][0];
        if judge(&self.links[0], &format!("h{}", self.placed), now) == Verdict::Lost {
            let other = (1..self.runs.len())
                .find(|host| *host != self.placed && self.links[0].hears(&format!("h{host}"), now));
            if let Some(other) = other {
                self.placed = other;
                self.moves += 1;
            }
        }
        let placed = self.placed;
        if reaches(self, placed) && self.words[placed].holds && !self.runs[placed] {
            self.runs[placed] = true;
        }
    }
}

#[test]
fn every_split_of_a_manager_and_three_hosts() {
    for side in 0..16_u32 {
        let mut sim = Sim::new(3);
        sim.split(side);
        sim.pass(Duration::from_secs(60));
        // The first host, with the VM, is on the other side of the manager, which hears at least half.
        let alone = (side & 1) != (side >> 1) & 1;
        let with_manager = (0..4).filter(|n| (side >> n) & 1 == side & 1).count();
        let lost = alone && with_manager >= 2;
        assert_eq!(sim.moves, usize::from(lost), "split {side:04b}");
        // A host with the manager, or in a part of three, keeps it.
        let keeps = !alone || with_manager == 1;
        assert_eq!(sim.runs[1], keeps, "split {side:04b}");
        assert!(keeps || sim.runs.iter().any(|runs| *runs), "split {side:04b}: it runs nowhere");
        sim.split(0);
        sim.pass(Duration::from_secs(60));
        assert_eq!(sim.runs.iter().filter(|runs| **runs).count(), 1, "split {side:04b}, healed");
    }
}

/// The last host of 17 has no vote; the first 15 and the manager have one each.
#[test]
fn a_host_without_a_vote_is_judged_as_the_others_are() {
    const LAST: usize = VOTERS + 2;
    let voters = |count: usize| ((1_u32 << count) - 1) << 1;
    // Who is with the host, whether it keeps its VM, and whether that is moved.
    for (with, keeps, moves) in [
        (0, false, 1),
        (1 << (VOTERS + 1), false, 1),
        // Eight of sixteen votes are not more than half, and the manager hears the others.
        (voters(8), false, 1),
        (voters(9), true, 0),
        (voters(VOTERS), true, 0),
    ] {
        let mut sim = Sim::placed(LAST, LAST);
        assert_eq!(
            (sim.rolls[LAST].votes(), sim.rolls[LAST].votes, sim.rolls[LAST].others.len()),
            (16, false, 16)
        );
        assert_eq!((sim.rolls[0].votes(), sim.rolls[1].votes()), (16, 16));
        sim.split(with | 1 << LAST);
        sim.pass(Duration::from_secs(40));
        assert_eq!((sim.runs[LAST], sim.moves), (keeps, moves), "with {with:b}");
        sim.split(0);
        sim.pass(Duration::from_secs(20));
        assert_eq!(sim.runs.iter().filter(|runs| **runs).count(), 1, "with {with:b}, healed");
    }
}

#[test]
fn one_who_goes_by_another_list_gives_no_host_up() {
    let mut sim = Sim::new(3);
    // The second host has a list with fewer hosts: its places are others.
    let names: Vec<_> =
        (1..=2).map(|n| (format!("h{n}"), Ipv4Addr::new(192, 0, 2, u8::try_from(n).unwrap()))).collect();
    let older = rolls("secret", Ipv4Addr::new(192, 0, 2, 100), &names, FENCE);
    sim.runs_of_guards = 9;
    sim.links[2] = Links::new(older[2].clone(), 9, sim.now);
    sim.split(1 << 1);
    sim.pass(Duration::from_secs(60));
    assert!(sim.links[0].hears("h2", sim.now) && !sim.links[0].agrees("h2"));
    assert!(matches!(judge(&sim.links[0], "h1", sim.now), Verdict::Lives { .. }));
    assert_eq!(sim.moves, 0);
    sim.begin_again(2);
    sim.pass(Duration::from_secs(60));
    assert_eq!(sim.moves, 1, "by the same list it is lost");
}

#[test]
fn the_largest_zone_fits_into_a_beat() {
    let names: Vec<_> = (0..MOST_HOSTS)
        .map(|n| (format!("{n:0>63}"), Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap())))
        .collect();
    let all = rolls("secret", Ipv4Addr::new(192, 0, 2, 100), &names, FENCE);
    let now = Duration::from_secs(3_000_000);
    let mut manager = Links::new(all[0].clone(), u64::MAX / 2, now);
    let mut first = Links::new(all[1].clone(), u64::MAX / 2, now);
    for roll in &all[2..] {
        let mut other = Links::new(roll.clone(), u64::MAX / 2, now);
        let beats = other.beats(now);
        let (_, datagram) = beats.iter().find(|(at, _)| *at == all[1].at).unwrap();
        assert!(first.receive(datagram, now));
    }
    // All of them were heard a month ago.
    let late = now + Duration::from_secs(30 * 24 * 3600);
    let beats = first.beats(late);
    let (_, datagram) = beats.iter().find(|(at, _)| *at == all[0].at).unwrap();
    assert!(datagram.len() <= beat::LIMIT, "{}", datagram.len());
    assert!(manager.receive(datagram, late));
}

#[test]
fn hosts_go_on_without_their_manager() {
    let mut sim = Sim::new(3);
    sim.split(1);
    sim.pass(Duration::from_secs(600));
    assert!(sim.runs[1] && sim.words.iter().all(|word| word.epoch == 0));
}

#[test]
fn a_manager_in_the_smaller_part_starts_nothing() {
    let mut sim = Sim::new(2);
    sim.split(1);
    sim.pass(Duration::from_secs(60));
    assert_eq!(judge(&sim.links[0], "h1", sim.now), Verdict::Unknown { heard: 1 });
    assert_eq!(sim.moves, 0);
}

#[test]
fn a_link_that_carries_one_way_counts_for_nothing() {
    let mut sim = Sim::new(1);
    sim.cut[0][1] = true;
    sim.pass(Duration::from_secs(10));
    assert!(!sim.links[0].hears("h1", sim.now) && !sim.links[1].hears(MANAGER, sim.now));
    // But the manager has heard that it lives.
    assert!(matches!(judge(&sim.links[0], "h1", sim.now), Verdict::Lives { .. }));
}

#[test]
fn old_beats_prove_nothing() {
    let mut sim = Sim::new(2);
    let now = sim.now;
    let beats = sim.links[1].beats(now);
    let (_, datagram) = beats.iter().find(|(at, _)| at.port() == MANAGER_PORT).unwrap();
    assert!(sim.links[0].receive(datagram, now));
    assert!(!sim.links[0].receive(datagram, now), "the same again");
    let (_, other) = beats.iter().find(|(at, _)| at.port() == GUARD_PORT).unwrap();
    assert!(!sim.links[0].receive(other, now), "one for somebody else");
}

#[test]
fn lists_differ_where_hosts_or_times_do() {
    let hosts =
        [("h1".to_owned(), Ipv4Addr::new(192, 0, 2, 1)), ("h2".to_owned(), Ipv4Addr::new(192, 0, 2, 2))];
    let manager = Ipv4Addr::new(192, 0, 2, 100);
    let all = rolls("secret", manager, &hosts, FENCE);
    let fewer = rolls("secret", manager, &hosts[..1], FENCE);
    let slower = rolls("secret", manager, &hosts, FENCE * 2);
    assert!(all[0].generation != fewer[0].generation && all[0].generation != slower[0].generation);
    assert!(fewer[1].is_alone() && !all[1].is_alone());
    assert_eq!(all[1].others[1].key, all[2].others[1].key, "a pair has one key");
    assert_ne!(all[1].others[0].key, all[1].others[1].key, "and each pair its own");
}

#[derive(Debug, Clone)]
enum Event {
    Split(u32),
    Cut(usize, usize, bool),
    Delay(u64),
    BeginAgain(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..16_u32).prop_map(Event::Split),
        4 => (0..4_usize, 0..4_usize, any::<bool>()).prop_map(|(a, b, cut)| Event::Cut(a, b, cut)),
        1 => (0..2_000_u64).prop_map(Event::Delay),
        1 => (0..4_usize).prop_map(Event::BeginAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The assertion is in every step: never two copies.
    #[test]
    fn no_vm_runs_twice(events in prop::collection::vec((event(), 1..40_u64), 1..20)) {
        let mut sim = Sim::new(3);
        for (event, seconds) in events {
            match event {
                Event::Split(side) => sim.split(side),
                Event::Cut(a, b, cut) => sim.cut[a][b] = cut,
                Event::Delay(ms) => sim.delay = Duration::from_millis(ms),
                Event::BeginAgain(who) => sim.begin_again(who),
            }
            sim.pass(Duration::from_secs(seconds));
        }
        sim.split(0);
        sim.delay = Duration::ZERO;
        sim.pass(Duration::from_secs(60));
        prop_assert_eq!(sim.runs.iter().filter(|runs| **runs).count(), 1, "it runs again once all is well");
    }
}
