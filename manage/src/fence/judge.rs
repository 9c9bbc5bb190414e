//! What the manager makes of a host that it does not hear: pure.

use std::time::Duration;

use super::{Moment, links::Links};

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has been heard, or it was not silent for long enough yet.
    Lives {
        /// Time since the last proof of its life.
        silent: Duration,
    },
    /// It runs none of its system VMs any more.
    Lost,
    /// It has been silent for long enough, but the manager itself hears less than half of all votes: the host may
    /// hold with the others.
    Unknown {
        /// Votes that are heard, the manager's own among them.
        heard: usize,
    },
}

/// Judges a host that has once held by the list of votes in force.
pub(crate) fn judge(links: &Links, name: &str, now: Moment) -> Verdict {
    let silent = now.saturating_sub(links.last_life(name, now));
    if silent <= links.roll().timing().lost() {
        return Verdict::Lives { silent };
    }
    let heard = links.heard_votes(now);
    if heard * 2 < links.votes() { Verdict::Unknown { heard } } else { Verdict::Lost }
}
