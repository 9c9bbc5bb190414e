//! Open sessions, and ended ones until management knows of them. Each is reported as removed exactly
//! once: management stumbles over one that it hears of twice.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use common::command::console::{Connection, LoadInfo};

use crate::wire::{Alive, Open};

/// Removed sessions in one report.
const GROUP: usize = 20;
/// Connections on which a group is reported; where all break before an answer, it counts as told.
const TRIES: u8 = 2;
/// Removed sessions that wait for a management server that is away.
const WAITING: usize = 10_000;
/// A session that serve does not list this long after it was granted is over.
const UNSEEN: Duration = Duration::from_secs(60);

/// The book of sessions. Pure: the caller brings the time.
#[derive(Debug, Default)]
pub struct Ledger {
    last: u64,
    open: BTreeMap<u64, Account>,
    /// Ended, but may still come back until then.
    lingering: Vec<(Instant, String)>,
    removed: VecDeque<String>,
    /// Those at the front of `removed` that management has been sent, and has not yet said to have read.
    group: Group,
}

/// Ended sessions that were reported together.
#[derive(Debug, Default)]
struct Group {
    /// How many at the front of the queue.
    count: usize,
    /// The connection that they were last sent on.
    on: u64,
    /// Connections that they were sent on.
    tries: u8,
    /// Whether they are in the last report.
    carried: bool,
}

#[derive(Debug)]
struct Account {
    since: Instant,
    /// What was granted; `None` where an earlier core did that.
    open: Option<Open>,
    connection: Connection,
    traffic: Option<Traffic>,
}

/// Whom an open session serves, and what it has carried, as serve last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Address of the browser.
    pub client: IpAddr,
    /// Bytes from the hypervisor to the browser.
    pub down: u64,
    /// Bytes from the browser to the hypervisor.
    pub up: u64,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no connection.
    NotSent,
    /// It was sent, but not answered.
    Unanswered,
    /// Management has it.
    Answered,
}

impl Ledger {
    /// Opens an account; `at` in milliseconds since 1970.
    pub fn open(&mut self, open: Open, now: Instant, at: i64) {
        self.last += 1;
        self.lingering.retain(|(_, session)| *session != open.session);
        let connection = open.connection(self.last, at);
        self.open.insert(open.key, Account { since: now, open: Some(open), connection, traffic: None });
    }

    /// What was granted to an open session, where it was here.
    pub fn granted(&self, key: u64) -> Option<&Open> {
        self.open.get(&key)?.open.as_ref()
    }

    /// Closes one. Returns what was granted where it was open here; the caller then says with
    /// [`Ledger::removed`] when it counts as removed. Others count as removed at once.
    pub fn close(&mut self, key: u64) -> Option<Open> {
        let account = self.open.remove(&key)?;
        if account.open.is_none()
            && let Some(session) = account.connection.session_uuid
        {
            self.removed(session, None);
        }
        account.open
    }

    /// A session is over; where it may still come back, it counts as removed only at `until`.
    pub fn removed(&mut self, session: String, until: Option<Instant>) {
        match until {
            Some(until) => self.lingering.push((until, session)),
            None if self.removed.len() < WAITING => self.removed.push_back(session),
            None => tracing::error!(session, "management will not hear that this console has ended"),
        }
    }

    /// Serve lists the sessions that it has: those of an earlier core are taken over, and the keys of
    /// those that it has lost are returned, to be closed.
    pub fn alive(&mut self, listed: Vec<Alive>, now: Instant) -> Vec<u64> {
        let keys: BTreeSet<u64> = listed.iter().map(|alive| alive.key).collect();
        for Alive { key, connection, client, down, up } in listed {
            let last = &mut self.last;
            let account = self.open.entry(key).or_insert_with(|| {
                *last += 1;
                let connection = Connection { id: *last, ..connection.clone() };
                Account { since: now, open: None, connection, traffic: None }
            });
            account.traffic = Some(Traffic { client, down, up });
            account.connection.last_used_time = connection.last_used_time;
        }
        let lost = |(key, account): (&u64, &Account)| {
            (!keys.contains(key) && now.duration_since(account.since) >= UNSEEN).then_some(*key)
        };
        self.open.iter().filter_map(lost).collect()
    }

    /// The open sessions with their traffic; `None` of those of the last seconds.
    pub fn sessions(&self) -> impl Iterator<Item = (&Connection, Option<Traffic>)> {
        self.open.values().map(|account| (&account.connection, account.traffic))
    }

    /// The key of the open session with this number.
    pub fn key(&self, id: u64) -> Option<u64> {
        self.open.iter().find(|(_, account)| account.connection.id == id).map(|(key, _)| *key)
    }

