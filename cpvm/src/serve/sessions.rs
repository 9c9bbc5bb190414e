//! Who is looking at what: takeover of a viewer by the next one of the same VM, the load that is
//! reported, and the end of every session, told to the core exactly once.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use common::{
    command::console::{Connection, LoadInfo},
    handover::Serve,
};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::counters::Counters;
use crate::{
    end::End,
    relay::Meter,
    ticket::Order,
    wire::{ALIVE, Alive, ENDED, Ended, now},
};

/// Sessions of all browsers together; management assigns 50 to a proxy by default.
const SESSIONS: usize = 1536;
/// Sessions of one address.
const SESSIONS_EACH: usize = 128;

/// Why there is no place for a session. The text is for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The proxy carries as many as it can.
    #[error("this console proxy is full, try again later")]
    Full,
    /// Somebody with another password is looking at this VM.
    #[error("another viewer is connected to this virtual machine")]
    Taken,
}

impl NoPlace {
    /// One word for logs and counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Taken => "taken",
        }
    }
}

/// All sessions of the process; clones share them.
#[derive(Debug, Clone)]
pub struct Sessions {
    core: Serve,
    counters: Counters,
    viewers: Arc<Mutex<HashMap<u64, Viewer>>>,
    next: Arc<AtomicU64>,
    first: u64,
}

#[derive(Debug)]
struct Viewer {
    viewer: String,
    password: Zeroizing<String>,
    client: IpAddr,
    connection: Connection,
    meter: Arc<Meter>,
    /// Bytes down and up that the counters have.
    counted: (u64, u64),
    stop: watch::Sender<Option<End>>,
}

impl Viewer {
    /// Brings the counters up to date, and returns the bytes down and up.
    fn count(&mut self, counters: &Counters) -> (u64, u64) {
        let (down, up) = (self.meter.down.load(Ordering::Relaxed), self.meter.up.load(Ordering::Relaxed));
        counters.carried(down - self.counted.0, up - self.counted.1);
        self.counted = (down, up);
        (down, up)
    }
}

/// An admitted session. [`Session::end`] closes its account; so does dropping it.
#[derive(Debug)]
pub struct Session {
    sessions: Sessions,
    key: u64,
    started: Instant,
    /// What it carries.
    pub meter: Arc<Meter>,
    /// Says when it has to end.
    pub orders: watch::Receiver<Option<End>>,
    end: End,
}

impl Sessions {
    /// None so far.
    pub fn new(core: Serve, counters: Counters) -> Self {
        // Keys of another life of this process were lower.
        let first = u64::try_from(now()).unwrap_or_default() << 20;
        Self { core, counters, viewers: Arc::default(), next: Arc::new(AtomicU64::new(first)), first }
    }

    /// A key for a new session.
    pub fn key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether there would be a place for this order.
    pub fn place(&self, order: &Order) -> Result<(), NoPlace> {
        let viewers = self.lock();
        let of_client = viewers.values().filter(|viewer| viewer.client == order.open.client).count();
        if viewers.len() >= SESSIONS || of_client >= SESSIONS_EACH {
            return Err(NoPlace::Full);
        }
        let wanted = order.open.password.as_bytes();
        let other = viewers.values().any(|viewer| {
            viewer.viewer == order.viewer && !bool::from(viewer.password.as_bytes().ct_eq(wanted))
        });
        if other { Err(NoPlace::Taken) } else { Ok(()) }
    }

    /// Enters a session that the core has granted. One of the same viewer is cut.
    pub fn enter(&self, order: &Order) -> Session {
        let key = order.open.key;
        let (stop, orders) = watch::channel(None);
        let meter = Arc::new(Meter::default());
        let connection = order.open.connection(key.saturating_sub(self.first), now());
        meter.used.store(connection.create_time, Ordering::Relaxed);
        let viewer = Viewer {
            viewer: order.viewer.clone(),
            password: Zeroizing::new(order.open.password.clone()),
            client: order.open.client,
            connection,
            meter: Arc::clone(&meter),
            counted: (0, 0),
            stop,
        };
        let mut viewers = self.lock();
        for before in viewers.values().filter(|before| before.viewer == viewer.viewer) {
            before.stop.send_replace(Some(End::TakenOver));
        }
        viewers.insert(key, viewer);
        self.counters.entered();
        tracing::info!(
            key, session = %order.open.session, vm = %order.open.vm, client = %order.open.client,
            host = %order.open.host, port = order.open.port, "console opened"
        );
        Session { sessions: self.clone(), key, started: Instant::now(), meter, orders, end: End::Stopped }
    }

    /// Ends the sessions with these keys.
    pub fn cut(&self, keys: &[u64]) {
        let viewers = self.lock();
        for viewer in keys.iter().filter_map(|key| viewers.get(key)) {
            viewer.stop.send_replace(Some(End::Cut));
        }
    }

