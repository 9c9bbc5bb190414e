//! `manage serve`: keeps a zone as its file says.
//!
//! What happens is a circle: agents report (`door`), `drive` compares what is seen with what is
//! wanted and acts (`act`), and what was done is seen again. Operators come in by `control`.
//! Everything that must outlive a restart is in the database; a restart touches no VM.

mod act;
mod answer;
mod apply;
mod console;
mod control;
mod crew;
mod door;
mod drive;
mod groups;
mod join;
mod page;
mod renew;
mod status;
mod store;
mod template;
mod vigil;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use common::{
    channel::{
        server::{Agents, AttachedAgent, Server, ServerConfig},
        tls::{Authority, ClientPolicy, KeyKind, Revoked, ServerTls},
    },
    command::host::VmReport,
    token::TokenKey,
};
use tokio::sync::Notify;

use crate::{
    db::{Db, DbError, Vm, random_word},
    fence::{Roll, links::Links},
    host::HostError,
    zone::{Host, Zone, ZoneError},
};

/// Between two copies of the database.
const COPY: Duration = Duration::from_secs(2);

/// Why `manage serve` cannot run, or could not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The zone file.
    #[error("{0}")]
    Zone(#[from] ZoneError),
    /// The database.
    #[error("{0}")]
    Db(#[from] DbError),
    /// Keys and certificates.
    #[error("{0}")]
    Tls(#[from] common::channel::tls::TlsError),
    /// A file.
    #[error("{0}")]
    Host(#[from] HostError),
    /// An address cannot be listened on.
    #[error("Cannot listen on {address}: {source}; is management.address an address of this machine?")]
    Listen {
        /// Which.
        address: String,
        /// Cause.
        source: std::io::Error,
    },
    /// Another program failed.
    #[error("{command}: {reason}")]
    Command {
        /// Which.
        command: &'static str,
        /// What it said.
        reason: String,
    },
    /// The key of console tokens.
    #[error("Key of console tokens: {0}")]
    Token(#[from] common::token::KeyError),
    /// What cannot happen.
    #[error("Internal error: {0}")]
    Internal(String),
}

impl ServeError {
    fn file(path: &Path) -> impl Fn(std::io::Error) -> Self + use<> {
        let named = HostError::file(path);
        move |source| Self::Host(named(source))
    }
}

/// What the manager works with. Only [`apply`] changes the zone.
struct Zoned {
    zone: RwLock<Arc<Zone>>,
    /// Where the zone is written.
    file: PathBuf,
    db: Db,
    authority: Authority,
    /// Whom not to let in.
    revoked: Revoked,
    state: PathBuf,
    /// What is wrong with the database, and what to do.
    trouble: Mutex<Trouble>,
}

/// What is wrong with the database.
#[derive(Default)]
struct Trouble {
    /// It cannot be read or written.
    file: Option<String>,
    /// Its copy is old.
    copy: Option<String>,
}

impl Zoned {
    /// The zone as it was applied last.
    fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes down and logs that something happened.
    fn event(&self, subject: &str, text: &str) {
        tracing::info!("{subject}: {text}");
        match self.db.event(subject, text) {
            Ok(()) => self.troubles().file = None,
            Err(error) => self.trouble(&error),
        }
    }

    fn troubles(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once what is wrong with the database, and goes on saying it on the screen.
    fn trouble(&self, error: &DbError) {
        say(&mut self.troubles().file, format!("{}: {error}", self.state.display()));
    }

    /// Brings the database's copy up to date; says once where that fails.
    fn copy(&self) -> Result<(), DbError> {
        let done = self.db.copy();
        match &done {
            Ok(()) => self.troubles().copy = None,
            Err(error) => {
                let text = format!("{}: the copy of the database is old: {error}", self.state.display());
                say(&mut self.troubles().copy, text);
            }
        }
        done
    }

    /// After trouble: sees whether the database can be written again.
    fn try_again(&self) {
        let trouble = self.troubles().file.is_some();
        if trouble && self.db.event("database", "can be written again").is_ok() {
            tracing::info!("database: can be written again");
            self.troubles().file = None;
        }
    }
}

/// Keeps what is wrong; logs what is new.
fn say(place: &mut Option<String>, text: String) {
    if place.as_ref() != Some(&text) {
        tracing::error!("{text}");
        *place = Some(text);
    }
}

/// What is seen, and what is being done about it; gone when the manager ends.
#[derive(Default)]
struct Seen {
    /// What each connected host runs, by the host's name.
    reports: HashMap<String, BTreeMap<String, VmReport>>,
    /// What is being done to a VM, by its number.
    busy: HashMap<i64, &'static str>,
    /// MiB of memory of each host that has connected.
    memory: HashMap<String, u64>,
    /// Why there is no host for a VM, by its number.
    homeless: BTreeMap<i64, String>,
    /// VMs with which something went wrong.
    failed: HashMap<i64, Failure>,
    /// Stores that an SSVM could not attach, with the reason.
    stores: BTreeMap<(String, String), String>,
    /// What SSVMs and CPVMs have to do.
    work: crew::Work,
}

/// Something went wrong with a VM.
struct Failure {
    /// How often in a row.
    count: u32,
    /// When it may be tried again, in seconds since the machine's boot.
    not_before: u64,
    /// What.
    text: String,
}

/// The manager.
struct Manage {
    zoned: Arc<Zoned>,
    seen: Mutex<Seen>,
    /// Whom the manager hears.
    links: Mutex<Links>,
    /// What hosts were told of security groups.
    told: groups::Told,
    /// The lists of votes, the manager's own first.
    rolls: RwLock<Vec<Roll>>,
    /// Not all is known yet of what runs where: see [`Db::is_unsure`].
    unsure: AtomicBool,
    /// Something has changed: look again.
    poke: Notify,
    agents: OnceLock<Agents>,
    public_key: String,
    private_key: String,
    token_key: TokenKey,
    ticket_secret: String,
}

impl Manage {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent of that name, once it is ready.
    fn agent(&self, name: &str) -> Option<AttachedAgent> {
        self.agents.get()?.named(name).filter(AttachedAgent::is_ready)
    }

    /// The VM that an operator names: by its instance name or, for a guest, its own.
    fn find(&self, name: &str) -> Result<Vm, String> {
        let text = |error: DbError| error.to_string();
        if let Some(vm) = self.zoned.db.vm(name).map_err(text)? {
            return Ok(vm);
        }
        let vms = self.zoned.db.vms().map_err(text)?;
        let known = vms.iter().map(Vm::display).collect::<Vec<_>>().join(", ");
        Err(format!("There is no VM {name:?}. Known are: {known}"))
    }
}

/// Runs until it is told to end.
pub(crate) async fn run(zone_file: &Path, state: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    let file = std::path::absolute(zone_file).map_err(ServeError::file(zone_file))?;
    let zone = Zone::load(&file)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(ServeError::file(state))?;
    let state = state.canonicalize().map_err(ServeError::file(state))?;
    let db = Db::open(&state)?;
    db.take_zone(&zone)?;
    let authority = Authority::open(&state.join("ca"), "ca.cloudstack.apache.org", KeyKind::P256)?;
    let (public_key, private_key) = ssh_key(&state).await?;
    let encryptor = match TokenKey::generate() {
        Ok(fresh) => db.secret("console.encryptor", || fresh.encryptor_password().to_string())?,
        Err(error) => return Err(error.into()),
    };
    let ticket_secret = db.secret("console.ticket", || random_word(40))?;
    let rolls = vigil::rolls(&zone, &db)?;
    let links = vigil::links(&rolls, &db)?;
    let revoked = Revoked::default();
    db.revoked()?.iter().for_each(|serial| revoked.add(serial));
    let unsure = AtomicBool::new(db.is_unsure()?);
    let (zone, trouble) = (RwLock::new(Arc::new(zone)), Mutex::default());
    let zoned = Arc::new(Zoned { zone, file, db, authority, revoked, state, trouble });
    if let Some(text) = zoned.db.mended() {
        zoned.event("database", text);
    }
    let manage = Arc::new(Manage {
        zoned: zoned.clone(),
        seen: Mutex::default(),
        links: Mutex::new(links),
        told: groups::Told::default(),
        rolls: RwLock::new(rolls),
        unsure,
        poke: Notify::new(),
        agents: OnceLock::new(),
        public_key,
        private_key,
        token_key: TokenKey::from_encryptor_password(&encryptor)?,
        ticket_secret,
    });
    welcome_hosts(&zoned);
    join::open(zoned.clone()).await?;
    let server = listen(&manage).await?;
    let _ = manage.agents.set(server.agents());
    let control = control::open(manage.clone())?;
    template::resume(&manage)?;
    tracing::info!("zone {} is served at {}", zoned.zone().name, server.address());
    let vigil = vigil::keep(manage.clone()).await?;
    let page = page::open(manage.clone()).await;
    let copies = tokio::spawn(keep_copy(zoned.clone()));
    let renew = tokio::spawn(renew::keep(manage.clone()));
    let drive = tokio::spawn(drive::drive(manage));
    crate::until_terminated().await;
    tracing::info!("ending; VMs run on");
    drive.abort();
    renew.abort();
    copies.abort();
    vigil.abort();
    page.abort();
    control.abort();
    server.stop().await;
    let _ = zoned.copy();
    let _ = std::fs::remove_file(control::socket(&zoned.state));
    Ok(())
}

/// Each host that never joined gets a file to join with.
fn welcome_hosts(zoned: &Zoned) {
    let welcome = |host: &Host| -> Result<(), ServeError> {
        if !zoned.db.has_certificate(&host.name)? {
            let path = join::write_join_file(zoned, host)?;
            tracing::info!("host {} may join with {}", host.name, path.display());
        }
        Ok(())
    };
    for host in &zoned.zone().hosts {
        if let Err(error) = welcome(host) {
            let text = format!(
                "has no file to join with ({error}); make one with `manage host-token {}`",
                host.name
            );
            zoned.event(&host.name, &text);
        }
    }
}

/// Keeps a whole copy of the database beside it, seconds old at most, until it is cancelled.
async fn keep_copy(zoned: Arc<Zoned>) {
    let mut copied = None;
    loop {
        let (working, before) = (zoned.clone(), copied);
        let work = move || -> Result<i64, DbError> {
            let changes = working.db.changes()?;
            if before != Some(changes) {
                working.copy()?;
            }
            Ok(changes)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(changes)) => copied = Some(changes),
            // It has been said.
            Ok(Err(_)) => copied = None,
            Err(error) => tracing::error!("the copy of the database is old: {error}"),
        }
        tokio::time::sleep(COPY).await;
    }
}

async fn listen(manage: &Arc<Manage>) -> Result<Server, ServeError> {
    let zone = manage.zoned.zone();
    let address = SocketAddr::from((zone.management.address, zone.management.port));
    let tls = ServerTls::new(
        &manage.zoned.authority,
        vec!["manage".to_owned()],
        vec![zone.management.address.into()],
        ClientPolicy::default(),
        manage.zoned.revoked.clone(),
    )?;
    let config = ServerConfig {
        ping_interval: u32::try_from(zone.ping_interval.as_secs()).unwrap_or(60),
        ping_timeout: zone.ping_interval.mul_f64(2.5),
        ..ServerConfig::default()
    };
    Server::bind(address, config, tls, Arc::new(door::Door(manage.clone())))
        .await
        .map_err(|source| ServeError::Listen { address: address.to_string(), source })
}

/// The key pair with which hosts reach system VMs; made once. RSA, for that is what every client
/// and server of this contract knows.
async fn ssh_key(state: &Path) -> Result<(String, String), ServeError> {
    let path = state.join("ssh").join("id_rsa.cloud");
    if !path.exists() {
        let folder = state.join("ssh");
        std::fs::create_dir_all(&folder).map_err(ServeError::file(&folder))?;
        let fail = |reason: String| ServeError::Command { command: "ssh-keygen", reason };
        let beside = folder.join("new");
        let _ = std::fs::remove_file(&beside);
        let _ = std::fs::remove_file(beside.with_extension("pub"));
        let made = tokio::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "cloud@manage", "-f"])
            .arg(&beside)
            .stdin(std::process::Stdio::null())
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), made)
            .await
            .map_err(|_| fail("no end within a minute".to_owned()))?
            .map_err(|error| fail(format!("{error}; is the package openssh-client installed?")))?;
        if !output.status.success() {
            return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let public = path.with_extension("cloud.pub");
        std::fs::rename(beside.with_extension("pub"), &public).map_err(ServeError::file(&public))?;
        std::fs::rename(&beside, &path).map_err(ServeError::file(&path))?;
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(ServeError::file(path));
    Ok((read(&path.with_extension("cloud.pub"))?.trim().to_owned(), read(&path)?))
}
