//! Keeps charon at what is wanted, in the background: no document waits for it.
//!
//! charon is a service of its own, which outlives the core; it runs while there is something for it to do. A core that
//! starts looks what charon has; a charon that was started anew gets everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    program,
    supervise::{self, Action, SuperviseError},
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    report::{Cause, Causes, Report, Stage, peer_of},
    steps::{Present, Step, steps},
    vici::{Message, Session, ViciError},
    wanted::{Begins, Connection, USER, Wanted},
};

/// The service.
const CHARON: &str = "charon";
/// How often is looked whether charon is there, while it should be.
const LOOK: Duration = Duration::from_millis(50);
/// How long charon may take to come up before it is started once more.
const START: Duration = Duration::from_secs(5);
/// Longest time for a program.
const LIMIT: Duration = Duration::from_secs(5);
/// How often is looked whether something that should be established is not.
const TICK: Duration = Duration::from_secs(2);
/// How long this side leaves it to the other one to begin.
const LATER: Duration = Duration::from_secs(6);
/// How long until a connection that failed is begun again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(60));
/// How long what charon said last counts while it says nothing: a restart takes less.
const LAST: Duration = Duration::from_secs(30);

/// See the module; clones share everything.
#[derive(Debug, Clone)]
pub struct Keeper {
    paths: Paths,
    socket: PathBuf,
    wanted: Arc<watch::Sender<Arc<Wanted>>>,
    known: Arc<Mutex<Known>>,
}

/// What was heard of charon.
#[derive(Debug, Default)]
struct Known {
    causes: Causes,
    /// What charon would not take, by the site.
    refused: BTreeMap<Ipv4Addr, String>,
    last: Option<(Instant, Report)>,
}

/// What is said of a site to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The gateway of the site.
    pub peer: Ipv4Addr,
    /// Its condition, and why it is so.
    pub text: String,
}

impl Keeper {
    /// Begins in the background; nothing is wanted yet.
    pub fn start(paths: &Paths) -> Self {
        let keeper = Self {
            paths: paths.clone(),
            socket: paths.at("/run/charon.vici"),
            wanted: Arc::new(watch::Sender::new(Arc::default())),
            known: Arc::default(),
        };
        let own = keeper.clone();
        tokio::spawn(async move { own.run().await });
        keeper
    }

    /// Says what is wanted from now on.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|now| {
            let differs = **now != wanted;
            if differs {
                *now = Arc::new(wanted);
            }
            differs
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What charon says now; while it is being started again, what it said last.
    ///
    /// # Errors
    /// Where nothing is known.
    pub async fn report(&self) -> Result<Report, ViciError> {
        if self.wanted.borrow().is_empty() {
            return Ok(Report::default());
        }
        let asked = async { list(&mut Session::open(&self.socket).await?).await };
        match asked.await {
            Ok(report) => {
                self.known().last = Some((Instant::now(), report.clone()));
                Ok(report)
            }
            Err(error) => match &self.known().last {
                Some((at, report)) if at.elapsed() < LAST => Ok(report.clone()),
                _ => Err(error),
            },
        }
    }

    /// What is said of each site.
    pub async fn words(&self) -> Vec<Word> {
        let report = self.report().await;
        let (wanted, known) = (self.wanted.borrow().clone(), self.known());
        let word = |peer: Ipv4Addr, connection: &Connection| {
            let text = match &report {
                Err(error) => error.to_string(),
                Ok(report) => {
                    let found = report.peers.get(&peer).cloned().unwrap_or_default();
                    match (found.stage, known.refused.get(&peer), known.causes.of(peer)) {
                        (Some(Stage::Established(seconds)), _, cause) => {
                            let whole = found.children.len() >= connection.children.len();
                            let cause = cause.filter(|_| !whole).map(|cause| format!(": {cause}"));
                            format!(
                                "established for {seconds} s, {} of {} children, {} bytes in, {} out{}",
                                found.children.len(),
                                connection.children.len(),
                                found.bytes.0,
                                found.bytes.1,
                                cause.unwrap_or_default()
                            )
                        }
                        (_, Some(refused), _) => format!("not established: {refused}"),
                        (_, _, Some(cause)) => format!("not established: {cause}"),
                        (Some(_), ..) => "has begun, no answer yet".to_owned(),
                        (None, ..) if connection.begins == Begins::Never => {
                            "not established: the other side has to begin".to_owned()
                        }
                        (None, ..) => "not established".to_owned(),
                    }
                }
            };
            Word { peer, text }
        };
        let waiting = wanted.waiting.iter().map(|peer| Word {
            peer: *peer,
            text: "waits for the public address that it is reached from".to_owned(),
        });
        let mut words: Vec<Word> =
            wanted.connections.values().filter_map(|c| Some(word(c.peer?, c))).chain(waiting).collect();
        words.sort_by_key(|word| word.peer);
        words
    }

