//! The door of the management end: takes connections, bounds those in set-up, ends in good order.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use super::{Manager, ServerConfig, connection};
use crate::channel::tls::ServerTls;

/// Pause after an accept that failed, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for connections to end when the server stops.
const GOOD_BYE: Duration = Duration::from_secs(5);

/// What every connection needs.
pub(super) struct Door<M> {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tls: ServerTls,
    pub(super) manager: Arc<M>,
    pub(super) registry: Arc<Registry>,
}

/// Takes connections until `stop`; then ends them all and waits for it.
pub(super) async fn listen<M: Manager>(listener: TcpListener, door: Arc<Door<M>>, stop: CancellationToken) {
    let places = Places::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => enter(&door, &places, &mut connections, socket, peer),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    door.registry.close_all("the server stops");
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GOOD_BYE, all_ended).await;
}

fn enter<M: Manager>(
    door: &Arc<Door<M>>,
    places: &Places,
    connections: &mut JoinSet<()>,
    socket: TcpStream,
    peer: SocketAddr,
) {
    match places.take(peer.ip(), &door.config) {
        Some(place) => {
            connections.spawn(connection::serve(door.clone(), socket, peer, place));
        }
        None => tracing::warn!(%peer, "too many connections in set-up, closing this one"),
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection ended by a panic");
    }
}

/// How many connections are in set-up, by source address.
#[derive(Clone, Default)]
struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among the connections in set-up; free again when dropped.
pub(super) struct Place {
    places: Places,
    peer: IpAddr,
}

impl Places {
    fn take(&self, peer: IpAddr, config: &ServerConfig) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&peer).copied().unwrap_or_default();
        if taken.values().sum::<usize>() >= config.setups || own >= config.setups_of_one {
            return None;
        }
        taken.insert(peer, own + 1);
        Some(Place { places: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}
