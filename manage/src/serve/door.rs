//! Who may join, and what the agents say.

use std::sync::Arc;

use common::{
    channel::{
        message::{AnswerBase, Message, Wire},
        server::{Admission, AttachedAgent, Candidate, Manager},
    },
    command::{
        agent::{AgentControlAnswer, ReadyCommand},
        console::{ConsoleAccessAuthenticationCommand, ConsoleProxyLoadReportCommand},
        host::{
            ModifySshKeysCommand, PingRoutingCommand, ReportAnswer, ReportCommand, RollCommand,
            StartupRoutingCommand,
        },
    },
};

use super::{Manage, console, groups, renew, store};
use crate::db::Kind;

/// Class of an SSVM's first command.
pub(super) const SSVM: &str = "com.cloud.agent.api.StartupSecondaryStorageCommand";
/// Class of a CPVM's first command.
const CPVM: &str = "com.cloud.agent.api.StartupProxyCommand";

/// The manager as the channel sees it.
pub(super) struct Door(pub(super) Arc<Manage>);

/// Kinds of agents, by the class of their first command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Host,
    Ssvm,
    Cpvm,
}

fn who(class: &str) -> Option<Who> {
    match class {
        StartupRoutingCommand::CLASS => Some(Who::Host),
        SSVM => Some(Who::Ssvm),
        CPVM => Some(Who::Cpvm),
        _ => None,
    }
}

impl Manager for Door {
    async fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        let admitted = self.0.admit(candidate);
        if let Err(reason) = &admitted {
            let text = format!("refused {} from {}: {reason}", candidate.text("name"), candidate.address);
            self.0.zoned.event("channel", &text);
        }
        admitted
    }

    async fn set_up(&self, agent: &AttachedAgent, answers: Vec<Message>) -> Result<(), String> {
        match who(agent.class()) {
            Some(Who::Host) => {
                let report =
                    answers.iter().find(|a| a.is::<ReportAnswer>()).ok_or("no report of the host")?;
                let report: ReportAnswer = report.read().map_err(|error| error.to_string())?;
                if self.0.zoned.db.host_back(agent.name()).map_err(|error| error.to_string())? {
                    self.0.zoned.event(agent.name(), "is back");
                }
                self.0.seen().reports.insert(agent.name().to_owned(), report.vms);
            }
            Some(Who::Ssvm) => store::attached(&self.0, agent.name(), &answers),
            Some(Who::Cpvm) | None => {}
        }
        Ok(())
    }

    async fn attached(&self, agent: &AttachedAgent) {
        self.0.zoned.event(agent.name(), &format!("agent is up, from {}", agent.address().ip()));
        groups::forget(&self.0, agent.name());
        if who(agent.class()) == Some(Who::Ssvm) {
            tokio::spawn(store::attach_again(self.0.clone(), agent.clone()));
        }
        let (manage, agent) = (self.0.clone(), agent.clone());
        tokio::spawn(async move { renew::look(&manage, &agent).await });
        self.0.poke.notify_one();
    }

    async fn control(&self, agent: &AttachedAgent, command: Message) -> Message {
        let is_cpvm = who(agent.class()) == Some(Who::Cpvm);
        match command.class.as_str() {
            ConsoleAccessAuthenticationCommand::CLASS if is_cpvm => {
                console::authenticate(&self.0, &command).await
            }
            ConsoleProxyLoadReportCommand::CLASS if is_cpvm => console::report(&self.0, agent, &command),
            _ => Message::wrap(&AgentControlAnswer { answer: AnswerBase::ok() }),
        }
    }

    fn pinged(&self, agent: &AttachedAgent, ping: &Message) -> bool {
        if let (Some(Who::Host), Ok(ping)) = (who(agent.class()), ping.read::<PingRoutingCommand>()) {
            let mut seen = self.0.seen();
            let known = seen.reports.get(agent.name()).is_some_and(|before| *before == ping.vms);
            if !known {
                seen.reports.insert(agent.name().to_owned(), ping.vms);
                self.0.poke.notify_one();
            }
        }
        false
    }

    async fn detached(&self, agent: &AttachedAgent, reason: &str) {
        self.0.zoned.event(agent.name(), &format!("agent is gone: {reason}"));
        // A newer connection of the same host may have reported already.
        let replaced = self.0.agent(agent.name()).is_some();
        if who(agent.class()) == Some(Who::Host) && !replaced {
            self.0.seen().reports.remove(agent.name());
        }
        if !replaced {
            self.0.seen().stores.retain(|(_, ssvm), _| ssvm != agent.name());
        }
        self.0.poke.notify_one();
    }
}

