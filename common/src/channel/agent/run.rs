//! The life of an agent: connect, talk, and connect anew.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::core::{Core, Event};
use super::session::{End, Session};
use super::{AgentConfig, Order, RequestError, Resource, Status};
use crate::channel::stream::{self, Stream, StreamError};
use crate::channel::tls::TlsError;

/// Most addresses tried of one server name.
const MAX_ADDRESSES: usize = 8;

/// What stays from one connection to the next.
pub(super) struct Life<R> {
    pub(super) core: Arc<Core<R>>,
    pub(super) inbox: mpsc::Receiver<Order>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) stop: CancellationToken,
    /// Number of the next request; never starts again.
    pub(super) sequence: Arc<AtomicI64>,
    /// Content of the certificate files that the agent works with.
    pub(super) fingerprint: [u8; 32],
    /// How long to wait for the answer to a start-up.
    pub(super) patience: Duration,
    /// Commands at work; they outlive connections.
    pub(super) work: JoinSet<()>,
}

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("no server is known")]
    NoServer,
    #[error("{host}: {source}")]
    Address { host: String, source: std::io::Error },
    #[error("{host}: {source}")]
    Stream { host: String, source: StreamError },
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("no cloud.ca.crt to know a server by")]
    NoAuthority,
}

/// What ended a wait.
enum Woken<T> {
    Done(T),
    Reload,
    Stop,
}

/// Runs an agent until it is stopped.
pub(super) async fn run<R: Resource>(
    config: AgentConfig,
    resource: Arc<R>,
    inbox: mpsc::Receiver<Order>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) {
    let (sender, events) = mpsc::channel(64);
    let patience = config.timings.startup;
    let core = Arc::new(Core::new(config, resource, status, sender));
    let fingerprint = core.files.fingerprint();
    let sequence = Arc::new(AtomicI64::new(0));
    Life { core, inbox, events, stop, sequence, fingerprint, patience, work: JoinSet::new() }.live().await;
}

impl<R: Resource> Life<R> {
    async fn live(mut self) {
        let mut failures = 0;
        let mut next = 0;
        let mut wanted = None;
        loop {
            self.core.installing.store(false, Ordering::Release);
            self.fingerprint = self.core.files.fingerprint();
            let core = self.core.clone();
            let candidates = core.state().candidates();
            let in_turn = candidates.get(next % candidates.len().max(1)).cloned();
            let host = wanted.take().or(in_turn);
            let end = match self.until(connect(&core, host.as_deref())).await {
                Woken::Stop => return,
                Woken::Reload => continue,
                Woken::Done(Err(error)) => End::Lost { reason: error.to_string(), joined: false },
                Woken::Done(Ok((stream, secured))) => {
                    self.talk(stream, host.as_deref().unwrap_or_default(), secured).await
                }
            };
            match end {
                End::Stopped => return,
                End::Again(to) => {
                    (failures, next, wanted) = (0, 0, to);
                    continue;
                }
                End::Dismissed => {
                    self.core.status.send_modify(|status| status.dismissed = true);
                    match self.until(std::future::pending::<()>()).await {
                        Woken::Stop => return,
                        _ => self.core.status.send_modify(|status| status.dismissed = false),
                    }
                    (failures, next) = (0, 0);
                    continue;
                }
                End::Lost { reason, joined } => {
                    self.core.status.send_modify(|status| status.last_error = Some(reason.clone()));
                    if joined {
                        (failures, next) = (0, 0);
                    } else {
                        next += 1;
                    }
                    let pause = pause(&self.core.config.timings, failures);
                    tracing::warn!(?host, reason, ?pause, "no connection to a server, trying again");
                    failures += 1;
                    if matches!(self.until(tokio::time::sleep(pause)).await, Woken::Stop) {
                        return;
                    }
                }
            }
        }
    }

    async fn talk(&mut self, stream: Stream, host: &str, secured: bool) -> End {
        tracing::info!(host, secured, "connected to a server");
        self.core.status.send_modify(|status| {
            status.server = Some(host.to_owned());
            (status.ready, status.secured) = (false, secured);
            status.connections += 1;
        });
        let end = Session::start(self, stream, host).talk().await;
        self.core.status.send_modify(|status| (status.server, status.ready) = (None, false));
        self.core.resource.disconnected();
        end
    }

