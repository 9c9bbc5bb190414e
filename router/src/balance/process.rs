//! The running HAProxy: one master and its workers, which outlive the core.
//!
//! Nothing is remembered about it that it does not tell itself: a core that starts asks the worker which
//! configuration it has (its description is the seal of [`config`]) and which servers. So an HAProxy that runs is
//! taken over as it is, and one that has ended is started again.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    persist,
    program::{self, ProgramError},
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    cli::{Conversation, once},
    config::{self, Files},
    log,
    model::{Balance, Front},
    runtime,
    stats::{self, Count, FRONTEND, Row, Tally},
};

/// Longest time until a new worker answers.
const START: Duration = Duration::from_secs(10);
/// Longest time for a check of a configuration.
const CHECK: Duration = Duration::from_secs(20);
/// How often is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(10);
/// Longest time between two attempts to start an HAProxy that does not start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Version of the shape of the tally.
const VERSION: u32 = 1;
/// Field of a server's administrative state in the table of servers' states.
const ADMIN_STATE: usize = 6;

/// Why load balancing is not as it should be. What was balanced before still is.
#[derive(Debug, thiserror::Error)]
pub enum BalanceError {
    /// A file or socket.
    #[error("load balancing: {what}: {source}")]
    Io {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be run, or says no.
    #[error("load balancing: {0}")]
    Program(#[from] ProgramError),
    /// A worker refused a command.
    #[error("load balancing: {command:?} was refused: {answer}")]
    Refused {
        /// The command.
        command: String,
        /// What the worker said.
        answer: String,
    },
    /// No worker with the new configuration came.
    #[error("load balancing: the new worker does not answer after {} s", START.as_secs())]
    Late,
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> BalanceError {
    move |source| BalanceError::Io { what, source }
}

/// The worker that takes new connections.
#[derive(Debug)]
struct Worker {
    conversation: Conversation,
    pid: u32,
    seal: String,
    rows: Vec<Row>,
}

/// A worker that takes no new connections.
#[derive(Debug)]
struct Leaving {
    /// `None` where an earlier core let it go: it is asked by way of the master.
    conversation: Option<Conversation>,
    pid: u32,
    rows: Vec<Row>,
}

/// See the module.
#[derive(Debug)]
pub struct Balancer {
    files: Files,
    wanted: Balance,
    running: Option<Worker>,
    leaving: Vec<Leaving>,
    tally: Tally,
    ends: u32,
    failures: u32,
    next_try: Option<Instant>,
    begun: bool,
}

impl Balancer {
    /// Nothing is balanced yet; what runs is found when it is first asked to do something.
    pub fn new(paths: &Paths) -> Self {
        let files = Files::below(paths.run().join("balance"));
        let tally =
            persist::load(&files.tally(), VERSION).ok().and_then(|loaded| loaded.value).unwrap_or_default();
        Self {
            files,
            wanted: Balance::default(),
            running: None,
            leaving: Vec::new(),
            tally,
            ends: 0,
            failures: 0,
            next_try: None,
            begun: false,
        }
    }

    /// Brings HAProxy to what is wanted. After an error it does what it did before, and what was wanted before
    /// is still.
    pub async fn apply(&mut self, wanted: &Balance) -> Result<(), BalanceError> {
        self.begin().await;
        if self.is_so(wanted) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.wanted, wanted.clone());
        let outcome = self.bring().await;
        if outcome.is_err() {
            self.wanted = before;
        }
        outcome
    }

    /// The same where nobody can be told of a failure: [`Balancer::tick`] tries again.
    pub async fn follow(&mut self, wanted: &Balance) {
        self.begin().await;
        if self.is_so(wanted) {
            return;
        }
        self.wanted = wanted.clone();
        if let Err(error) = self.bring().await {
            self.failed(&error);
        }
    }

    /// Whether nothing has to be done for what is wanted: what an earlier core has left may be too much.
    fn is_so(&self, wanted: &Balance) -> bool {
        *wanted == self.wanted && !(is_empty(wanted) && self.running.is_some())
    }

    /// Rules that HAProxy would not take although they look right, by what it says: an unusable certificate
    /// most of all. Nothing is asked where only servers differ.
    pub async fn vet(&self, next: &Balance) -> Result<BTreeMap<Front, String>, BalanceError> {
        let unchanged = config::seal(next, &self.files) == config::seal(&self.wanted, &self.files);
        if unchanged || is_empty(next) {
            return Ok(BTreeMap::new());
        }
        let Err(all) = self.check(next).await? else { return Ok(BTreeMap::new()) };
        let mut refused = BTreeMap::new();
        for (front, rule) in &next.rules {
            if self.wanted.rules.get(front) == Some(rule) {
                continue;
            }
            let rules = BTreeMap::from([(*front, rule.clone())]);
            let alone = Balance { rules, pages: BTreeMap::new(), limits: next.limits.clone() };
            if let Err(reason) = self.check(&alone).await? {
                refused.insert(*front, reason);
            }
        }
        if refused.is_empty() {
            return Err(BalanceError::Program(ProgramError::Failed {
                program: "haproxy".to_owned(),
                code: "1".to_owned(),
                output: all,
            }));
        }
        Ok(refused)
    }

    /// What `haproxy -c` says of a configuration.
    async fn check(&self, balance: &Balance) -> Result<Result<(), String>, BalanceError> {
        self.write_certificates(balance).map_err(io_error("certificates"))?;
        let file = self.files.folder().join("candidate.cfg");
        persist::write(&file, config::render(balance, &self.files).as_bytes(), 0o600)
            .map_err(io_error("candidate.cfg"))?;
        let words = ["-c".into(), "-f".into(), file.into_os_string()];
        match haproxy(words.to_vec(), CHECK).await {
            Ok(()) => Ok(Ok(())),
            Err(ProgramError::Failed { output, .. }) => Ok(Err(log::complaints(&output))),
            Err(error) => Err(error.into()),
        }
    }

    /// Once a second: starts what has ended, deletes servers whose last connection has ended, and hears what
    /// workers have counted.
    pub async fn tick(&mut self) {
        let mut changed = false;
        if let Some(worker) = &mut self.running
            && let Err(error) = worker.listen(&mut self.tally).await
        {
            tracing::error!(%error, pid = worker.pid, "the worker has ended");
            self.tally.retire(worker.pid);
            self.running = None;
            self.ends = self.ends.saturating_add(1);
            changed = true;
        }
        if let Some(worker) = &mut self.running {
            for order in runtime::orders(&self.wanted, &worker.rows).iter().filter(|order| order.may_fail) {
                // It still has connections.
                let _ = worker.conversation.ask(&order.words).await;
            }
        }
        changed |= self.hear_leaving().await;
        if self.running.is_none()
            && !is_empty(&self.wanted)
            && self.next_try.is_none_or(|at| at <= Instant::now())
        {
            match self.bring().await {
                Ok(()) => tracing::info!("load balancing is back"),
                Err(error) => self.failed(&error),
            }
        }
        if changed {
            self.save_tally();
        }
    }

    fn failed(&mut self, error: &BalanceError) {
        tracing::error!(%error, "nothing is balanced");
        self.failures = self.failures.saturating_add(1);
        let wait = Duration::from_millis(500).saturating_mul(1 << self.failures.min(10)).min(PATIENCE);
        self.next_try = Some(Instant::now() + wait);
    }

    /// Brings HAProxy to `self.wanted`.
    async fn bring(&mut self) -> Result<(), BalanceError> {
        if self.running.is_none() {
            self.running = self.adopt().await;
        }
        if is_empty(&self.wanted) {
            return self.stop();
        }
        let seal = config::seal(&self.wanted, &self.files);
        let outcome = match &self.running {
            None => self.start(&seal).await,
            Some(worker) if worker.seal == seal => match self.set_servers().await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "a new worker takes the place of the one that refused");
                    self.reload(&seal).await
                }
            },
            Some(_) => self.reload(&seal).await,
        };
        if outcome.is_ok() {
            self.failures = 0;
            self.next_try = None;
            let pools: Vec<String> = self.wanted.rules.keys().map(Front::pool).collect();
            self.tally.keep(&pools);
            self.clean();
            self.save_tally();
        }
        outcome
    }

    /// The worker that runs already.
    async fn adopt(&self) -> Option<Worker> {
        let worker = Worker::open(&self.files.worker()).await.ok()??;
        tracing::info!(pid = worker.pid, "found a running worker");
        Some(worker)
    }

    /// Finds what an earlier core has left: the worker that runs, and those that leave.
    async fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) || !self.files.master().exists() {
            return;
        }
        self.running = self.adopt().await;
        let list = once(&self.files.master(), "show proc").await.unwrap_or_default();
        let old = list.split("# old workers").nth(1).unwrap_or_default();
        let old = old.split("# programs").next().unwrap_or_default();
        let pids = old.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
        self.leaving = pids.map(|pid| Leaving { conversation: None, pid, rows: Vec::new() }).collect();
        let alive: Vec<u32> =
            self.leaving.iter().map(|l| l.pid).chain(self.running.iter().map(|w| w.pid)).collect();
        let gone: Vec<u32> = self.tally.seen.keys().copied().filter(|pid| !alive.contains(pid)).collect();
        gone.into_iter().for_each(|pid| self.tally.retire(pid));
    }

    /// Starts a master and its first worker.
    async fn start(&mut self, seal: &str) -> Result<(), BalanceError> {
        self.end_master();
        self.write()?;
        // Health that an earlier HAProxy knew is of no use to this one.
        let _ = fs::remove_file(self.files.servers());
        persist::write(&self.files.servers(), b"1\n", 0o600).map_err(io_error("servers"))?;
        let mut master = self.files.master().into_os_string();
        master.push(",mode,600");
        let words =
            ["-W".into(), "-D".into(), "-S".into(), master, "-p".into(), self.files.pid().into_os_string()];
        let config = ["-f".into(), self.files.config().into_os_string()];
        let started = haproxy([words.as_slice(), &config].concat(), START).await;
        started.map_err(|error| match error {
            ProgramError::Failed { program, code, output } => {
                ProgramError::Failed { program, code, output: log::complaints(&output) }
            }
            other => other,
        })?;
        self.running = Some(self.wait_for(seal).await?);
        self.set_servers().await
    }

    /// Has a new worker take the place of the running one, which finishes its connections.
    async fn reload(&mut self, seal: &str) -> Result<(), BalanceError> {
        self.write()?;
        if let Some(worker) = &mut self.running {
            let states = worker.conversation.ask("show servers state").await.unwrap_or_default();
            persist::write(&self.files.servers(), known_health(&states).as_bytes(), 0o600)
                .map_err(io_error("servers"))?;
            // Its last word so far, should the core not live to hear the last one.
            let _ = worker.listen(&mut self.tally).await;
        }
        self.save_tally();
        self.tell_master("reload").await?;
        let next = self.wait_for(seal).await?;
        if let Some(worker) = self.running.replace(next) {
            let Worker { conversation, pid, rows, .. } = worker;
            self.leaving.push(Leaving { conversation: Some(conversation), pid, rows });
        }
        self.set_servers().await
    }

    /// Gives a command to the master, which does not listen for a moment when it has just reloaded.
    async fn tell_master(&self, command: &str) -> Result<(), BalanceError> {
        let path = self.files.master();
        let told = async {
            loop {
                match once(&path, command).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(LOOK).await,
                    other => return other,
                }
            }
        };
        let outcome = timeout(START, told).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        outcome.map(drop).map_err(io_error("the master"))
    }

    /// The worker that has this configuration, once it answers.
    async fn wait_for(&self, seal: &str) -> Result<Worker, BalanceError> {
        let path = self.files.worker();
        let found = async {
            loop {
                match Worker::open(&path).await {
                    Ok(Some(worker)) if worker.seal == seal => return worker,
                    _ => sleep(LOOK).await,
                }
            }
        };
        timeout(START, found).await.map_err(|_| BalanceError::Late)
    }

    /// Gives the running worker the servers that it should have.
    async fn set_servers(&mut self) -> Result<(), BalanceError> {
        let Some(worker) = &mut self.running else { return Ok(()) };
        worker.listen(&mut self.tally).await.map_err(io_error("the worker"))?;
        for order in runtime::orders(&self.wanted, &worker.rows) {
            let answer = worker.conversation.ask(&order.words).await.map_err(io_error("the worker"))?;
            if !order.may_fail && !runtime::is_done(&answer) {
                return Err(BalanceError::Refused { command: order.words, answer: answer.trim().to_owned() });
            }
        }
        worker.listen(&mut self.tally).await.map_err(io_error("the worker"))
    }

    /// Nothing is to be balanced: no new connections, and the end when the last one has ended.
    fn stop(&mut self) -> Result<(), BalanceError> {
        if let Some(Worker { conversation, pid, rows, .. }) = self.running.take() {
            tracing::info!(pid, "nothing is balanced any more");
            self.signal_master(rustix::process::Signal::USR1);
            // It ends by itself: whoever is started next must not end it before.
            let _ = fs::remove_file(self.files.pid());
            self.leaving.push(Leaving { conversation: Some(conversation), pid, rows });
        }
        Ok(())
    }

    /// Ends a master that lost its worker, or does not answer.
    fn end_master(&self) {
        self.signal_master(rustix::process::Signal::TERM);
    }

    fn signal_master(&self, signal: rustix::process::Signal) {
        let pid = fs::read_to_string(self.files.pid())
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
        // The number may be somebody else's by now.
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let own = self.files.config();
        if line.split(|b| *b == 0).any(|word| word == own.as_os_str().as_encoded_bytes()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Writes the configuration and what it names.
    fn write(&self) -> Result<(), BalanceError> {
        self.write_certificates(&self.wanted).map_err(io_error("certificates"))?;
        let text = config::render(&self.wanted, &self.files);
        persist::write(&self.files.config(), text.as_bytes(), 0o600).map_err(io_error("haproxy.cfg"))
    }

    fn write_certificates(&self, balance: &Balance) -> io::Result<()> {
        folder(self.files.folder(), 0o700)?;
        folder(&self.files.certificates(), 0o700)?;
        folder(&self.files.empty(), 0o555)?;
        for (name, pem) in config::certificates(balance) {
            let file = self.files.certificates().join(name);
            if !file.exists() {
                persist::write(&file, pem.as_bytes(), 0o600)?;
            }
        }
        Ok(())
    }

    /// Certificates that nothing uses do not stay.
    fn clean(&self) {
        let used = config::certificates(&self.wanted);
        for entry in fs::read_dir(self.files.certificates()).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(|name| used.contains_key(name))
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, "a certificate cannot be removed");
            }
        }
    }

    /// Hears what leaving workers have counted; one without connections is let go. Tells whether one went.
    async fn hear_leaving(&mut self) -> bool {
        let count = self.leaving.len();
        for mut leaving in std::mem::take(&mut self.leaving) {
            let table = match &mut leaving.conversation {
                Some(conversation) => conversation.ask("show stat").await,
                None => once(&self.files.master(), &format!("@!{} show stat", leaving.pid)).await,
            };
            let rows = table.map(|table| stats::rows(&table)).unwrap_or_default();
            if !rows.is_empty() {
                self.tally.see(leaving.pid, &rows);
            }
            if rows.is_empty() || stats::busy(&rows) == 0 {
                self.tally.retire(leaving.pid);
            } else {
                leaving.rows = rows;
                self.leaving.push(leaving);
            }
        }
        self.leaving.len() < count
    }

    fn save_tally(&self) {
        if let Err(error) = persist::save(&self.files.tally(), VERSION, &self.tally) {
            tracing::warn!(%error, "counters would not outlive the core");
        }
    }

    /// Asks the worker anew.
    pub async fn refresh(&mut self) {
        if let Some(worker) = &mut self.running
            && let Err(error) = worker.listen(&mut self.tally).await
        {
            tracing::warn!(%error, "the worker does not answer");
        }
    }

    /// Connections that a server of a pool has now, on the average over those that take new ones; 0 where there is
    /// none (router contract 2.8).
    pub fn mean_connections(&self, pool: &str) -> u64 {
        let Some(worker) = &self.running else { return 0 };
        let up: Vec<&Row> = worker.rows.iter().filter(|row| row.pool == pool && row.is_up()).collect();
        let left = self.leaving.iter().flat_map(|l| &l.rows);
        let left = left.filter(|row| up.iter().any(|u| (&u.pool, &u.name) == (&row.pool, &row.name)));
        let all: u64 = up.iter().copied().chain(left).map(|row| row.current).sum();
        all.checked_div(up.len() as u64).unwrap_or(0)
    }

    /// For each rule: what it is, servers that take connections, connections now, and what was counted.
    pub fn report(&self) -> Vec<Report> {
        let report = |front: &Front| {
            let pool = front.pool();
            let of = |rows: &[Row]| -> u64 {
                rows.iter().filter(|row| row.pool == pool && !row.is_server()).map(|row| row.current).sum()
            };
            let rows = self.running.as_ref().map_or(&[][..], |worker| worker.rows.as_slice());
            Report {
                front: *front,
                up: rows.iter().filter(|row| row.pool == pool && row.is_up()).count(),
                servers: self.wanted.rules.get(front).map_or(0, |rule| rule.servers.len()),
                current: of(rows) + self.leaving.iter().map(|l| of(&l.rows)).sum::<u64>(),
                count: self.tally.total(&pool, FRONTEND),
            }
        };
        self.wanted.rules.keys().map(report).collect()
    }

    /// How often HAProxy was found to have ended by itself, since this core runs.
    pub const fn ends(&self) -> u32 {
        self.ends
    }

    /// Whether everything that is to be balanced is.
    pub fn is_well(&self) -> bool {
        is_empty(&self.wanted) || self.running.is_some()
    }
}

