//! The commands that concern every agent, and the road to the role for all others
//! (management channel 3.7 and 3.8).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::addresses;
use super::properties::Properties;
use super::state::State;
use super::{AgentConfig, Resource, Status};
use crate::channel::message::{AnswerBase, Message, MessageError, Wire};
use crate::channel::packet::{Flags, Packet};
use crate::channel::tls::{AgentFiles, Issue};
use crate::command::Secret;
use crate::command::agent::{
    AgentControlAnswer, CONTROL, CRON, CheckHealthCommand, MaintainAnswer, MaintainCommand,
    MigrateAgentConnectionAnswer, MigrateAgentConnectionCommand, ReadyCommand, SetupCertificateAnswer,
    SetupCertificateCommand, SetupKeyStoreCommand, SetupKeystoreAnswer, SetupMsListAnswer,
    SetupMsListCommand, ShutdownCommand, failed, succeeded, unsupported,
};

/// What a command makes the connection do, beside its answer.
#[derive(Debug)]
pub(super) enum Event {
    /// The server has taken the agent in.
    Ready,
    /// The server refuses the agent.
    Refused(String),
    /// The server does not want to see the agent again.
    Dismissed,
    /// New certificates are in place, to be used from the next connection on.
    Installed,
    /// The list of servers, or when to look at it, has changed; look now where true.
    Servers(bool),
    /// Move to another server.
    Migrate,
    /// Repeat a command of this packet every so often.
    Repeat(Packet, Message, Duration),
}

/// What outlives the connections of an agent.
pub(super) struct Core<R> {
    pub(super) config: AgentConfig,
    pub(super) resource: Arc<R>,
    pub(super) files: AgentFiles,
    pub(super) status: watch::Sender<Status>,
    pub(super) events: mpsc::Sender<Event>,
    /// The agent itself is putting certificates in place; nobody else has changed them.
    pub(super) installing: AtomicBool,
    kept: Properties,
    state: Mutex<State>,
    workers: Semaphore,
}

impl<R: Resource> Core<R> {
    pub(super) fn new(
        config: AgentConfig,
        resource: Arc<R>,
        status: watch::Sender<Status>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let kept = Properties::of(&config.folder);
        let state = State::load(&config, &kept);
        let (files, workers) = (AgentFiles::new(&config.folder), Semaphore::new(config.workers.max(1)));
        status.send_modify(|status| show(status, &state));
        Self {
            config,
            resource,
            files,
            status,
            events,
            installing: AtomicBool::new(false),
            kept,
            state: Mutex::new(state),
            workers,
        }
    }

