//! No system VM runs twice, whatever becomes of hosts, links and the manager.
//!
//! The manager and the first [`VOTERS`] hosts of the zone file have a vote each. They send beats ([`beat`]) to each
//! other and to all other hosts, get theirs, and know whom they hear both ways ([`links`]). A host holds as long as it
//! hears the manager, or more than half of all votes, its own counted where it has one. One that has not held for [`Timing::fence`] ends its own system VMs, by a process of its own
//! ([`guard`]). The manager takes a host for lost only where it hears at least half of all votes and neither it nor
//! anyone whom it hears has heard that host for so long that its guard must have acted ([`judge`]): among any two
//! such halves there is one who is in both, and would have told.

pub(crate) mod beat;
pub(crate) mod guard;
pub(crate) mod judge;
pub(crate) mod links;
#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// UDP port of every host's guard.
pub(crate) const GUARD_PORT: u16 = 8252;
/// UDP port of the manager's beats; another one, since both may be on one machine.
pub(crate) const MANAGER_PORT: u16 = 8253;
/// The manager's name among those who have a vote. No host can have it: names of hosts have no blank.
pub(crate) const MANAGER: &str = "the manager";
/// Hosts that have a vote. With more of them everybody would talk to everybody, and no split that can happen would be
/// decided otherwise.
pub(crate) const VOTERS: usize = 15;
/// Most hosts in a zone, so that a beat fits into one datagram.
pub(crate) const MOST_HOSTS: usize = 2_048;

/// Time since the machine's boot, also of what it slept (CLOCK_BOOTTIME).
pub(crate) type Moment = Duration;

/// Now.
pub(crate) fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// A host that has not held for so long ends its system VMs.
    pub(crate) fence: Duration,
}

impl Timing {
    /// Longest time that can be asked for.
    pub(crate) const LONGEST: Duration = Duration::from_secs(600);
    /// Between two beats.
    pub(crate) const BEAT: Duration = Duration::from_secs(1);
    /// Between two looks of a guard.
    pub(crate) const TICK: Duration = Duration::from_millis(500);
    /// How long one is heard after a beat that was acknowledged was sent.
    pub(crate) const LINK: Duration = Duration::from_secs(4);
    /// What the manager waits longer than a host: twice [`Self::LINK`] (the host held until its last link was over;
    /// who heard it may have told so one link ago), a guard's look, and the end of its VMs.
    pub(crate) const MARGIN: Duration = Duration::from_secs(12);

    /// How long the manager waits after the last proof of a host's life.
    pub(crate) fn lost(self) -> Duration {
        self.fence + Self::MARGIN
    }
}

/// The manager or a host, as another one reaches it. Its Debug form has no key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    /// Name of the host, or [`MANAGER`].
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) at: SocketAddrV4,
    /// What only these two know, in hex.
    pub(crate) key: String,
    /// It has a vote.
    #[serde(default = "has_vote")]
    pub(crate) votes: bool,
}

/// What a list says that was written when all hosts had a vote.
fn has_vote() -> bool {
    true
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({} at {})", self.name, self.at)
    }
}

/// Who has a vote, as the manager tells one of them, or one who has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roll {
    /// Who is told.
    pub(crate) me: String,
    /// Where this one listens.
    pub(crate) at: SocketAddrV4,
    /// Which list this is: differs where hosts or times do.
    pub(crate) generation: String,
    /// [`Timing::fence`] in seconds.
    pub(crate) fence_seconds: u64,
    /// This one has a vote.
    #[serde(default = "has_vote")]
    pub(crate) votes: bool,
    /// All others; for one without a vote those who have one.
    pub(crate) others: Vec<Member>,
}

impl Roll {
    /// Number of votes.
    pub(crate) fn votes(&self) -> usize {
        self.others.iter().filter(|member| member.votes).count() + usize::from(self.votes)
    }

    /// The names of all hosts that one with a vote tells of, in an order that is the same for all with this list.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let others = self.others.iter().map(|member| &member.name).chain(std::iter::once(&self.me));
        let mut names: Vec<String> = others.filter(|name| *name != MANAGER).cloned().collect();
        names.sort();
        names
    }

    /// How long things last.
    pub(crate) fn timing(&self) -> Timing {
        Timing { fence: Duration::from_secs(self.fence_seconds) }
    }

    /// A zone of one host and its manager: there is nobody to start anything elsewhere.
    pub(crate) fn is_alone(&self) -> bool {
        self.others.iter().filter(|member| member.name != MANAGER).count() == 0
    }
}

/// The lists for the manager and all hosts of a zone.
pub(crate) fn rolls(
    secret: &str,
    manager: Ipv4Addr,
    hosts: &[(String, Ipv4Addr)],
    fence: Duration,
) -> Vec<Roll> {
    let fence_seconds = fence.as_secs();
    let manager = (MANAGER.to_owned(), SocketAddrV4::new(manager, MANAGER_PORT));
    let hosts = hosts.iter().map(|(name, address)| (name.clone(), SocketAddrV4::new(*address, GUARD_PORT)));
    let all: Vec<(String, SocketAddrV4)> = std::iter::once(manager).chain(hosts).collect();
    let words: Vec<String> = all.iter().map(|(name, at)| format!("{name} {at}")).collect();
    let mut generation = beat::sum(secret, &format!("roll {fence_seconds} {VOTERS} {}", words.join(", ")));
    generation.truncate(16);
    // The manager is the first.
    let has_vote = |place: usize| place <= VOTERS;
    let roll = |(mine, (me, at)): (usize, &(String, SocketAddrV4))| {
        let votes = has_vote(mine);
        let heard = all.iter().enumerate().filter(|(place, _)| *place != mine && (votes || has_vote(*place)));
        let others = heard.map(|(place, (name, at))| {
            let pair = if me < name { format!("{me}|{name}") } else { format!("{name}|{me}") };
            let key = beat::sum(secret, &format!("pair {pair}"));
            Member { name: name.clone(), at: *at, key, votes: has_vote(place) }
        });
        Roll {
            me: me.clone(),
            at: *at,
            generation: generation.clone(),
            fence_seconds,
            votes,
            others: others.collect(),
        }
    };
    all.iter().enumerate().map(roll).collect()
}