    /// Whether a session is open.
    pub fn is_open(&self, key: u64) -> bool {
        self.open.contains_key(&key)
    }

    /// The open sessions alone.
    pub fn load(&self) -> LoadInfo {
        let connections = self.open.values().map(|account| account.connection.clone()).collect();
        LoadInfo { connections, removed_sessions: None }
    }

    /// The next periodic report, over the connection with this number. [`Ledger::reported`] has to be called with its
    /// outcome.
    ///
    /// What lies in a connection that has gone silent still arrives where it recovers: ended sessions are sent a second
    /// time on another connection only.
    pub fn report(&mut self, now: Instant, connection: u64) -> LoadInfo {
        let (over, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lingering).into_iter().partition(|(until, _)| *until <= now);
        self.lingering = still;
        for (_, session) in over {
            self.removed(session, None);
        }
        if self.group.tries >= TRIES && self.group.on != connection {
            self.told();
        }
        if self.group.count == 0 {
            self.group = Group { count: self.removed.len().min(GROUP), ..Group::default() };
        }
        let on_its_way = self.group.tries > 0 && self.group.on == connection;
        self.group.carried = self.group.count > 0 && !on_its_way;
        let mut removed = Vec::new();
        if self.group.carried {
            (self.group.on, self.group.tries) = (connection, self.group.tries + 1);
            removed.extend(self.removed.iter().take(self.group.count).cloned());
        }
        LoadInfo { removed_sessions: Some(removed), ..self.load() }
    }

    /// What became of the last report. An answer says that all before it on the same connection was read as well.
    pub fn reported(&mut self, outcome: Outcome) {
        match outcome {
            // What it was to carry waits as before.
            Outcome::NotSent if self.group.carried => {
                (self.group.on, self.group.tries) = (0, self.group.tries - 1);
            }
            Outcome::NotSent | Outcome::Unanswered => {}
            Outcome::Answered => self.told(),
        }
    }

    fn told(&mut self) {
        self.removed.drain(..self.group.count);
        self.group = Group::default();
    }

    /// Removed sessions that management does not know of yet.
    pub fn waiting(&self) -> usize {
        self.removed.len() + self.lingering.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(key: u64, session: &str) -> Open {
        Open {
            key,
            host: "10.1.1.20".into(),
            port: 5901,
            to: ("10.1.1.20".into(), 5901),
            ask: true,
            vm: "vm".into(),
            password: "secret".into(),
            ticket: None,
            session: session.into(),
            client: [203, 0, 113, 7].into(),
        }
    }

    fn end(ledger: &mut Ledger, key: u64) {
        let open = ledger.close(key).unwrap();
        ledger.removed(open.session, None);
    }

    fn listed(ledger: &Ledger, keys: &[u64]) -> Vec<Alive> {
        keys.iter()
            .map(|key| {
                let connection = ledger.open[key].connection.clone();
                Alive { key: *key, connection, client: [203, 0, 113, 7].into(), down: 10, up: 1 }
            })
            .collect()
    }

    #[test]
    fn open_and_removed_sessions_are_reported() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.open(open(70, "a"), now, 1000);
        ledger.open(open(80, "b"), now, 2000);
        assert_eq!((ledger.key(1), ledger.key(2), ledger.key(3)), (Some(70), Some(80), None));
        let mut seen = listed(&ledger, &[70, 80]);
        seen[0].connection.last_used_time = 5000;
        assert!(ledger.alive(seen, now).is_empty());
        let load = ledger.load();
        assert_eq!((load.connections[0].create_time, load.connections[0].last_used_time), (1000, 5000));
        assert_eq!(load.removed_sessions, None);
        end(&mut ledger, 70);
        assert_eq!(ledger.close(70), None);
        let report = ledger.report(now, 1);
        assert_eq!(report.connections.len(), 1);
        assert_eq!(report.removed_sessions, Some(vec!["a".to_owned()]));
        ledger.reported(Outcome::Answered);
        assert_eq!(ledger.report(now, 1).removed_sessions, Some(vec![]));
    }

