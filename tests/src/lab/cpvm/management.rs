//! A management end that knows about consoles and nothing else: it announces sessions, checks their
//! tickets as CloudStack does, and remembers what it was asked and told.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use common::{
    channel::{
        message::{AnswerBase, Base, Message, Wire as _},
        server::{Admission, AttachedAgent, Candidate, Manager, SendOptions, Server, ServerConfig},
        tls::{Authority, ClientPolicy, KeyKind, Revoked, ServerTls},
    },
    command::{
        agent::{AgentControlAnswer, ReadyCommand, SetupMsListCommand, StartupProxyCommand},
        console::{
            AllowConsoleAccessCommand, ConsoleAccessAuthenticationAnswer, ConsoleAccessAuthenticationCommand,
            ConsoleProxyLoadReportCommand, LoadInfo, SignedBytes, StartConsoleProxyAgentHttpHandlerCommand,
        },
    },
    token::{Token, TokenKey, ticket},
};

use super::{LIMIT, SECOND, WORLD, until};

/// Key of its tickets.
pub const HASH_KEY: &str = "c2VjcmV0LWhhc2gta2V5LQ";

/// How authentications are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// By the ticket.
    Honest,
    /// No, whatever the ticket.
    Denying,
    /// Not at all.
    Silent,
}

/// What it was told and asked.
#[derive(Debug, Default)]
pub struct Seen {
    /// How the proxy joined.
    pub startup: Option<StartupProxyCommand>,
    /// Every authentication.
    pub asked: Vec<ConsoleAccessAuthenticationCommand>,
    /// Every load report.
    pub reports: Vec<LoadInfo>,
    /// When each periodic one came.
    pub times: Vec<Instant>,
    /// Every session that was ever reported as removed.
    pub removed: Vec<String>,
    used: HashSet<String>,
}

/// The management end.
pub struct Management {
    /// Key of its tokens.
    pub key: TokenKey,
    /// Who vouches for it and for what it gives certificates to.
    pub authority: Authority,
    /// What it was told and asked.
    pub seen: Mutex<Seen>,
    mood: Mutex<Mood>,
    started: bool,
    server: Mutex<Option<Server>>,
    port: OnceLock<u16>,
    _folder: tempfile::TempDir,
}

