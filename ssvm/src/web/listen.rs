//! The listeners and what their connections share.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::handover::{Serve, Update};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{SITE, Site, http, limits::Limits};

/// For a TLS handshake.
const TLS_LIMIT: Duration = Duration::from_secs(15);
/// A peer that takes nothing of what waits for it is gone, in milliseconds.
const SILENCE: u32 = 120_000;
/// Uploads at once.
const UPLOADS: usize = 15;

/// What is in force.
#[derive(Default)]
pub(super) struct InForce {
    pub(super) site: Site,
    tls: Option<Arc<ServerConfig>>,
}

/// What all connections share.
pub(super) struct App {
    pub(super) core: Serve,
    pub(super) in_force: watch::Sender<Arc<InForce>>,
    pub(super) uploads: Arc<Semaphore>,
    /// Uploads whose end the core does not know yet.
    pub(super) running: Mutex<BTreeSet<String>>,
    limits: Limits,
}

/// The web service; clones share it.
#[derive(Clone)]
pub(crate) struct Web {
    app: Arc<App>,
    listeners: Arc<Mutex<HashMap<String, JoinHandle<()>>>>,
}

impl Web {
    /// Serves nothing until the core has sent sockets and a [`Site`].
    pub(crate) fn new(core: Serve) -> Self {
        let app = App {
            core,
            in_force: watch::Sender::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            running: Mutex::default(),
            limits: Limits::default(),
        };
        Self { app: Arc::new(app), listeners: Arc::default() }
    }

    /// Uploads whose end the core does not know yet.
    pub(crate) fn running(&self) -> BTreeSet<String> {
        self.app.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what the core sends.
    pub(crate) fn apply(&self, update: Update) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        match update {
            Update::Socket { name, fd } => match listener(fd) {
                Ok(socket) => {
                    tracing::info!(socket = name, "listening");
                    let task =
                        tokio::spawn(accept(Arc::clone(&self.app), name.starts_with("https "), socket));
                    if let Some(before) = listeners.insert(name, task) {
                        before.abort();
                    }
                }
                Err(error) => tracing::error!(socket = name, %error, "a socket cannot be used"),
            },
            Update::Withdrawn { name } => {
                if let Some(task) = listeners.remove(&name) {
                    task.abort();
                }
            }
            Update::Snapshot { kind, bytes } if kind == SITE => match in_force(&bytes) {
                Ok(new) => {
                    self.app.in_force.send_replace(Arc::new(new));
                }
                Err(error) => tracing::error!(error, "what is served stays as it was"),
            },
            Update::Snapshot { kind, .. } => tracing::warn!(kind, "an unknown snapshot"),
        }
    }
}

fn listener(fd: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(fd);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn in_force(bytes: &[u8]) -> Result<InForce, String> {
    let site: Site = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let tls = match site.tls.as_ref().map(|tls| config(&tls.chain, tls.key.expose())) {
        Some(Ok(config)) => Some(config),
        Some(Err(error)) => {
            tracing::error!(error, "there is no https: key and certificates cannot be used");
            None
        }
        None => None,
    };
    Ok(InForce { site, tls })
}

/// TLS 1.2 and 1.3, no client certificates.
fn config(chain: &str, key: &str) -> Result<Arc<ServerConfig>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("certificates: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| format!("key: {e}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn accept(app: Arc<App>, https: bool, socket: TcpListener) {
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: others must end first.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = app.limits.place(peer.ip()) else { continue };
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = prepare(&stream) {
                tracing::debug!(%peer, %error, "a connection broke");
                return;
            }
            if !https {
                return http::connection(app, stream, peer.ip(), false).await;
            }
            let Some(config) = app.in_force.borrow().tls.clone() else { return };
            match timeout(TLS_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => http::connection(app, stream, peer.ip(), true).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                Err(_) => tracing::debug!(%peer, "no TLS in time"),
            }
        });
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, SILENCE)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 4)?)
}