/// What is known of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Its address.
    pub front: Front,
    /// Servers that take connections.
    pub up: usize,
    /// Servers in all.
    pub servers: usize,
    /// Connections now.
    pub current: u64,
    /// What was counted since the rule is there.
    pub count: Count,
}

impl Worker {
    /// The worker behind a socket; `None` where it takes no new connections.
    async fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut conversation = Conversation::open(path).await?;
        let answer = conversation.ask("show info").await?;
        let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let pid = field("Pid:").and_then(|pid| pid.parse().ok());
        let (Some(pid), Some(seal), Some("0")) = (pid, field("description:"), field("Stopping:")) else {
            return Ok(None);
        };
        let seal = seal.to_owned();
        Ok(Some(Self { conversation, pid, seal, rows: Vec::new() }))
    }

    /// Hears what it has counted.
    async fn listen(&mut self, tally: &mut Tally) -> io::Result<()> {
        let table = self.conversation.ask("show stat").await?;
        self.rows = stats::rows(&table);
        tally.see(self.pid, &self.rows);
        Ok(())
    }
}

fn is_empty(balance: &Balance) -> bool {
    balance.rules.is_empty() && balance.pages.is_empty()
}

async fn haproxy(words: Vec<std::ffi::OsString>, limit: Duration) -> Result<(), ProgramError> {
    let run = spawn_blocking(move || program::run("haproxy", words, b"", limit).map(drop));
    run.await.unwrap_or_else(|broken| {
        Err(ProgramError::Start { program: "haproxy".to_owned(), source: io::Error::other(broken) })
    })
}

/// The health of servers that take connections; those put aside begin anew when they come back.
fn known_health(states: &str) -> String {
    let lines = states.lines().filter(|line| {
        let admin = line.split_whitespace().nth(ADMIN_STATE);
        !line.trim().is_empty() && (line.starts_with('#') || admin.is_none_or(|state| state == "0"))
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn folder(path: &Path, mode: u32) -> io::Result<()> {
    // Those above it are for others, too.
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
