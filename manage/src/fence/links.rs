//! Who hears whom: pure, with the time as an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{MANAGER, Moment, Roll, Timing, beat::Beat};

/// Beats whose times are remembered: those that a link can still hang on, and some.
const REMEMBERED: usize = 16;

/// What one knows of the others.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    roll: Roll,
    votes: usize,
    /// All hosts, where this is the manager or has a vote.
    hosts: Vec<String>,
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
    /// Its last word on when it has heard each host, and the beginning of its run before which it knows nothing.
    /// Never earlier than it was. Without a word there is nothing that it has not heard.
    says: Option<Vec<Option<Moment>>>,
    begun: Moment,
    /// Which list of votes it goes by.
    generation: String,
}

impl Links {
    /// Nobody has been heard yet. A later run of the same one has a greater number.
    pub(crate) fn new(roll: Roll, run: u64, now: Moment) -> Self {
        let others = roll.others.iter().map(|member| (member.name.clone(), Other::default())).collect();
        let hosts = if roll.votes { roll.hosts() } else { Vec::new() };
        let votes = roll.votes();
        Self { roll, votes, hosts, run, begun: now, number: 0, sent: VecDeque::new(), others }
    }

    /// The list of votes.
    pub(crate) fn roll(&self) -> &Roll {
        &self.roll
    }

    /// Number of votes.
    pub(crate) fn votes(&self) -> usize {
        self.votes
    }

    /// The next beat, but for what is another one's alone.
    fn next(&mut self, now: Moment) -> Beat {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        Beat {
            from: self.roll.me.clone(),
            to: String::new(),
            run: self.run,
            number: self.number,
            age: millis(now.saturating_sub(self.begun)),
            generation: self.roll.generation.clone(),
            heard: None,
            ages: Vec::new(),
        }
    }

    /// How long ago each host was heard.
    fn ages(&self, now: Moment) -> Vec<i64> {
        let age = |name: &String| {
            let heard = self.others.get(name)?.heard?;
            i64::try_from(now.saturating_sub(heard).as_millis()).ok()
        };
        self.hosts.iter().map(|name| age(name).unwrap_or(-1)).collect()
    }

    /// What is to be sent to each other one.
    pub(crate) fn beats(&mut self, now: Moment) -> Vec<(std::net::SocketAddrV4, Vec<u8>)> {
        let mut beat = self.next(now);
        let datagram = |member: &super::Member| {
            beat.to.clone_from(&member.name);
            let other = self.others.get(&member.name);
            beat.heard = other.filter(|other| other.heard.is_some()).map(|other| other.last);
            beat.ages = if member.name == MANAGER { self.ages(now) } else { Vec::new() };
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
        // By another list the places mean other hosts.
        let same = beat.generation == self.roll.generation && beat.ages.len() == self.hosts.len();
        let at = |age: &i64| Some(now.saturating_sub(Duration::from_millis(u64::try_from(*age).ok()?)));
        other.says = same.then(|| beat.ages.iter().map(at).collect());
        if let Some((_, mine)) = beat.heard.filter(|(run, _)| *run == self.run)
            && let Some((_, sent)) = self.sent.iter().find(|(number, _)| *number == mine)
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
        usize::from(self.roll.votes) + self.voters().filter(|name| self.hears(name, now)).count()
    }

    /// The others that have a vote.
    fn voters(&self) -> impl Iterator<Item = &String> {
        self.roll.others.iter().filter(|member| member.votes).map(|member| &member.name)
    }

    /// Whether a host holds: see the module above.
    pub(crate) fn holds(&self, now: Moment) -> bool {
        self.hears(MANAGER, now) || self.heard_votes(now) * 2 > self.votes
    }

    /// Whether another one goes by the same list of votes, as far as is known.
    pub(crate) fn agrees(&self, name: &str) -> bool {
        self.others.get(name).is_some_and(|other| other.generation == self.roll.generation)
    }

    /// The last proof that a host lived, from itself or from one with a vote whom this one hears now. Before this run,
    /// and before the run of one who is heard, nothing is known: then it may have lived.
    pub(crate) fn last_life(&self, name: &str, now: Moment) -> Moment {
        let own = self.others.get(name).and_then(|other| other.heard);
        let place = self.hosts.binary_search_by(|host| host.as_str().cmp(name)).ok();
        let told = self.voters().filter(|other| *other != name && self.hears(other, now)).map(|other| {
            let Some(other) = self.others.get(other) else { return now };
            let (Some(says), Some(place)) = (&other.says, place) else { return now };
            says.get(place).copied().flatten().unwrap_or_default().max(other.begun)
        });
        told.chain(own).fold(self.begun, Moment::max)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
