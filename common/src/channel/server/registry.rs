//! Who is connected.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::AttachedAgent;

/// The connected agents by guid.
#[derive(Default)]
pub(super) struct Registry {
    agents: Mutex<HashMap<String, AttachedAgent>>,
}

impl Registry {
    /// Enters an agent; an older connection of the same guid is closed.
    pub(super) fn enter(&self, agent: &AttachedAgent) {
        let old = self.lock().insert(agent.guid().to_owned(), agent.clone());
        if let Some(old) = old {
            old.close("the agent has connected anew");
        }
    }

    /// Removes an agent, unless a newer connection has taken its place.
    pub(super) fn leave(&self, agent: &AttachedAgent) {
        let mut agents = self.lock();
        if agents.get(agent.guid()).is_some_and(|entered| entered == agent) {
            agents.remove(agent.guid());
        }
    }

    /// The first agent that fits.
    pub(super) fn find(&self, fits: impl Fn(&AttachedAgent) -> bool) -> Option<AttachedAgent> {
        self.lock().values().find(|agent| !agent.is_closed() && fits(agent)).cloned()
    }

    /// All agents.
    pub(super) fn all(&self) -> Vec<AttachedAgent> {
        self.lock().values().filter(|agent| !agent.is_closed()).cloned().collect()
    }

    /// Ends every connection.
    pub(super) fn close_all(&self, reason: &str) {
        for (_, agent) in self.lock().drain() {
            agent.close(reason);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, AttachedAgent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