    /// Waits for `work` while no server is connected: requests fail at once, and certificates that
    /// arrive end the wait.
    async fn until<T>(&mut self, work: impl Future<Output = T>) -> Woken<T> {
        tokio::pin!(work);
        let mut watch = Watch::new(self.fingerprint);
        let mut look = tokio::time::interval(self.core.config.timings.watch);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Woken::Stop,
                done = &mut work => return Woken::Done(done),
                order = self.inbox.recv() => match order {
                    Some(Order::Request(_, Some(answer), _)) => {
                        let _ = answer.send(Err(RequestError::NotConnected));
                    }
                    Some(Order::Reload) => return Woken::Reload,
                    Some(_) => {}
                    None => return Woken::Stop,
                },
                Some(_) = self.events.recv() => {}
                Some(_) = self.work.join_next() => {}
                _ = look.tick() => if watch.has_changed(self.core.files.fingerprint()) {
                    tracing::info!("certificates have changed");
                    return Woken::Reload;
                }
            }
        }
    }
}

/// Notices new certificates, once all files have been written.
pub(super) struct Watch {
    known: [u8; 32],
    last: [u8; 32],
}

impl Watch {
    pub(super) fn new(known: [u8; 32]) -> Self {
        Self { known, last: known }
    }

    /// True where the files differ from the known ones, and have not changed since the last look.
    pub(super) fn has_changed(&mut self, now: [u8; 32]) -> bool {
        let settled = std::mem::replace(&mut self.last, now) == now;
        settled && now != self.known
    }

    /// The agent itself has changed the files.
    pub(super) fn learn(&mut self, now: [u8; 32]) {
        *self = Self::new(now);
    }
}

/// How long to wait after so many failures in a row: doubled each time, with some chance in it, so
/// that the agents of a server that died do not all come back in the same moment.
fn pause(timings: &super::Timings, failures: u32) -> Duration {
    let full = timings.backoff.saturating_mul(1 << failures.min(16)).min(timings.backoff_limit);
    full.mul_f64(rand::random_range(0.75..1.0))
}

/// Connects to a server and shakes hands; true where both sides know each other.
async fn connect<R: Resource>(core: &Core<R>, host: Option<&str>) -> Result<(Stream, bool), ConnectError> {
    let host = host.ok_or(ConnectError::NoServer)?;
    let (config, timings) = (&core.config, &core.config.timings);
    let certificates = core.files.load()?;
    if !certificates.has_authority() {
        if config.require_authority {
            return Err(ConnectError::NoAuthority);
        }
        tracing::warn!(host, "there is no cloud.ca.crt: whoever answers is taken for the server");
    }
    let socket = dial(host, config.port, timings.connect)
        .await
        .map_err(|source| ConnectError::Address { host: host.to_owned(), source })?;
    let secured = certificates.has_identity();
    let stream = stream::connect(socket, certificates.config()?, timings.handshake)
        .await
        .map_err(|source| ConnectError::Stream { host: host.to_owned(), source })?;
    Ok((stream, secured))
}

/// Connects to the first address of `host` that answers, within `limit`.
pub(super) async fn dial(host: &str, port: u16, limit: Duration) -> std::io::Result<tokio::net::TcpStream> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time");
    let attempt = async {
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((name, port)).await?.take(MAX_ADDRESSES).collect();
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match stream::dial(address, limit).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    tokio::time::timeout(limit, attempt).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time() {
        let timings = super::super::Timings::default();
        for (failures, full) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (60, 30), (u32::MAX, 30)] {
            let pause = pause(&timings, failures);
            assert!(
                pause <= Duration::from_secs(full) && pause >= Duration::from_secs(full).mul_f64(0.7),
                "{pause:?}"
            );
        }
    }

    #[test]
    fn notices_files_that_have_settled() {
        let mut watch = Watch::new([0; 32]);
        assert!(!watch.has_changed([0; 32]));
        assert!(!watch.has_changed([1; 32]));
        assert!(!watch.has_changed([2; 32]));
        assert!(watch.has_changed([2; 32]));
        watch.learn([2; 32]);
        assert!(!watch.has_changed([2; 32]));
        assert!(!watch.has_changed([3; 32]));
        assert!(!watch.has_changed([2; 32]));
    }
}