impl Manage {
    /// Decides on an agent by its certificate, which says who it is, and by what the zone has.
    fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        let zone = self.zoned.zone();
        let class = candidate.startup.first().map(|first| first.class.as_str()).unwrap_or_default();
        let who = who(class).ok_or_else(|| format!("a {class} is none of a zone's agents"))?;
        let name = candidate.text("name");
        let serial = candidate.serial.as_deref().filter(|_| candidate.verified);
        let serial = serial.ok_or("it showed no certificate of this zone for its address")?;
        let owner = self.zoned.db.certificate_owner(serial).map_err(|error| error.to_string())?;
        if owner.as_deref() != Some(name) {
            return Err(format!("its certificate is that of {owner:?}, not of {name:?}"));
        }
        if candidate.text("dataCenter") != zone.id.to_string() {
            return Err(format!(
                "it belongs to zone {:?}, this is zone {}",
                candidate.text("dataCenter"),
                zone.id
            ));
        }
        if !matches!(candidate.text("arch"), "" | "x86_64" | "aarch64") {
            return Err(format!("architecture {:?} is unknown", candidate.text("arch")));
        }
        let setup = match who {
            Who::Host if zone.hosts.iter().any(|h| h.name == name) => {
                let bytes =
                    candidate.startup.first().and_then(|first| first.read::<StartupRoutingCommand>().ok());
                self.seen().memory.insert(name.to_owned(), bytes.map_or(0, |first| first.memory >> 20));
                self.host_setup(name)?
            }
            Who::Ssvm if self.is_vm(name, Kind::Ssvm)? => store::setup(&self.zoned.db, &zone)?,
            Who::Cpvm if self.is_vm(name, Kind::Cpvm)? => vec![console::setup(self)],
            _ => return Err(format!("the zone has no {who:?} {name:?}")),
        };
        let (guid, kind) = (candidate.text("guid"), candidate.text("type"));
        let peer = self.zoned.db.peer(guid, name, kind).map_err(|error| error.to_string())?;
        let manager = zone.management.address.to_string();
        Ok(Admission {
            host_id: peer.id,
            host_uuid: peer.uuid,
            host_name: peer.name,
            setup,
            ready: ReadyCommand {
                dc_id: i64::try_from(zone.id).ok(),
                ms_host_list: Some(vec![manager]),
                avoid_ms_host_list: Some(Vec::new()),
                lb_algorithm: Some("static".to_owned()),
                lb_check_interval: Some(0),
                enable_human_readable_sizes: Some(true),
                arch: Some(candidate.text("arch").to_owned()).filter(|arch| !arch.is_empty()),
                ..ReadyCommand::default()
            },
        })
    }

    fn is_vm(&self, name: &str, kind: Kind) -> Result<bool, String> {
        let vm = self.zoned.db.vm(name).map_err(|error| error.to_string())?;
        Ok(vm.is_some_and(|vm| vm.name == name && vm.kind == kind))
    }

    /// Who has a vote, for a host.
    pub(super) fn roll_command(&self, name: &str) -> Result<Message, String> {
        let roll = self.roll(name).ok_or("it has no vote")?;
        let roll = serde_json::to_string(&roll).map_err(|error| error.to_string())?;
        Ok(Message::wrap(&RollCommand { roll, ..RollCommand::default() }))
    }

    fn host_setup(&self, name: &str) -> Result<Vec<Message>, String> {
        let keys = ModifySshKeysCommand {
            public: self.public_key.clone(),
            private: self.private_key.clone(),
            ..ModifySshKeysCommand::default()
        };
        Ok(vec![Message::wrap(&keys), self.roll_command(name)?, Message::wrap(&ReportCommand::default())])
    }
}