    /// Ends all sessions because the process stops.
    pub fn stop(&self) {
        for viewer in self.lock().values() {
            viewer.stop.send_replace(Some(End::Stopped));
        }
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The open sessions, as a load report names them.
    pub fn load(&self) -> LoadInfo {
        let connections = self.alive().into_iter().map(|alive| alive.connection).collect();
        LoadInfo { connections, removed_sessions: None }
    }

    /// Tells the core which sessions are open.
    pub fn tell_alive(&self) {
        if let Err(error) = self.core.tell(ALIVE, &self.alive()) {
            tracing::warn!(%error, "the core does not know which consoles are open");
        }
    }

    fn alive(&self) -> Vec<Alive> {
        let mut viewers = self.lock();
        let mut alive: Vec<Alive> = viewers
            .iter_mut()
            .map(|(key, viewer)| {
                let (down, up) = viewer.count(&self.counters);
                let last_used_time = viewer.meter.used.load(Ordering::Relaxed);
                let connection = Connection { last_used_time, ..viewer.connection.clone() };
                Alive { key: *key, connection, client: viewer.client, down, up }
            })
            .collect();
        alive.sort_by_key(|alive| alive.key);
        alive
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Viewer>> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Its screen is shown; the websocket opened `since` then.
    pub fn shown(&self, since: Instant) {
        self.sessions.counters.shown(since.elapsed().as_secs_f64());
    }

    /// It has ended, and why.
    pub fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut viewer) = self.sessions.lock().remove(&self.key) else { return };
        let (down, up) = viewer.count(&self.sessions.counters);
        self.sessions.counters.ended(self.end, self.started.elapsed().as_secs_f64());
        tracing::info!(
            key = self.key, session = viewer.connection.session_uuid.as_deref().unwrap_or_default(),
            vm = %viewer.connection.tag, client = %viewer.client, host = %viewer.connection.host,
            port = viewer.connection.port, cause = %self.end,
            seconds = self.started.elapsed().as_secs(), down, up, "console ended"
        );
        let ended = Ended { key: self.key, end: self.end, down, up };
        if let Err(error) = self.sessions.core.tell(ENDED, &ended) {
            tracing::error!(%error, key = self.key, "the core was not told of an ended console");
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{handover::Core, paths::Paths};

    use super::*;
    use crate::wire::Open;

    fn order(key: u64, viewer: &str, password: &str) -> Order {
        Order {
            open: Open {
                key,
                host: "10.1.1.20".into(),
                port: 5901,
                to: ("10.1.1.20".into(), 5901),
                ask: true,
                vm: "vm".into(),
                password: password.into(),
                ticket: None,
                session: format!("session {key}"),
                client: [203, 0, 113, 7].into(),
            },
            screen: crate::screen::Screen::Direct,
            view_only: false,
            picture: false,
            recorded: false,
            viewer: viewer.into(),
            name: "web 01".into(),
        }
    }

    #[tokio::test]
    async fn a_second_viewer_takes_over_and_every_end_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let (_core, mut events) = Core::listen(&paths, None).unwrap();
        let (serve, _updates) = Serve::connect(&paths);
        let sessions = Sessions::new(serve, Counters::default());

        let first = sessions.enter(&order(1, "vm", "secret"));
        assert_eq!(sessions.place(&order(2, "vm", "other")), Err(NoPlace::Taken));
        assert_eq!(sessions.place(&order(2, "vm", "secret")), Ok(()));
        assert_eq!(sessions.place(&order(2, "another", "other")), Ok(()));
        assert_eq!(*first.orders.borrow(), None);

        let second = sessions.enter(&order(2, "vm", "secret"));
        let parallel = sessions.enter(&order(3, "another", "secret"));
        assert_eq!(*first.orders.borrow(), Some(End::TakenOver));
        assert_eq!((*second.orders.borrow(), *parallel.orders.borrow()), (None, None));
        first.meter.down.store(10, Ordering::Relaxed);
        first.end(End::TakenOver);
        let load = sessions.load();
        assert_eq!(load.connections.len(), 2);
        assert_eq!(load.connections[0].session_uuid.as_deref(), Some("session 2"));

        sessions.cut(&[2, 99]);
        assert_eq!(*second.orders.borrow(), Some(End::Cut));
        second.end(End::Cut);
        drop(parallel);
        assert!(sessions.is_empty());
        for (key, end, down) in [(1, End::TakenOver, 10), (2, End::Cut, 0), (3, End::Stopped, 0)] {
            let event = events.recv().await.unwrap();
            assert_eq!(event.parse::<Ended>().unwrap(), Ended { key, end, down, up: 0 });
        }
        sessions.tell_alive();
        assert_eq!(events.recv().await.unwrap().parse::<Vec<Alive>>().unwrap(), []);
    }

    #[tokio::test]
    async fn sessions_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (serve, _updates) = Serve::connect(&Paths::below(folder.path()));
        let sessions = Sessions::new(serve, Counters::default());
        let mut held = Vec::new();
        for n in 0..10_000_u64 {
            let mut order = order(n, &n.to_string(), "x");
            order.open.client = [10, 0, 0, (n % 16) as u8].into();
            if sessions.place(&order).is_err() {
                break;
            }
            held.push(sessions.enter(&order));
        }
        assert_eq!(held.len(), SESSIONS);
    }
}