impl Management {
    /// Starts it; `started`: it opens the proxy's listeners as soon as that joins.
    pub async fn start(started: bool) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), "ca.example", KeyKind::P256).unwrap();
        let policy = ClientPolicy { strict: false, allow_expired: true };
        let address = WORLD.parse().unwrap();
        let tls =
            ServerTls::new(&authority, vec!["management".into()], vec![address], policy, Revoked::default());
        let management = Arc::new(Self {
            key: TokenKey::generate().unwrap(),
            authority,
            seen: Mutex::default(),
            mood: Mutex::new(Mood::Honest),
            started,
            server: Mutex::default(),
            port: OnceLock::new(),
            _folder: folder,
        });
        let server =
            Server::bind((address, 0).into(), ServerConfig::default(), tls.unwrap(), management.clone());
        let server = server.await.unwrap();
        management.port.set(server.address().port()).unwrap();
        *management.server.lock().unwrap() = Some(server);
        management
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        *self.port.get().unwrap()
    }

    /// A second end at another address, of which the proxy is told; the first one, to be dropped.
    pub async fn second_server(self: &Arc<Self>) -> Server {
        let policy = ClientPolicy { strict: false, allow_expired: true };
        let address = SECOND.parse().unwrap();
        let tls = ServerTls::new(
            &self.authority,
            vec!["management".into()],
            vec![address],
            policy,
            Revoked::default(),
        );
        let bound =
            Server::bind((address, self.port()).into(), ServerConfig::default(), tls.unwrap(), self.clone());
        let second = bound.await.unwrap();
        let command = SetupMsListCommand {
            ms_list: vec![WORLD.into(), SECOND.into()],
            lb_algorithm: "static".into(),
            ..SetupMsListCommand::default()
        };
        assert!(succeeded(&self.ask(Message::wrap(&command)).await));
        self.server.lock().unwrap().replace(second).unwrap()
    }

    /// From now on it answers so.
    pub fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Waits for the proxy.
    pub async fn joined(&self, limit: Duration) {
        until("the proxy joins", limit, async || self.agent().is_some_and(|agent| agent.is_ready())).await;
    }

    /// The proxy, where it is there.
    pub fn agent(&self) -> Option<AttachedAgent> {
        self.server.lock().unwrap().as_ref().unwrap().agents().named("v-42-VM")
    }

    /// Sends a command and waits for the answer.
    pub async fn ask(&self, command: Message) -> Message {
        self.agent().unwrap().ask(command, SendOptions::default().within(LIMIT)).await.unwrap()
    }

    /// Announces a session.
    pub async fn allow(&self, session: &str) {
        let command = AllowConsoleAccessCommand { session_uuid: session.to_owned(), base: Base::default() };
        assert!(succeeded(&self.ask(Message::wrap(&command)).await));
    }

    /// The command that starts the listeners.
    pub fn start_command(&self, keystore: Option<(&[u8], &str)>, source_check: bool) -> Message {
        Message::wrap(&StartConsoleProxyAgentHttpHandlerCommand {
            keystore_bits: keystore.map(|(bytes, _)| SignedBytes(bytes.to_vec())),
            keystore_password: keystore
                .map_or_else(|| "unused".to_owned(), |(_, password)| password.to_owned()),
            encryptor_password: self.key.encryptor_password().to_string(),
            is_source_ip_check_enabled: source_check,
            base: Base::default(),
        })
    }

    /// Every authentication so far.
    pub fn asked(&self) -> Vec<ConsoleAccessAuthenticationCommand> {
        self.seen.lock().unwrap().asked.clone()
    }

    /// Every session that was reported as removed so far.
    pub fn removed(&self) -> Vec<String> {
        self.seen.lock().unwrap().removed.clone()
    }

    /// Waits for a report that came after now and returns it.
    pub async fn next_report(&self, wanted: impl Fn(&LoadInfo) -> bool) -> LoadInfo {
        let from = self.seen.lock().unwrap().reports.len();
        let mut found = None;
        until("a load report", LIMIT, async || {
            found = self.seen.lock().unwrap().reports.iter().skip(from).find(|info| wanted(info)).cloned();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn authenticate(&self, command: ConsoleAccessAuthenticationCommand) -> bool {
        let token = Token {
            host: Some(command.host.clone()),
            port: command.port.parse().unwrap(),
            password: Some(command.password.clone()),
            tag: Some(command.vm.clone()),
            session_uuid: command.session.clone(),
            ..Token::default()
        };
        let minute = ticket::minute(common_now());
        let given = command.ticket.clone().unwrap_or_default();
        let mut seen = self.seen.lock().unwrap();
        let fresh = seen.used.insert(command.session.clone().unwrap_or_default());
        seen.asked.push(command);
        fresh && ticket::verify(HASH_KEY, &token, minute, &given)
    }
}

fn common_now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Whether an answer says yes.
pub fn succeeded(answer: &Message) -> bool {
    answer.body["result"].as_bool() == Some(true)
}

impl Manager for Management {
    async fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        assert_eq!(candidate.startup.len(), 1, "one start-up command");
        let startup =
            candidate.startup[0].read::<StartupProxyCommand>().map_err(|error| error.to_string())?;
        self.seen.lock().unwrap().startup = Some(startup);
        let setup = if self.started { vec![self.start_command(None, false)] } else { vec![] };
        Ok(Admission {
            host_id: 7,
            host_uuid: "host-uuid".into(),
            host_name: candidate.text("name").to_owned(),
            setup,
            ready: ReadyCommand::default(),
        })
    }

    async fn set_up(&self, _: &AttachedAgent, answers: Vec<Message>) -> Result<(), String> {
        match answers.iter().find(|answer| !succeeded(answer)) {
            Some(failed) => Err(format!("{failed:?}")),
            None => Ok(()),
        }
    }

    async fn control(&self, _: &AttachedAgent, command: Message) -> Message {
        match command.class.as_str() {
            ConsoleAccessAuthenticationCommand::CLASS => {
                let granted = self.authenticate(command.read().unwrap());
                let mood = *self.mood.lock().unwrap();
                if mood == Mood::Silent {
                    std::future::pending::<()>().await;
                }
                Message::wrap(&ConsoleAccessAuthenticationAnswer::decided(granted && mood == Mood::Honest))
            }
            ConsoleProxyLoadReportCommand::CLASS => {
                let report: ConsoleProxyLoadReportCommand = command.read().unwrap();
                assert_eq!(report.proxy, 42);
                let info = LoadInfo::parse(&report.load_info).unwrap();
                let mut seen = self.seen.lock().unwrap();
                if let Some(removed) = &info.removed_sessions {
                    seen.removed.extend(removed.iter().cloned());
                    seen.times.push(Instant::now());
                }
                seen.reports.push(info);
                Message::wrap(&AgentControlAnswer { answer: AnswerBase::ok() })
            }
            other => panic!("the proxy asked {other}"),
        }
    }
}