    /// Who the agent is and whom it turns to.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where no command of the role is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.workers.available_permits() >= self.config.workers.max(1)
    }

    /// Seconds between two looks at the preferred server; what the operator wrote counts more.
    pub(super) fn check_interval(&self) -> u64 {
        let own = self.kept.get("host.lb.check.interval").and_then(|text| text.trim().parse().ok());
        own.unwrap_or_else(|| self.state().check_interval)
    }

    /// Executes a request and gives the answers, one for each command.
    pub(super) async fn answer(&self, packet: &Packet) -> Vec<Message> {
        let list = match packet.messages() {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(sequence = packet.sequence, %error, "a request that cannot be read");
                return vec![unsupported("com.cloud.agent.api.BadCommand")];
            }
        };
        let stop_on_error = packet.flags.has(Flags::STOP_ON_ERROR);
        let mut answers: Vec<Message> = Vec::with_capacity(list.len());
        for element in list {
            let stopped = stop_on_error && answers.last().is_some_and(|last| !last.result());
            answers.push(match element {
                _ if stopped => failed("Stopped by previous failure"),
                Ok(command) => self.execute(packet, command).await,
                Err(error) => failed(error.to_string()),
            });
        }
        answers
    }

    async fn execute(&self, packet: &Packet, command: Message) -> Message {
        match self.own(packet, &command).await {
            Ok(Some(answer)) => answer,
            Ok(None) => self.by_role(command).await,
            Err(error) => failed(error.to_string()),
        }
    }

    /// The answer of the role. It may take as long as it likes; a panic is a failure.
    pub(super) async fn by_role(&self, command: Message) -> Message {
        let Ok(_permit) = self.workers.acquire().await else {
            return failed("the agent stops");
        };
        let (resource, class) = (self.resource.clone(), command.class.clone());
        let work = tokio::spawn(async move { resource.execute(command).await });
        AbortOnDropHandle::new(work).await.unwrap_or_else(|error| {
            tracing::error!(class, %error, "a command ended by a panic");
            failed(format!("{class} ended by an error inside the agent"))
        })
    }

    /// The answer to a command that the agent itself handles; none for one of the role.
    async fn own(&self, packet: &Packet, command: &Message) -> Result<Option<Message>, MessageError> {
        let answer = match command.class.as_str() {
            ReadyCommand::CLASS => self.ready(command.read()?).await,
            CheckHealthCommand::CLASS => Message::wrap(&self.resource.health()),
            MaintainCommand::CLASS => {
                Message::wrap(&MaintainAnswer { will_migrate: true, answer: AnswerBase::ok() })
            }
            ShutdownCommand::CLASS => self.shutdown(command.read()?).await,
            SetupMsListCommand::CLASS => self.set_servers(command.read()?).await,
            MigrateAgentConnectionCommand::CLASS => self.migrate(command.read()?).await,
            SetupKeyStoreCommand::CLASS => match command.read::<SetupKeyStoreCommand>()? {
                own if own.handle_by_agent => self.request_certificate().await,
                _ => return Ok(None),
            },
            SetupCertificateCommand::CLASS => match command.read::<SetupCertificateCommand>()? {
                own if own.handle_by_agent => self.install_certificate(own).await,
                _ => return Ok(None),
            },
            class if CONTROL.contains(&class) => {
                Message::wrap(&AgentControlAnswer { answer: AnswerBase::ok() })
            }
            class if CRON.contains(&class) => {
                let seconds = command.body.get("interval").and_then(serde_json::Value::as_u64);
                let every = Duration::from_secs(seconds.unwrap_or_default().max(1));
                self.tell(Event::Repeat(packet.clone(), command.clone(), every)).await;
                succeeded()
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }

    async fn tell(&self, event: Event) {
        // Nobody listens only when the agent ends.
        let _ = self.events.send(event).await;
    }

    async fn ready(&self, command: ReadyCommand) -> Message {
        if let Some(reason) = &command.details {
            self.tell(Event::Refused(reason.clone())).await;
            return failed("refused");
        }
        if let Some(id) = command.host_id {
            let (uuid, name) = (command.host_uuid.clone(), command.host_name.clone());
            self.learn(id, uuid, name);
        }
        let list = command.ms_host_list.clone().unwrap_or_default();
        let algorithm = command.lb_algorithm.clone().unwrap_or_default();
        self.learn_servers(&list, &algorithm, command.avoid_ms_host_list.clone(), command.lb_check_interval)
            .unwrap_or_else(|error| tracing::warn!(%error, "the list of servers could not be kept"));
        if let Some(arch) = command.arch.as_deref().filter(|arch| *arch != std::env::consts::ARCH) {
            tracing::warn!(arch, "the server takes this machine for one of another architecture");
        }
        self.status.send_modify(|status| status.ready = true);
        self.tell(Event::Ready).await;
        self.tell(Event::Servers(false)).await;
        Message::wrap(&self.resource.ready(&command))
    }

    /// Takes note of who the agent is; 0 is nobody.
    pub(super) fn learn(&self, id: i64, uuid: Option<String>, name: Option<String>) {
        if id <= 0 {
            return;
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let state = {
            let mut state = self.state();
            let before = state.clone();
            state.host_id = Some(id);
            state.host_uuid = filled(uuid).or(state.host_uuid.take());
            state.host_name = filled(name).or(state.host_name.take());
            if *state == before {
                return;
            }
            state.clone()
        };
        self.status.send_modify(|status| show(status, &state));
        if let Err(error) = state.keep_identity(&self.config, &self.kept) {
            tracing::warn!(%error, "the host id could not be kept");
        }
    }

    /// Takes note of servers. A new list is kept before it is used; an error leaves the old one.
    fn learn_servers(
        &self,
        list: &[String],
        algorithm: &str,
        avoid: Option<Vec<String>>,
        interval: Option<i64>,
    ) -> std::io::Result<()> {
        let mut state = self.state();
        let mut new = state.clone();
        if new.take_list(list, algorithm) {
            self.kept.set(&[("host", &new.reported())])?;
        }
        new.avoid = avoid.unwrap_or_default();
        if let Some(interval) = interval {
            new.check_interval = u64::try_from(interval).unwrap_or_default();
        }
        *state = new;
        Ok(())
    }

    async fn set_servers(&self, command: SetupMsListCommand) -> Message {
        let taken = self.learn_servers(
            &command.ms_list,
            &command.lb_algorithm,
            Some(command.avoid_ms_list),
            command.lb_check_interval,
        );
        let answer = match taken {
            Ok(()) => AnswerBase::ok(),
            Err(error) => AnswerBase::failed(format!("the list of servers could not be kept: {error}")),
        };
        self.tell(Event::Servers(command.trigger_host_lb)).await;
        Message::wrap(&SetupMsListAnswer { answer })
    }

    async fn migrate(&self, command: MigrateAgentConnectionCommand) -> Message {
        let list = command.ms_list.unwrap_or_default();
        let algorithm = command.lb_algorithm.unwrap_or_default();
        let taken =
            self.learn_servers(&list, &algorithm, Some(command.avoid_ms_list), command.lb_check_interval);
        let answer = match taken {
            Ok(()) => {
                self.tell(Event::Migrate).await;
                AnswerBase::ok()
            }
            Err(error) => AnswerBase::failed(format!(
                "Migrate agent connection failed, due to Could not persist received management servers list: {error}"
            )),
        };
        Message::wrap(&MigrateAgentConnectionAnswer { answer })
    }

    async fn shutdown(&self, command: ShutdownCommand) -> Message {
        tracing::warn!(
            reason = command.reason,
            remove = command.remove_host,
            "the server dismisses this agent"
        );
        if command.remove_host
            && let Err(error) = self.kept.set(&[("zone", ""), ("pod", ""), ("cluster", "")])
        {
            tracing::warn!(%error, "zone, pod and cluster could not be forgotten");
        }
        self.tell(Event::Dismissed).await;
        succeeded()
    }

    async fn request_certificate(&self) -> Message {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let wish = Issue { names: vec![name], addresses: addresses::own(), days: 0 };
        let files = self.files.clone();
        let made = tokio::task::spawn_blocking(move || files.request(&wish)).await;
        let (csr, answer) =
            match made.map_err(|error| error.to_string()).and_then(|made| made.map_err(|e| e.to_string())) {
                Ok(csr) => (Secret::new(csr), AnswerBase::ok()),
                Err(reason) => (Secret::default(), AnswerBase::failed(reason)),
            };
        Message::wrap(&SetupKeystoreAnswer { csr, answer })
    }

    async fn install_certificate(&self, command: SetupCertificateCommand) -> Message {
        let files = self.files.clone();
        self.installing.store(true, Ordering::Release);
        let installed = tokio::task::spawn_blocking(move || {
            let (certificate, key) = (command.certificate.expose(), command.private_key.expose());
            files.install(certificate, command.ca_certificates.expose(), key)
        });
        let answer = match installed.await.map_err(|error| error.to_string()) {
            Ok(Ok(())) => {
                tracing::info!("a new certificate is in place");
                self.tell(Event::Installed).await;
                AnswerBase::ok()
            }
            Ok(Err(error)) => AnswerBase::failed(error.to_string()),
            Err(reason) => AnswerBase::failed(reason),
        };
        if !answer.result {
            self.installing.store(false, Ordering::Release);
        }
        Message::wrap(&SetupCertificateAnswer { answer })
    }
}

fn show(status: &mut Status, state: &State) {
    status.host_id = state.host_id;
    status.host_uuid = state.host_uuid.clone();
    status.host_name = state.host_name.clone();
}