    #[test]
    fn sessions_of_an_earlier_core_are_taken_over_and_lost_ones_closed() {
        let (mut before, now) = (Ledger::default(), Instant::now());
        before.open(open(70, "a"), now, 0);
        before.open(open(80, "b"), now, 0);
        let seen = listed(&before, &[70, 80]);
        let mut ledger = Ledger::default();
        assert!(ledger.alive(seen.clone(), now).is_empty());
        assert_eq!(ledger.load().connections.len(), 2);
        ledger.open(open(90, "c"), now, 0);
        // Not listed yet is no loss at first.
        assert!(ledger.alive(seen[..1].to_vec(), now + UNSEEN / 2).is_empty());
        assert_eq!(ledger.alive(seen[..1].to_vec(), now + UNSEEN), [80, 90]);
        assert_eq!(ledger.close(80), None);
        end(&mut ledger, 90);
        assert_eq!(ledger.report(now, 1).removed_sessions, Some(vec!["b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn an_unanswered_report_is_tried_once_more_on_another_connection() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let removed = |ledger: &mut Ledger, on| ledger.report(now, on).removed_sessions.unwrap();
        ledger.removed("a".into(), None);
        assert_eq!(removed(&mut ledger, 1), ["a"]);
        ledger.reported(Outcome::NotSent);
        assert_eq!(removed(&mut ledger, 1), ["a"]);
        ledger.reported(Outcome::Unanswered);
        ledger.removed("b".into(), None);
        // It may still arrive.
        assert!(removed(&mut ledger, 1).is_empty());
        ledger.reported(Outcome::Unanswered);
        assert_eq!(removed(&mut ledger, 2), ["a"]);
        ledger.reported(Outcome::Unanswered);
        assert!(removed(&mut ledger, 2).is_empty());
        ledger.reported(Outcome::Unanswered);
        assert_eq!(removed(&mut ledger, 3), ["b"]);
        ledger.reported(Outcome::Answered);
        assert_eq!(ledger.waiting(), 0);
    }

    #[test]
    fn what_a_silent_connection_held_is_told_by_the_next_answer() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let removed = |ledger: &mut Ledger| ledger.report(now, 1).removed_sessions.unwrap();
        ledger.removed("a".into(), None);
        assert_eq!(removed(&mut ledger), ["a"]);
        ledger.reported(Outcome::Unanswered);
        ledger.removed("b".into(), None);
        assert!(removed(&mut ledger).is_empty());
        ledger.reported(Outcome::Answered);
        assert_eq!(removed(&mut ledger), ["b"]);
        ledger.reported(Outcome::Answered);
        assert_eq!(ledger.waiting(), 0);
    }

    #[test]
    fn a_session_that_comes_back_is_not_removed() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let until = now + Duration::from_secs(30);
        for key in 1..3 {
            ledger.open(open(key, "a"), now, 0);
            let ended = ledger.close(key).unwrap();
            ledger.removed(ended.session, Some(until));
            assert_eq!(ledger.report(now, 1).removed_sessions, Some(vec![]));
            ledger.reported(Outcome::Answered);
        }
        assert_eq!(ledger.report(until, 1).removed_sessions, Some(vec!["a".to_owned()]));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..2 * WAITING {
            ledger.removed(n.to_string(), None);
        }
        assert_eq!(ledger.waiting(), WAITING);
        assert_eq!(ledger.report(Instant::now(), 1).removed_sessions.unwrap().len(), GROUP);
    }

    proptest! {
        /// The far end as it is: what a live connection carries arrives in order, late where it is silent for a while;
        /// a connection that breaks loses what has not arrived, or an answer.
        #[test]
        fn every_session_is_told_once_unless_an_answer_is_lost(steps in proptest::collection::vec(0_u8..8, 0..300)) {
            let (mut ledger, now) = (Ledger::default(), Instant::now());
            let (mut next, mut told, mut ended) = (0, Vec::new(), Vec::new());
            let (mut connection, mut on_the_way) = (1, Vec::new());
            for step in steps {
                match step {
                    0 => {
                        next += 1;
                        ledger.open(open(next, &next.to_string()), now, 0);
                    }
                    1 | 2 => {
                        if let Some(key) = ledger.open.keys().next().copied() {
                            ended.push(key.to_string());
                            end(&mut ledger, key);
                        }
                    }
                    3 => {
                        ledger.report(now, connection);
                        ledger.reported(Outcome::NotSent);
                    }
                    // Silent: it lies in the connection.
                    4 => {
                        on_the_way.extend(ledger.report(now, connection).removed_sessions.unwrap());
                        ledger.reported(Outcome::Unanswered);
                    }
                    // All that lay there is lost, once; management answers on the next one.
                    5 => {
                        on_the_way.clear();
                        connection += 1;
                        told.extend(ledger.report(now, connection).removed_sessions.unwrap());
                        ledger.reported(Outcome::Answered);
                    }
                    _ => {
                        on_the_way.extend(ledger.report(now, connection).removed_sessions.unwrap());
                        told.append(&mut on_the_way);
                        ledger.reported(Outcome::Answered);
                    }
                }
            }
            told.append(&mut on_the_way);
            while ledger.waiting() > 0 {
                told.extend(ledger.report(now, connection).removed_sessions.unwrap());
                ledger.reported(Outcome::Answered);
            }
            prop_assert_eq!(told, ended);
        }
    }
}
