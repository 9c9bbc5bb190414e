//! What management asks of the proxy over the channel.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    channel::{
        agent::Resource,
        message::{AnswerBase, Message, Wire},
    },
    command::{
        agent::{Answer, CheckHealthAnswer, Nic, PingCommand, StartupBase, StartupProxyCommand, unsupported},
        console::{
            AllowConsoleAccessCommand, CheckConsoleProxyLoadCommand, ConsoleProxyLoadAnswer,
            StartConsoleProxyAgentHttpHandlerCommand, WatchConsoleProxyLoadCommand,
        },
    },
    handover::Offer,
    token::TokenKey,
};

use super::{
    Proxy,
    plan::{listeners, page_port},
};
use crate::{
    keystore,
    wire::{SETTINGS, Settings},
};

/// Name under which the proxy joins.
pub(super) const RESOURCE: &str = "ConsoleProxyResource";
/// For serve to take new settings and listeners.
const APPLY_LIMIT: Duration = Duration::from_secs(5);

/// The proxy as the channel sees it.
pub(super) struct Console(pub(super) Arc<Proxy>);

impl Resource for Console {
    fn startup(&self) -> Vec<Message> {
        let identity = &self.0.identity;
        let text = |name: &str| identity.get(name).map(str::to_owned);
        let startup = StartupBase {
            kind: "ConsoleProxy".to_owned(),
            data_center: text("zone"),
            pod: text("pod"),
            guid: format!("{}-{RESOURCE}", identity.get("guid").unwrap_or_default()),
            name: identity.name.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            iqn: Some("NoIqn".to_owned()),
            resource_name: Some(RESOURCE.to_owned()),
            arch: Some(std::env::consts::ARCH.to_owned()),
            ..StartupBase::default()
        };
        let startup = startup.with_private(self.nic(1)).with_storage(self.nic(1)).with_public(self.nic(2));
        let command = StartupProxyCommand {
            proxy_port: i64::from(page_port(identity)),
            proxy_vm_id: self.0.number(),
            startup,
        };
        vec![Message::wrap(&command)]
    }

    async fn execute(&self, command: Message) -> Message {
        let done = match command.class.as_str() {
            StartConsoleProxyAgentHttpHandlerCommand::CLASS => self.start(&command).await,
            AllowConsoleAccessCommand::CLASS => self.allow(&command),
            CheckConsoleProxyLoadCommand::CLASS => return self.load(command.read()),
            WatchConsoleProxyLoadCommand::CLASS => {
                return self.load(command.read::<WatchConsoleProxyLoadCommand>().map(|watch| watch.check));
            }
            class => return unsupported(class),
        };
        let answer = done.map_or_else(AnswerBase::failed, |()| AnswerBase::ok());
        Message::wrap(&Answer { answer })
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingCommand { host_type: "ConsoleProxy".to_owned(), ..PingCommand::default() })
    }

    fn health(&self) -> CheckHealthAnswer {
        let failures = self.0.serve.failures();
        let answer = if failures.is_empty() {
            AnswerBase { details: Some("resource is alive".to_owned()), ..AnswerBase::ok() }
        } else {
            AnswerBase::failed(not_listening(&failures))
        };
        CheckHealthAnswer { answer }
    }

    fn disconnected(&self) {
        tracing::warn!("management is away: running consoles go on, new ones have to wait");
    }
}

impl Console {
    /// First it opens the listeners, later it replaces what they use; open sessions are left alone.
    async fn start(&self, command: &Message) -> Result<(), String> {
        let command: StartConsoleProxyAgentHttpHandlerCommand =
            command.read().map_err(|error| error.to_string())?;
        TokenKey::from_encryptor_password(&command.encryptor_password).map_err(|error| error.to_string())?;
        let tls = match &command.keystore_bits {
            Some(bits) => {
                Some(keystore::open(&bits.0, &command.keystore_password).map_err(|error| error.to_string())?)
            }
            None => self.0.state().settings.as_ref().and_then(|settings| settings.tls.clone()),
        };
        let all = listeners(&self.0.identity);
        let (ready, without): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|listener| !listener.tls || tls.is_some());
        let settings = Settings {
            encryptor_password: command.encryptor_password.clone(),
            source_check: command.is_source_ip_check_enabled,
            tls,
        };
        let serve = &self.0.serve;
        serve.publish(SETTINGS, &settings).map_err(|error| error.to_string())?;
        self.0.state().settings = Some(settings);
        let version = serve.offer(ready.into_iter().map(|listener| {
            Offer::new(listener.to_string(), move || {
                std::net::TcpListener::bind(listener.address).map(OwnedFd::from)
            })
        }));
        if !serve.applied(version, APPLY_LIMIT).await {
            // It gets them as soon as it is there.
            tracing::warn!("serve has not yet taken the listeners");
        }
        let failures = serve.failures();
        if !failures.is_empty() {
            return Err(not_listening(&failures));
        }
        match without.first() {
            Some(listener) => {
                Err(format!("{} needs a certificate, keystoreBits is absent", listener.address))
            }
            None => Ok(()),
        }
    }

    fn allow(&self, command: &Message) -> Result<(), String> {
        let fail = |why: String| format!("Unable to add allowed session due to: {why}");
        let command: AllowConsoleAccessCommand = command.read().map_err(|error| fail(error.to_string()))?;
        if command.session_uuid.is_empty() || command.session_uuid.len() > 256 {
            return Err(fail("sessionUuid is empty or too long".to_owned()));
        }
        self.0.state().gate.allow(&command.session_uuid, Instant::now());
        Ok(())
    }

    /// Of itself only: what is asked about another address is not fetched.
    fn load(
        &self,
        command: Result<CheckConsoleProxyLoadCommand, common::channel::message::MessageError>,
    ) -> Message {
        let command = match command {
            Ok(command) => command,
            Err(error) => return Message::wrap(&Answer { answer: AnswerBase::failed(error.to_string()) }),
        };
        let own = command
            .proxy_management_ip
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| self.0.identity.nics.iter().any(|nic| nic.address == Some(address)));
        let answer = if own {
            AnswerBase { details: Some(self.0.state().ledger.load().text() + "\n"), ..AnswerBase::ok() }
        } else {
            AnswerBase { result: false, ..AnswerBase::default() }
        };
        Message::wrap(&ConsoleProxyLoadAnswer {
            proxy_vm_id: command.proxy_vm_id,
            proxy_vm_name: command.proxy_vm_name,
            answer,
        })
    }

    fn nic(&self, index: u32) -> Nic {
        let Some(nic) = self.0.identity.nic(index) else { return Nic::default() };
        let mac = fs::read_to_string(format!("/sys/class/net/{}/address", nic.device()));
        Nic {
            address: nic.address.map(|address| address.to_string()),
            netmask: nic.ipv4().map(|network| network.netmask().to_string()),
            mac: mac.ok().map(|mac| mac.trim().to_owned()),
        }
    }
}

fn not_listening(failures: &BTreeMap<String, String>) -> String {
    let each = failures.iter().map(|(name, error)| format!("{name}: {error}"));
    format!("not listening on {}", each.collect::<Vec<_>>().join(", "))
}
