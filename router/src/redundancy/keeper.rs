//! Sees to it that keepalived and conntrackd run and do what they should, whoever started them.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    journal,
    paths::Paths,
    persist,
    program::{self, ProgramError},
    supervise::Action,
};
use rustix::{fs::Mode, process::Signal};
use tokio::{net::unix::pipe, task::spawn_blocking};

use super::{
    Role,
    config::{self, Files},
    plan::Election,
};
use crate::{
    daemon::Daemon,
    link::netlink::{LinkError, Netlink},
};

/// A router that gets its networks one by one waits so long for the next one before it is up for election: with
/// fewer than its partner has it would not know it.
const QUIET: Duration = Duration::from_secs(3);
/// Time for conntrackd to do as it is told.
const CONNTRACKD: Duration = Duration::from_secs(5);
/// How long keepalived is left alone after it was told to say who it is.
const SPEAK: Duration = Duration::from_secs(1);

/// What keepalived says of an advertisement that is older than one it knows.
const OLD: &str = "already processed";

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    paths: Paths,
    files: Files,
    vrrp: Daemon,
    sync: Daemon,
    /// What was wanted last, and since when; before the first time, nothing is known of it.
    wanted: Option<(Option<Election>, Instant)>,
    /// keepalived says that it cannot take part.
    fault: bool,
    /// When it was last told to say who it is.
    spoke: Option<Instant>,
}

impl Keeper {
    /// What runs is found when it is first looked at.
    pub fn new(paths: &Paths) -> Self {
        let files = Files::new(paths);
        let daemon =
            |program: &'static str, config: PathBuf| Daemon::new(program, config, files.output(program));
        Self {
            vrrp: daemon("keepalived", files.keepalived()),
            sync: daemon("conntrackd", files.conntrackd()),
            paths: paths.clone(),
            files,
            wanted: None,
            fault: false,
            spoke: None,
        }
    }

