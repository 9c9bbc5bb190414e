//! The process that faces strangers. It is handed its sockets and its settings by the core, parses
//! everything that a browser or a hypervisor sends, touches no disk and connects to nobody.

mod console;
pub mod counters;
mod http;
pub mod limits;
pub mod page;
pub mod picture;
pub mod sessions;
pub mod tls;

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use common::{
    handover::{Serve, Update},
    paths::Paths,
    sandbox::{Sandbox, User},
    token::TokenKey,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::{counters::Counters, limits::Limits, sessions::Sessions};
use crate::{
    screen::Credentials,
    wire::{CUT, Listener, SETTINGS, Settings, TRUST},
};

/// For a TLS handshake.
const TLS_LIMIT: Duration = Duration::from_secs(10);
/// Between two lists of open sessions for the core.
const ALIVE_EVERY: Duration = Duration::from_secs(4);
/// For sessions to say good-bye when the process stops.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What all connections share.
struct App {
    core: Serve,
    settings: ArcSwapOption<InForce>,
    credentials: ArcSwap<Credentials>,
    sessions: Sessions,
    limits: Limits,
    counters: Counters,
}

/// Settings as they are used.
struct InForce {
    key: TokenKey,
    source_check: bool,
    tls: Option<Arc<ServerConfig>>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// Where the process cannot be set up.
pub fn run(paths: &Paths) -> io::Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    Sandbox {
        user: User::named(paths, User::SERVE).unwrap_or_default(),
        local_only: true,
        ..Sandbox::default()
    }
    .enter()
    .map_err(io::Error::other)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(paths))
}

async fn serve(paths: &Paths) -> io::Result<()> {
    let (core, mut updates) = Serve::connect(paths);
    let counters = Counters::default();
    let app = Arc::new(App {
        sessions: Sessions::new(core.clone(), counters.clone()),
        core,
        settings: ArcSwapOption::empty(),
        credentials: ArcSwap::default(),
        limits: Limits::default(),
        counters,
    });
    let mut listeners: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut stop = signal(SignalKind::terminate())?;
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(update) => apply(&app, &mut listeners, update),
                None => break,
            },
            _ = alive.tick() => app.sessions.tell_alive(),
            _ = stop.recv() => break,
        }
    }
    for (_, listener) in listeners {
        listener.abort();
    }
    app.sessions.stop();
    let gone = async {
        while !app.sessions.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(STOP_LIMIT, gone).await;
    Ok(())
}

fn apply(app: &Arc<App>, listeners: &mut HashMap<String, JoinHandle<()>>, update: Update) {
    match update {
        Update::Socket { name, fd } => {
            let listening = || -> io::Result<(Listener, TcpListener)> {
                let listener = Listener::parse(&name).ok_or(io::ErrorKind::InvalidInput)?;
                let socket = std::net::TcpListener::from(fd);
                socket.set_nonblocking(true)?;
                Ok((listener, TcpListener::from_std(socket)?))
            };
            match listening() {
                Ok((listener, socket)) => {
                    tracing::info!(%listener, "listening");
                    let task = tokio::spawn(accept(Arc::clone(app), listener, socket));
                    if let Some(before) = listeners.insert(name, task) {
                        before.abort();
                    }
                }
                Err(error) => tracing::error!(socket = name, %error, "a socket cannot be used"),
            }
        }
        Update::Withdrawn { name } => {
            if let Some(task) = listeners.remove(&name) {
                tracing::info!(listener = name, "no longer listening");
                task.abort();
            }
        }
        Update::Snapshot { kind, bytes } => match kind.as_str() {
            SETTINGS => match in_force(&bytes) {
                Ok(settings) => app.settings.store(Some(Arc::new(settings))),
                Err(error) => tracing::error!(error, "new settings are not used, those before stay in force"),
            },
            TRUST => match credentials(&bytes) {
                Ok(credentials) => app.credentials.store(Arc::new(credentials)),
                Err(error) => {
                    tracing::error!(error, "new certificates are not used, those before stay in force");
                }
            },
            CUT => match serde_json::from_slice::<Vec<u64>>(&bytes) {
                Ok(keys) => app.sessions.cut(&keys),
                Err(error) => tracing::error!(%error, "a list of sessions to cut cannot be read"),
            },
            _ => tracing::warn!(kind, "an unknown snapshot"),
        },
    }
}

fn credentials(bytes: &[u8]) -> Result<Credentials, String> {
    Credentials::new(&serde_json::from_slice(bytes).map_err(|error| error.to_string())?)
}

fn in_force(bytes: &[u8]) -> Result<InForce, String> {
    let settings: Settings = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let key =
        TokenKey::from_encryptor_password(&settings.encryptor_password).map_err(|error| error.to_string())?;
    let tls = settings.tls.as_ref().map(tls::config).transpose().map_err(|error| error.to_string())?;
    Ok(InForce { key, source_check: settings.source_check, tls })
}

async fn accept(app: Arc<App>, listener: Listener, socket: TcpListener) {
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: others must end first.
                tracing::warn!(%error, %listener, "cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = app.limits.place(peer.ip()) else {
            app.counters.turned_away("too_many_connections");
            continue;
        };
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            if let Err(error) = prepare(&stream) {
                tracing::debug!(%peer, %error, "a connection broke");
                return;
            }
            if !listener.tls {
                return http::connection(app, stream, peer, listener.purpose, place).await;
            }
            let Some(config) = app.settings.load().as_ref().and_then(|settings| settings.tls.clone()) else {
                return app.counters.turned_away("no_certificate");
            };
            match timeout(TLS_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => http::connection(app, stream, peer, listener.purpose, place).await,
                Ok(Err(_)) | Err(_) => app.counters.turned_away("tls_handshake"),
            }
        });
    }
}

/// Keys must not wait for more of them; a peer that vanished is found by the kernel too.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 3)?)
}