    async fn run(self) {
        let mut wanted = self.wanted.subscribe();
        loop {
            if wanted.borrow_and_update().is_empty() {
                self.stop().await;
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Some(session) = self.open().await else { continue };
            match self.converse(session, &mut wanted).await {
                Ok(()) => {}
                Err(ViciError::Io(error)) => tracing::warn!(%error, "the IKE daemon has gone"),
                Err(error) => {
                    tracing::error!(%error, "the IKE daemon cannot be told what is wanted");
                    sleep(TICK).await;
                }
            }
        }
    }

    /// Asks the supervisor; what it says is logged.
    async fn supervise(&self, action: Action) {
        let paths = self.paths.clone();
        let outcome = spawn_blocking(move || {
            let running = supervise::status(&paths, CHARON)?.up;
            if running == (action == Action::Start) {
                Ok(())
            } else {
                supervise::control(&paths, CHARON, action)
            }
        });
        match outcome.await {
            // A machine without the service may have a charon of its own.
            Ok(Ok(()) | Err(SuperviseError::Unknown(_))) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(%error, ?action, "the IKE daemon"),
        }
    }

    async fn stop(&self) {
        self.supervise(Action::Stop).await;
        *self.known() = Known::default();
    }

    /// A conversation with charon, which is started where it does not run.
    async fn open(&self) -> Option<Session> {
        if let Ok(session) = Session::open(&self.socket).await {
            return Some(session);
        }
        // One that was killed is started again by its supervisor: only beside looking for it that one is asked.
        let start = async {
            self.supervise(Action::Start).await;
            std::future::pending::<()>().await;
        };
        let open = async {
            loop {
                match Session::open(&self.socket).await {
                    Ok(session) => return session,
                    Err(_) => sleep(LOOK).await,
                }
            }
        };
        let open = async {
            tokio::select! { session = open => Some(session), () = start => None }
        };
        timeout(START, open).await.ok().flatten()
    }

    /// Brings charon to what is wanted and keeps it there, until it goes or nothing is wanted any more.
    async fn converse(
        &self,
        mut session: Session,
        wanted: &mut watch::Receiver<Arc<Wanted>>,
    ) -> Result<(), ViciError> {
        tracing::info!("the IKE daemon is there");
        let mut heard = self.listen().await?;
        let mut secrets = BTreeMap::new();
        for id in session.ask("get-shared", &Message::default()).await?.strs("keys") {
            secrets.insert(id.to_owned(), None);
        }
        forget_kernel(&mut session).await?;
        let mut attempts = Attempts::default();
        let mut key = None;
        let mut done: Option<Arc<Wanted>> = None;
        loop {
            let now = wanted.borrow_and_update().clone();
            if done.as_ref() != Some(&now) {
                if now.key.is_some() && now.key != key {
                    if let Some(message) = &now.key {
                        session.ask("load-key", message).await?;
                    }
                    key.clone_from(&now.key);
                }
                self.reconcile(&mut session, &mut secrets, &now).await?;
                if done.is_none() {
                    tracing::info!(
                        connections = now.connections.len(),
                        "the IKE daemon has all that is wanted"
                    );
                }
                if now.is_empty() {
                    return Ok(());
                }
                done = Some(now.clone());
            }
            self.begin(&mut session, &now, &mut attempts).await?;
            let tick = sleep(TICK);
            tokio::pin!(tick);
            loop {
                tokio::select! {
                    changed = wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    () = &mut tick => break,
                    event = heard.recv() => match event {
                        Some((name, message)) => self.hear(&name, &message, &now),
                        None => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
                    },
                }
            }
        }
    }

    /// What charon tells by itself, from a conversation of its own.
    async fn listen(&self) -> Result<mpsc::Receiver<(String, Message)>, ViciError> {
        let mut session = Session::open(&self.socket).await?;
        for event in ["log", "ike-updown"] {
            session.register(event).await?;
        }
        let (tell, heard) = mpsc::channel(1000);
        tokio::spawn(async move {
            while let Ok(event) = session.event().await {
                // Where nobody keeps up with it, a line of the log is less important than memory.
                if let Err(mpsc::error::TrySendError::Closed(_)) = tell.try_send(event) {
                    return;
                }
            }
        });
        Ok(heard)
    }

    fn hear(&self, event: &str, message: &Message, wanted: &Wanted) {
        let mut known = self.known();
        if event == "log" {
            let is_site = |address| wanted.connections.values().any(|c| c.peer == Some(address));
            if let Some((peer, cause)) = known.causes.hear(message, is_site) {
                warn(peer, cause);
            }
            return;
        }
        for peer in message.sections().filter_map(|(name, _)| peer_of(name)) {
            if message.str("up") == Some("yes") {
                known.causes.clear(peer);
                tracing::info!(%peer, "a site is connected");
            } else {
                tracing::warn!(%peer, "a site is no longer connected");
            }
        }
    }

    async fn reconcile(
        &self,
        session: &mut Session,
        secrets: &mut BTreeMap<String, Option<Message>>,
        wanted: &Wanted,
    ) -> Result<(), ViciError> {
        let connections = session.ask("get-conns", &Message::default()).await?;
        let connections: BTreeSet<String> =
            connections.strs("conns").into_iter().map(str::to_owned).collect();
        let report = list(session).await?;
        let pools = session.ask("get-pools", &Message::default()).await?;
        let pools = pools.sections().map(|(name, _)| name.to_owned()).collect();
        let present = Present { connections, alive: report.alive.clone(), pools, secrets: secrets.clone() };
        let peers: BTreeSet<Ipv4Addr> = wanted.connections.values().filter_map(|c| c.peer).collect();
        self.known().refused.clear();
        for step in steps(&present, wanted) {
            let (command, message) = order(&step, wanted);
            self.cut(session, &step, &report, secrets).await?;
            let outcome = session.ask(command, &message).await;
            match (&step, outcome) {
                // It has ended by itself.
                (Step::End(_), Err(ViciError::Refused { .. })) => {}
                (_, Err(ViciError::Refused { reason, .. })) => {
                    tracing::error!(reason, ?step, "the IKE daemon refuses");
                    if let Step::LoadConnection(name) = &step
                        && let Some(peer) = wanted.connections.get(name).and_then(|c| c.peer)
                    {
                        let text = format!("the IKE daemon refuses it: {reason}");
                        self.known().refused.insert(peer, text);
                    }
                }
                (Step::LoadSecret(id), Ok(_)) => {
                    secrets.insert(id.clone(), wanted.secrets.get(id).cloned());
                }
                (Step::UnloadSecret(id), Ok(_)) => drop(secrets.remove(id)),
                (Step::LoadConnection(name) | Step::End(name), Ok(_)) => {
                    // What was wrong may be right now.
                    if let Some(peer) = peer_of(name) {
                        self.known().causes.clear(peer);
                    }
                }
                (_, outcome) => drop(outcome?),
            }
        }
        let mut known = self.known();
        let gone: Vec<Ipv4Addr> = known.causes.peers().filter(|peer| !peers.contains(peer)).collect();
        gone.into_iter().for_each(|peer| known.causes.clear(peer));
        Ok(())
    }

    /// Ends what a user has whose password changes or goes.
    async fn cut(
        &self,
        session: &mut Session,
        step: &Step,
        report: &Report,
        secrets: &BTreeMap<String, Option<Message>>,
    ) -> Result<(), ViciError> {
        let id = match step {
            Step::UnloadSecret(id) => id,
            // What was there before this conversation is what the user still has, as far as is known.
            Step::LoadSecret(id) if secrets.get(id).is_some_and(Option::is_some) => id,
            _ => return Ok(()),
        };
        let Some(user) = id.strip_prefix(USER) else { return Ok(()) };
        for client in report.clients.iter().filter(|client| client.user == user) {
            tracing::info!(user, from = client.from, "the connection of a client is ended");
            let order = Message::default().text("ike-id", client.number.as_str());
            match session.ask("terminate", &order.flag("force", true).text("timeout", "-1")).await {
                Ok(_) | Err(ViciError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Begins what should be there and is not.
    async fn begin(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        attempts: &mut Attempts,
    ) -> Result<(), ViciError> {
        let report = list(session).await?;
        self.known().last = Some((Instant::now(), report.clone()));
        attempts.0.retain(|name, _| wanted.connections.contains_key(name));
        for (name, connection) in &wanted.connections {
            let Some(peer) = connection.peer else { continue };
            let found = report.peers.get(&peer).cloned().unwrap_or_default();
            let missing: Vec<&String> =
                connection.children.iter().filter(|child| !found.children.contains(*child)).collect();
            let refused = self.known().refused.contains_key(&peer);
            let under_way = found.stage.is_some() && !found.is_up();
            if !attempts.is_due(name, connection.begins, missing.is_empty()) || under_way || refused {
                continue;
            }
            for child in missing {
                let order = Message::default()
                    .text("child", child.as_str())
                    .text("ike", name.as_str())
                    .text("timeout", "-1")
                    .flag("init-limits", false);
                match session.ask("initiate", &order).await {
                    Err(ViciError::Refused { reason, .. }) => tracing::warn!(reason, name, "cannot begin"),
                    outcome => drop(outcome?),
                }
            }
        }
        Ok(())
    }
}

/// A charon that has nothing yet knows nothing of what another one has left in the kernel when it was killed: that goes,
/// or it would be in the way of what comes. Packets wait meanwhile, the filter lets none out in the clear.
async fn forget_kernel(session: &mut Session) -> Result<(), ViciError> {
    let connections = session.ask("get-conns", &Message::default()).await?;
    if !connections.strs("conns").is_empty() || !list(session).await?.alive.is_empty() {
        return Ok(());
    }
    let flush = || ["state", "policy"].map(|what| program::run("ip", ["xfrm", what, "flush"], b"", LIMIT));
    for outcome in spawn_blocking(flush).await.into_iter().flatten() {
        if let Err(error) = outcome {
            tracing::warn!(%error, "tunnels of before stay in the kernel");
        }
    }
    Ok(())
}

fn warn(peer: Ipv4Addr, cause: Cause) {
    tracing::warn!(%peer, %cause, "a site cannot be connected");
}

/// What charon has established, or on its way.
async fn list(session: &mut Session) -> Result<Report, ViciError> {
    Ok(Report::read(&session.list("list-sas", "list-sa").await?))
}

/// The command for a step.
fn order(step: &Step, wanted: &Wanted) -> (&'static str, Message) {
    let one = |key: &str, value: &String| Message::default().text(key, value.as_str());
    match step {
        Step::LoadSecret(id) => ("load-shared", wanted.secrets.get(id).cloned().unwrap_or_default()),
        Step::UnloadSecret(id) => ("unload-shared", one("id", id)),
        Step::LoadPool(name) => {
            let pool = wanted.pools.get(name).cloned().unwrap_or_default();
            ("load-pool", Message::default().section(name, pool))
        }
        Step::UnloadPool(name) => ("unload-pool", one("name", name)),
        Step::UnloadConnection(name) => ("unload-conn", one("name", name)),
        Step::End(name) => ("terminate", one("ike", name).flag("force", true).text("timeout", "-1")),
        Step::LoadConnection(name) => {
            let config = wanted.connections.get(name).map(|c| c.config.clone()).unwrap_or_default();
            ("load-conn", Message::default().section(name, config))
        }
    }
}

/// When connections were begun: the more often one failed, the longer until it is begun again.
#[derive(Debug, Default)]
struct Attempts(BTreeMap<String, (Instant, Duration)>);

impl Attempts {
    /// Whether a connection is to be begun now; counts that it is.
    fn is_due(&mut self, name: &str, begins: Begins, complete: bool) -> bool {
        let now = Instant::now();
        if complete || begins == Begins::Never {
            self.0.remove(name);
            return false;
        }
        let first = if begins == Begins::AtOnce { Duration::ZERO } else { LATER };
        let (at, wait) = self.0.entry(name.to_owned()).or_insert((now + first, AGAIN.0));
        if *at > now {
            return false;
        }
        *at = now + *wait;
        *wait = wait.saturating_mul(2).min(AGAIN.1);
        true
    }
}
