//! Who hears whom: pure, with the time as an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    MANAGER, Moment, Roll, Timing,
    beat::{Beat, Heard},
};

/// Beats whose times are remembered: those that a link can still hang on, and some.
const REMEMBERED: usize = 16;

/// What one who has a vote knows of the others.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    roll: Roll,
    run: u64,
    begun: Moment,
    number: u64,
    /// Number and time of the last beats sent.
    sent: VecDeque<(u64, Moment)>,
    others: BTreeMap<String, Other>,
}

/// What is known of another one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Other {
    /// Run and number of its last beat.
    last: (u64, u64),
    /// When that came.
    heard: Option<Moment>,
    /// When the beat of ours was sent that it acknowledged last.
    acknowledged: Option<Moment>,
    /// Its last word on whom it has heard: the time of each, and of the beginning of its run before which it knows
    /// nothing. Never earlier than it was.
    says: BTreeMap<String, Moment>,
    begun: Moment,
    /// Which list of votes it goes by.
    generation: String,
}

impl Links {
    /// Nobody has been heard yet. A later run of the same one has a greater number.
    pub(crate) fn new(roll: Roll, run: u64, now: Moment) -> Self {
        let others = roll.others.iter().map(|member| (member.name.clone(), Other::default())).collect();
        Self { roll, run, begun: now, number: 0, sent: VecDeque::new(), others }
    }

    /// The list of votes.
    pub(crate) fn roll(&self) -> &Roll {
        &self.roll
    }

    /// The next beat, for all others but for their names.
    fn next(&mut self, now: Moment) -> Beat {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        let heard = self.others.iter().filter_map(|(name, other)| {
            let (run, number) = other.last;
            Some((name.clone(), Heard { run, number, age: millis(now.saturating_sub(other.heard?)) }))
        });
        Beat {
            from: self.roll.me.clone(),
            to: String::new(),
            run: self.run,
            number: self.number,
            age: millis(now.saturating_sub(self.begun)),
            generation: self.roll.generation.clone(),
            heard: heard.collect(),
        }
    }

    /// What is to be sent to each other one.
    pub(crate) fn beats(&mut self, now: Moment) -> Vec<(std::net::SocketAddrV4, Vec<u8>)> {
        let mut beat = self.next(now);
        let datagram = |member: &super::Member| {
            beat.to.clone_from(&member.name);
            (member.at, beat.write(&member.key))
        };
        self.roll.others.iter().map(datagram).collect()
    }

    /// Takes a datagram in; false where it is no beat of anyone here, or an old one.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: Moment) -> bool {
        let member =
            Beat::claimed(datagram).and_then(|from| self.roll.others.iter().find(|m| m.name == from));
        match member.and_then(|member| Beat::read(datagram, &member.key)) {
            Some(beat) => self.hear(&beat, now),
            None => false,
        }
    }

    fn hear(&mut self, beat: &Beat, now: Moment) -> bool {
        let Some(other) = self.others.get_mut(&beat.from).filter(|_| beat.to == self.roll.me) else {
            return false;
        };
        if (beat.run, beat.number) <= other.last {
            return false;
        }
        other.last = (beat.run, beat.number);
        other.heard = Some(now);
        other.generation.clone_from(&beat.generation);
        other.begun = now.saturating_sub(Duration::from_millis(beat.age));
        let said = beat.heard.iter().filter(|(name, _)| **name != self.roll.me);
        other.says = said
            .map(|(name, heard)| (name.clone(), now.saturating_sub(Duration::from_millis(heard.age))))
            .collect();
        if let Some(mine) = beat.heard.get(&self.roll.me).filter(|heard| heard.run == self.run)
            && let Some((_, sent)) = self.sent.iter().find(|(number, _)| *number == mine.number)
        {
            other.acknowledged = other.acknowledged.max(Some(*sent));
        }
        true
    }

    /// Whether this one and another hear each other.
    pub(crate) fn hears(&self, name: &str, now: Moment) -> bool {
        let at = self.others.get(name).and_then(|other| other.acknowledged);
        at.is_some_and(|at| now.saturating_sub(at) <= Timing::LINK)
    }

    /// How many votes this one hears, its own among them.
    pub(crate) fn heard_votes(&self, now: Moment) -> usize {
        1 + self.others.keys().filter(|name| self.hears(name, now)).count()
    }

    /// Whether a host holds: see the module above.
    pub(crate) fn holds(&self, now: Moment) -> bool {
        self.hears(MANAGER, now) || self.heard_votes(now) * 2 > self.roll.votes()
    }

    /// Whether another one goes by the same list of votes, as far as is known.
    pub(crate) fn agrees(&self, name: &str) -> bool {
        self.others.get(name).is_some_and(|other| other.generation == self.roll.generation)
    }

    /// The last proof that another one lived, from itself or from one whom this one hears now. Before this run, and
    /// before the run of one who is heard, nothing is known: then it may have lived.
    pub(crate) fn last_life(&self, name: &str, now: Moment) -> Moment {
        let own = self.others.get(name).and_then(|other| other.heard);
        let told = self.others.iter().filter(|(other, _)| *other != name && self.hears(other, now));
        let told = told.map(|(_, other)| other.says.get(name).copied().unwrap_or_default().max(other.begun));
        told.chain(own).fold(self.begun, Moment::max)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