    /// Opens the place where keepalived tells what happens. It stays open for both, so that nothing is lost while
    /// there is no core, and keepalived never waits.
    ///
    /// # Errors
    /// What the system says.
    pub fn events(paths: &Paths) -> io::Result<pipe::Receiver> {
        let files = Files::new(paths);
        fs::create_dir_all(files.folder())?;
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            files.events(),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        );
        match made {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
            _ => {}
        }
        pipe::OpenOptions::new().read_write(true).open_receiver(files.events())
    }

    /// What this router is.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub async fn role(&mut self, election: Option<&Election>, netlink: &Netlink) -> Result<Role, LinkError> {
        let Some(election) = election else { return Ok(Role::Backup) };
        if !self.vrrp.runs() || self.fault {
            return Ok(if self.is_waiting() { Role::Backup } else { Role::Fault });
        }
        let Some(sign) = election.sign() else { return Ok(Role::Backup) };
        Ok(if netlink.has(&election.nic, sign).await? { Role::Primary } else { Role::Backup })
    }

    /// What keepalived has told: lines such as `INSTANCE "inside_network" MASTER 100`. Says whether the other one has
    /// just given way, so that neighbours must hear once more where everything is.
    pub fn hear(&mut self, events: &str) -> bool {
        let mut healed = false;
        for line in events.lines() {
            match line.split(' ').nth(2) {
                Some("FAULT") => self.fault = true,
                Some("MASTER" | "BACKUP") => self.fault = false,
                Some("MASTER_RX_LOWER_PRI") => healed = true,
                _ => {}
            }
        }
        healed
    }

    /// Brings both programs to what is wanted, the router being what it is. Failures are logged, and tried again. Says
    /// whether the other one is just being made to give way, so that neighbours must hear where everything is.
    pub async fn tend(&mut self, wanted: Option<Election>, role: Role) -> bool {
        let before = self.wanted.as_ref();
        if before.is_none_or(|(before, _)| *before != wanted) {
            // A core that starts knows what there was before.
            let since = if before.is_none() { None } else { Some(Instant::now()) };
            let long_ago = || Instant::now().checked_sub(QUIET).unwrap_or_else(Instant::now);
            self.wanted = Some((wanted.clone(), since.unwrap_or_else(long_ago)));
        }
        let spoke = self.note_news(role);
        let outcome = match &wanted {
            None => {
                self.vrrp.end().await;
                self.sync.end().await;
                Ok(())
            }
            Some(election) => self.bring(election, role).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the pair is not as it should be");
        }
        spoke
    }

    async fn bring(&mut self, election: &Election, role: Role) -> io::Result<()> {
        fs::create_dir_all(self.files.folder())?;
        if !self.is_stopped("conntrackd") {
            let (file, text) = (self.files.conntrackd(), config::conntrackd(election, &self.files));
            if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                self.sync.end().await;
                persist::write(&file, text.as_bytes(), 0o600)?;
            }
            if !self.sync.runs() {
                // One that was killed has left them, and another one would take them for its own.
                for name in config::OF_CONNTRACKD {
                    let _ = fs::remove_file(self.files.folder().join(name));
                }
            }
            self.sync.start(["-C".into(), file.into_os_string()])?;
        }
        if self.is_stopped("keepalived") || (!self.vrrp.runs() && self.is_waiting()) {
            return Ok(());
        }
        let (file, text) = (self.files.keepalived(), config::keepalived(election, &self.files));
        let (runs, known) = (self.vrrp.runs(), fs::read_to_string(&file).unwrap_or_default());
        if known != text {
            if runs && role != Role::Primary && config::differ_in_addresses_only(&known, &text) {
                // The elected one may not have heard of it yet: whoever would read this anew now could not take
                // its word. It is read when it is needed.
                return Ok(());
            }
            persist::write(&file, text.as_bytes(), 0o600)?;
            if runs {
                self.vrrp.signal(Signal::HUP);
            }
        }
        self.fault &= runs;
        let words = ["-n", "-l", "-P", "-D", "-f"].map(Into::into).into_iter();
        let words = words.chain([file.into_os_string()]);
        let numbers = [("-p", "keepalived.pid"), ("-r", "vrrp.pid")];
        let numbers =
            numbers.map(|(flag, name)| [flag.into(), self.files.folder().join(name).into_os_string()]);
        self.vrrp.start(words.chain(numbers.into_iter().flatten()))
    }

    /// Keeps what both have printed. Where another router claims to be elected, too, but counts its advertisements
    /// from below ours, keepalived passes over them: it is told to say aloud that it is there.
    fn note_news(&mut self, role: Role) -> bool {
        let mut rival = false;
        for line in self.vrrp.news() {
            // `Mon Nov 23 06:01:51 2026: text`
            let text = line.split_once(": ").filter(|(time, _)| time.len() == 24).map_or(&*line, |(_, t)| t);
            rival |= text.contains(OLD);
            journal::note(&self.paths, "keepalived", text);
        }
        for line in self.sync.news() {
            journal::note(&self.paths, "conntrackd", &line);
        }
        let speaks = rival && role == Role::Primary && self.spoke.is_none_or(|at| at.elapsed() >= SPEAK);
        if speaks {
            self.spoke = Some(Instant::now());
            self.vrrp.signal(Signal::HUP);
        }
        speaks
    }

    /// Whether networks are still to come.
    fn is_waiting(&self) -> bool {
        self.wanted.as_ref().is_some_and(|(_, since)| since.elapsed() < QUIET)
    }

    fn is_stopped(&self, program: &str) -> bool {
        self.files.stopped(program).exists()
    }

    /// Takes the connections of the other router over, before anything comes here that belongs to one.
    pub async fn take_over(&mut self) {
        self.tell_sync("-c").await;
    }

    /// What can wait until packets pass: the other one, which may be new, is to know all of them.
    pub fn took_over(&self) {
        let file = self.files.conntrackd();
        tokio::spawn(async move {
            for order in ["-f", "-R", "-B"] {
                note_failure(conntrackd(file.clone(), order).await);
            }
        });
    }

    /// The other one is in force: the connections here are not real any more, and those there are to be known.
    pub fn gave_way(&self) {
        let file = self.files.conntrackd();
        tokio::spawn(async move {
            for order in ["-t", "-n"] {
                note_failure(conntrackd(file.clone(), order).await);
            }
        });
    }

    async fn tell_sync(&mut self, order: &'static str) {
        if self.sync.runs() {
            note_failure(conntrackd(self.files.conntrackd(), order).await);
        }
    }

    /// Starts or stops one of the two by command; it stays so until the next start of the machine. `None`: it is none
    /// of them.
    pub async fn control(&mut self, program: &str, action: Action) -> Option<io::Result<()>> {
        let daemon = match program {
            "keepalived" => &mut self.vrrp,
            "conntrackd" => &mut self.sync,
            _ => return None,
        };
        let flag = self.files.stopped(program);
        let folder = fs::create_dir_all(self.files.folder());
        let flagged = match action {
            Action::Stop => folder.and_then(|()| persist::write(&flag, b"", 0o600)),
            Action::Start | Action::Restart => match fs::remove_file(&flag) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if action != Action::Start {
            daemon.end().await;
        }
        Some(flagged)
    }

    /// What runs, for an operator.
    pub fn report(&mut self) -> String {
        let word = |daemon: &mut Daemon| {
            let state = if daemon.runs() { "runs" } else { "does not run" };
            format!("{} {state}", daemon.program())
        };
        format!("{}, {}", word(&mut self.vrrp), word(&mut self.sync))
    }

    /// Whether both run, or were stopped by command.
    pub fn is_well(&mut self) -> bool {
        let wanted = self.wanted.as_ref().is_some_and(|(wanted, _)| wanted.is_some());
        let stopped = ["keepalived", "conntrackd"].map(|program| self.is_stopped(program));
        !wanted || self.is_waiting() || ((stopped[0] || self.vrrp.runs()) && (stopped[1] || self.sync.runs()))
    }
}

async fn conntrackd(file: PathBuf, order: &'static str) -> Result<(), ProgramError> {
    let words = [std::ffi::OsString::from("-C"), file.into_os_string(), order.into()];
    let run = spawn_blocking(move || program::run("conntrackd", words, b"", CONNTRACKD).map(drop));
    run.await.unwrap_or_else(|broken| {
        Err(ProgramError::Start { program: "conntrackd".to_owned(), source: io::Error::other(broken) })
    })
}

fn note_failure(outcome: Result<(), ProgramError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "connections are not carried over");
    }
}
