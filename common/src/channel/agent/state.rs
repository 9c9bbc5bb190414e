//! What the agent has learned: who it is, and which servers to turn to.

use super::AgentConfig;
use super::properties::Properties;

/// Who the agent is and whom it turns to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    /// Host id; never 0.
    pub(super) host_id: Option<i64>,
    /// UUID of the host record.
    pub(super) host_uuid: Option<String>,
    /// Name of the host record.
    pub(super) host_name: Option<String>,
    /// Servers that a server told of, in order.
    pub(super) list: Vec<String>,
    /// How that list is to be read.
    pub(super) algorithm: Option<String>,
    /// Servers to turn to last.
    pub(super) avoid: Vec<String>,
    /// Seconds between two looks at the preferred server, 0 = none.
    pub(super) check_interval: u64,
    /// The next start-up follows a migration.
    pub(super) transferred: bool,
    boot: Vec<String>,
}

/// Largest list of servers that is kept.
const MAX_SERVERS: usize = 256;

impl State {
    /// What is known at the start: the boot arguments and what was kept.
    pub(super) fn load(config: &AgentConfig, kept: &Properties) -> Self {
        let key = |name: &str| kept.get(&format!("{}.{name}", config.resource_name));
        let text = |name: &str| key(name).filter(|value| !value.is_empty());
        let boot = config.hosts.iter().flat_map(|entry| parse_list(entry).0).collect();
        let (list, algorithm) = kept.get("host").as_deref().map(parse_list).unwrap_or_default();
        // Without an algorithm the list is that of an earlier boot, not one that a server gave.
        let list = if algorithm.is_some() { list } else { Vec::new() };
        Self {
            host_id: text("id").and_then(|id| id.parse().ok()).filter(|id| *id > 0),
            host_uuid: text("uuid"),
            host_name: text("name"),
            list,
            algorithm,
            boot,
            ..Self::default()
        }
    }

    /// Takes a list from a server. True where it differs from the one in force.
    pub(super) fn take_list(&mut self, list: &[String], algorithm: &str) -> bool {
        let cleaned: Vec<String> = list
            .iter()
            .map(|host| host.trim().to_owned())
            .filter(|host| !host.is_empty())
            .take(MAX_SERVERS)
            .collect();
        if cleaned.is_empty() || algorithm.is_empty() {
            return false;
        }
        let changed = self.list != cleaned || self.algorithm.as_deref() != Some(algorithm);
        self.list = cleaned;
        self.algorithm = Some(algorithm.to_owned());
        changed
    }

    /// The list as it is kept and reported: `a,b@algorithm`, or that of the boot arguments.
    pub(super) fn reported(&self) -> String {
        match &self.algorithm {
            Some(algorithm) if !self.list.is_empty() => format!("{}@{algorithm}", self.list.join(",")),
            _ => self.boot.join(","),
        }
    }

    /// The servers to try, in order: those of the list, those to avoid, those of the boot arguments.
    pub(super) fn candidates(&self) -> Vec<String> {
        let own = if self.list.is_empty() { &self.boot } else { &self.list };
        let (avoided, good): (Vec<_>, Vec<_>) = own.iter().partition(|host| self.avoid.contains(host));
        let mut order: Vec<String> = Vec::new();
        for host in good.into_iter().chain(avoided).chain(&self.boot) {
            if !order.contains(host) {
                order.push(host.clone());
            }
        }
        order
    }

    /// The server that the agent should be connected to.
    pub(super) fn preferred(&self) -> Option<&String> {
        if self.list.is_empty() { self.boot.first() } else { self.list.first() }
    }

    /// Keeps who the agent is.
    pub(super) fn keep_identity(&self, config: &AgentConfig, kept: &Properties) -> std::io::Result<()> {
        let id = self.host_id.map(|id| id.to_string()).unwrap_or_default();
        let key = |name: &str| format!("{}.{name}", config.resource_name);
        kept.set(&[
            (&key("id"), &id),
            (&key("uuid"), self.host_uuid.as_deref().unwrap_or_default()),
            (&key("name"), self.host_name.as_deref().unwrap_or_default()),
        ])
    }
}

/// Servers and algorithm of `a,b@algorithm`.
fn parse_list(text: &str) -> (Vec<String>, Option<String>) {
    let (hosts, algorithm) = match text.rsplit_once('@') {
        Some((hosts, algorithm)) => (hosts, Some(algorithm.trim().to_owned())),
        None => (text, None),
    };
    let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
    (hosts.map(str::to_owned).collect(), algorithm.filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    fn config(hosts: &[&str], folder: &std::path::Path) -> AgentConfig {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        AgentConfig { folder: folder.to_owned(), ..AgentConfig::new(hosts, "X", &Paths::below(folder)) }
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn turns_to_avoided_servers_last() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&["b1,b2@static", "b3"], folder.path());
        let mut state = State::load(&config, &Properties::of(folder.path()));
        assert_eq!(state.candidates(), words(&["b1", "b2", "b3"]));
        assert_eq!(state.reported(), "b1,b2,b3");
        assert!(state.take_list(&words(&["m1", " m2 ", "", "b2"]), "roundrobin"));
        assert!(!state.take_list(&words(&["m1", "m2", "b2"]), "roundrobin"));
        state.avoid = words(&["m1", "other"]);
        assert_eq!(state.candidates(), words(&["m2", "b2", "m1", "b1", "b3"]));
        assert_eq!(state.reported(), "m1,m2,b2@roundrobin");
        assert_eq!(state.preferred().unwrap(), "m1");
        assert!(!state.take_list(&[], "static"));
        assert!(!state.take_list(&words(&["m9"]), ""));
        assert_eq!(state.list, words(&["m1", "m2", "b2"]));
    }

    #[test]
    fn comes_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&["b1"], folder.path());
        let kept = Properties::of(folder.path());
        let mut state = State::load(&config, &kept);
        state.take_list(&words(&["m1", "m2"]), "static");
        (state.host_id, state.host_uuid) = (Some(4), Some("u".to_owned()));
        kept.set(&[("host", &state.reported())]).unwrap();
        state.keep_identity(&config, &kept).unwrap();
        assert_eq!(State::load(&config, &kept), state);
        kept.set(&[("host", "old1,old2"), ("X.id", "0")]).unwrap();
        let state = State::load(&config, &kept);
        assert_eq!((state.candidates(), state.host_id), (words(&["b1"]), None));
    }
}
