//! The core's end.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::frame::{self, Head, Reader};
use crate::{paths::Paths, sandbox, shim};

/// Events that wait for the core; a serve process that sends more waits itself.
const EVENTS: usize = 256;
/// Sockets that serve may give back.
const HELD: usize = 4096;
/// Time for a frame to be taken by serve before the connection counts as dead.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// Time for serve to give back what it holds, after it connected.
const HELD_LIMIT: Duration = Duration::from_secs(5);

/// The snapshot that says that there is none.
const NOTHING: &[u8] = b"null";

/// What answers an event: its JSON and perhaps a socket, or why it was refused.
type Answered = Result<(Bytes, Option<OwnedFd>), String>;
type Opener = Arc<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>;

/// A socket that serve is to have, and how to open it. The name says everything that decides how it
/// is opened (`dhcp eth0`, `dns 10.1.1.1:53/udp`): one with a name that serve holds is not opened again.
#[derive(Clone)]
pub struct Offer {
    name: String,
    open: Opener,
}

impl Offer {
    /// `open` is called when serve is there and does not hold a socket of this name.
    pub fn new(
        name: impl Into<String>,
        open: impl Fn() -> io::Result<OwnedFd> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), open: Arc::new(open) }
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Offer").field(&self.name).finish()
    }
}

/// What serve is to have; each snapshot with the version at which it last changed.
#[derive(Default)]
struct Wanted {
    version: u64,
    offers: BTreeMap<String, Opener>,
    snapshots: BTreeMap<String, (u64, Bytes)>,
    /// Their kinds by those versions.
    newest: BTreeMap<u64, String>,
    /// Whether all snapshots that there are were declared since the core started.
    complete: bool,
    /// Whether the set of sockets was declared since the core started.
    declared: bool,
    /// Sockets that are open; kept here so that they outlive a restart of serve.
    held: BTreeMap<String, Arc<OwnedFd>>,
    /// Sockets that could not be opened, and why.
    failures: BTreeMap<String, String>,
}

impl Wanted {
    fn put(&mut self, kind: &str, version: u64, bytes: Bytes) {
        if let Some((before, _)) = self.snapshots.insert(kind.to_owned(), (version, bytes)) {
            self.newest.remove(&before);
        }
        self.newest.insert(version, kind.to_owned());
    }

    /// Forgets what serve has been told to forget.
    fn forget(&mut self, sent: &[(String, (u64, Bytes))]) {
        for (kind, (version, bytes)) in sent.iter().filter(|(_, (_, bytes))| *bytes == NOTHING) {
            if self.snapshots.get(kind).is_some_and(|now| now == &(*version, bytes.clone())) {
                self.snapshots.remove(kind);
                self.newest.remove(version);
            }
        }
    }
}

/// What serve has.
#[derive(Default)]
struct Given {
    /// Sockets by name; those that are held no longer were taken back.
    sockets: BTreeMap<String, Weak<OwnedFd>>,
    /// Kinds of the snapshots that it had when it connected, until they are looked through.
    kinds: Vec<String>,
}

/// The core's end; clones share it.
#[derive(Clone)]
pub struct Core {
    wanted: Arc<Mutex<Wanted>>,
    changed: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    connected: watch::Sender<bool>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("version", &*self.changed.borrow()).finish_non_exhaustive()
    }
}

/// Something that serve told; the core answers it where serve asked for that.
#[derive(Debug)]
pub struct Event {
    /// What it is about, agreed between core and serve of the role.
    pub kind: String,
    /// Its JSON.
    pub bytes: Bytes,
    answer: Option<oneshot::Sender<Answered>>,
}

impl Event {
    /// Its JSON as a type.
    ///
    /// # Errors
    /// Where it is of another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// Whether serve waits for an answer.
    pub fn is_question(&self) -> bool {
        self.answer.is_some()
    }

    /// Answers it, once it has been dealt with (and persisted, where that matters).
    pub fn answer<T: Serialize>(self, value: &T) {
        self.answer_with(value, None);
    }

    /// The same with a socket that serve is to have from now on; the core keeps none of it.
    pub fn answer_with<T: Serialize>(self, value: &T, socket: Option<OwnedFd>) {
        self.reply(serde_json::to_vec(value).map(|bytes| (bytes.into(), socket)).map_err(|e| e.to_string()));
    }

    /// Answers that it was refused, and why. An event dropped unanswered counts as refused too.
    pub fn refuse(self, reason: impl Into<String>) {
        self.reply(Err(reason.into()));
    }

    fn reply(self, result: Answered) {
        if let Some(answer) = self.answer {
            // Serve has gone: nobody waits.
            let _ = answer.send(result);
        }
    }
}

impl Core {
    /// Starts to listen for the role's serve process, as a task of the current runtime that lasts as
    /// long as the runtime. `user`: the one account, besides root, that may connect.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn listen(paths: &Paths, user: Option<sandbox::User>) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let path = paths.serve_socket();
        let listener = shim::bind(&path, 0o600)?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let core = Self {
            wanted: Arc::default(),
            changed: watch::Sender::new(0),
            applied: watch::Sender::new(0),
            connected: watch::Sender::new(false),
        };
        tokio::spawn(core.clone().accept(listener, events));
        Ok((core, receiver))
    }

    /// Declares the whole set of sockets that serve is to have: new names are opened and handed over, names
    /// that are no longer there are withdrawn, the others are left alone. Returns the version to wait for.
    pub fn offer(&self, offers: impl IntoIterator<Item = Offer>) -> u64 {
        self.change(|wanted, _| {
            wanted.offers = offers.into_iter().map(|offer| (offer.name, offer.open)).collect();
            wanted.declared = true;
            wanted.failures.clear();
            let Wanted { held, offers, .. } = wanted;
            held.retain(|name, _| offers.contains_key(name));
        })
    }

    /// Declares the latest snapshot of a kind; it replaces the one before whole. Returns the version to wait for.
    ///
    /// # Errors
    /// Where it cannot be put into JSON; the one before stays.
    pub fn publish<T: Serialize>(&self, kind: &str, value: &T) -> Result<u64, serde_json::Error> {
        Ok(self.publish_bytes(kind, serde_json::to_vec(value)?.into()))
    }

    /// The same for bytes that are ready. The same bytes as before change nothing.
    pub fn publish_bytes(&self, kind: &str, bytes: Bytes) -> u64 {
        if let Some((version, before)) = self.lock().snapshots.get(kind)
            && *before == bytes
        {
            return *version;
        }
        self.change(|wanted, version| wanted.put(kind, version, bytes))
    }

    /// Declares that there is nothing of a kind any more: serve is told a JSON `null`. Returns the version to wait for.
    pub fn withdraw(&self, kind: &str) -> u64 {
        self.publish_bytes(kind, Bytes::from_static(NOTHING))
    }

    /// Declares that all snapshots that there are have been published: of other kinds, which serve may have from a
    /// core before this one, there is nothing any more.
    pub fn complete(&self) {
        self.change(|wanted, _| wanted.complete = true);
    }

    /// Waits until serve has said that everything up to this version is in force; `false` when
    /// `limit` is over first.
    pub async fn applied(&self, version: u64, limit: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        matches!(timeout(limit, applied.wait_for(|v| *v >= version)).await, Ok(Ok(_)))
    }

    /// Whether serve is there; can be awaited.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Sockets that could not be opened, and why. They are tried again at each change and each time
    /// serve connects.
    pub fn failures(&self) -> BTreeMap<String, String> {
        self.lock().failures.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Wanted, u64)) -> u64 {
        let mut wanted = self.lock();
        wanted.version += 1;
        let version = wanted.version;
        change(&mut wanted, version);
        self.changed.send_replace(version);
        version
    }

    async fn accept(self, listener: UnixListener, events: mpsc::Sender<Event>) {
        let mut session: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the serve process");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // One serve process at a time: the new one takes the place of the old.
            if let Some(before) = session.take() {
                before.abort();
                let _ = before.await;
            }
            let (core, events) = (self.clone(), events.clone());
            session = Some(tokio::spawn(async move {
                let end = core.session(&stream, events).await;
                core.connected.send_replace(false);
                core.applied.send_replace(0);
                match end {
                    Ok(()) => tracing::info!("serve has gone"),
                    Err(error) => tracing::warn!(%error, "the connection to serve broke"),
                }
            }));
        }
    }

    async fn session(&self, stream: &UnixStream, events: mpsc::Sender<Event>) -> io::Result<()> {
        let mut reader = Reader::default();
        let mut given = Given::default();
        loop {
            let frame = timeout(HELD_LIMIT, reader.next(stream)).await??;
            match frame.map(|f| (f.head, f.body, f.fd)) {
                Some((Head::Ready, ..)) => break,
                Some((Head::Kinds, body, _)) => given.kinds = serde_json::from_slice(&body)?,
                Some((Head::Socket { name, .. }, _, Some(fd))) if given.sockets.len() < HELD => {
                    let held =
                        Arc::clone(self.lock().held.entry(name.clone()).or_insert_with(|| Arc::new(fd)));
                    given.sockets.insert(name, Arc::downgrade(&held));
                }
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(()),
            }
        }
        tracing::info!(sockets = given.sockets.len(), "serve is there");
        self.applied.send_replace(0);
        let (answers, answered) = mpsc::channel(EVENTS);
        self.connected.send_replace(true);
        tokio::select! {
            end = self.write(stream, given, answered) => end,
            end = self.read(stream, reader, events, answers) => end,
        }
    }

    /// Keeps serve up to date and carries answers, one frame after the other.
    async fn write(
        &self,
        stream: &UnixStream,
        mut given: Given,
        mut answers: mpsc::Receiver<(u64, Answered)>,
    ) -> io::Result<()> {
        let mut changed = self.changed.subscribe();
        let mut sent = 0;
        loop {
            changed.borrow_and_update();
            sent = self.bring_up_to_date(stream, &mut given, sent).await?;
            tokio::select! {
                change = changed.changed() => if change.is_err() { return Ok(()) },
                Some((id, result)) = answers.recv() => {
                    let (refused, body, fd) = match result {
                        Ok((body, fd)) => (None, body, fd),
                        Err(reason) => (Some(reason), Bytes::new(), None),
                    };
                    send(stream, &Head::Answer { id, refused }, &body, fd.map(Arc::new).as_ref()).await?;
                }
            }
        }
    }

    /// Sends what changed after version `sent`; returns the version that serve then has.
    async fn bring_up_to_date(&self, stream: &UnixStream, given: &mut Given, sent: u64) -> io::Result<u64> {
        let (version, declared, offers, snapshots, stale) = {
            let wanted = self.lock();
            let newer = wanted.newest.range(sent + 1..).map(|(_, kind)| kind);
            let snapshots: Vec<_> =
                newer.filter_map(|kind| Some((kind.clone(), wanted.snapshots.get(kind)?.clone()))).collect();
            let kinds = if wanted.complete { std::mem::take(&mut given.kinds) } else { Vec::new() };
            let stale: Vec<_> = kinds.into_iter().filter(|k| !wanted.snapshots.contains_key(k)).collect();
            (wanted.version, wanted.declared, wanted.offers.clone(), snapshots, stale)
        };
        if version == sent {
            return Ok(sent);
        }
        for kind in stale {
            send(stream, &Head::Snapshot { kind, version }, NOTHING, None).await?;
        }
        for (kind, (version, bytes)) in &snapshots {
            let head = Head::Snapshot { kind: kind.clone(), version: *version };
            send(stream, &head, bytes, None).await?;
        }
        self.lock().forget(&snapshots);
        let sockets = &mut given.sockets;
        // Until the core has declared its sockets, serve goes on with those it has.
        if declared {
            // A socket that was taken back and offered again meanwhile is another one.
            let is_gone = |name: &String, socket: &Weak<OwnedFd>| {
                !offers.contains_key(name) || socket.strong_count() == 0
            };
            let gone: Vec<String> =
                sockets.iter().filter(|(name, fd)| is_gone(name, fd)).map(|(name, _)| name.clone()).collect();
            for name in gone {
                sockets.remove(&name);
                send(stream, &Head::Withdraw { name, version }, &[], None).await?;
            }
        }
        for (name, open) in offers {
            // What was taken back since this round began is the next round's business.
            if sockets.contains_key(&name) || !self.lock().offers.contains_key(&name) {
                continue;
            }
            match self.open(&name, &open) {
                Ok(fd) => {
                    send(stream, &Head::Socket { name: name.clone(), version }, &[], Some(&fd)).await?;
                    sockets.insert(name, Arc::downgrade(&fd));
                }
                Err(error) => {
                    let mut wanted = self.lock();
                    if wanted.offers.contains_key(&name) {
                        tracing::error!(socket = name, %error, "cannot open");
                        wanted.failures.insert(name, error.to_string());
                    }
                }
            }
        }
        send(stream, &Head::Applied { version }, &[], None).await?;
        Ok(version)
    }

    /// The socket that is open under a name, opened now where it is not.
    fn open(&self, name: &str, open: &Opener) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.lock().held.get(name) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(open()?);
        let mut wanted = self.lock();
        wanted.failures.remove(name);
        // It may have been taken from the set meanwhile: then it closes when this session drops it.
        if wanted.offers.contains_key(name) {
            wanted.held.insert(name.to_owned(), Arc::clone(&fd));
        }
        Ok(fd)
    }

    /// Takes what serve sends.
    async fn read(
        &self,
        stream: &UnixStream,
        mut reader: Reader,
        events: mpsc::Sender<Event>,
        answers: mpsc::Sender<(u64, Answered)>,
    ) -> io::Result<()> {
        while let Some(frame) = reader.next(stream).await? {
            match frame.head {
                Head::Applied { version } => {
                    self.applied.send_if_modified(|applied| {
                        let newer = version > *applied;
                        *applied = version.max(*applied);
                        newer
                    });
                }
                Head::Event { kind, id } => {
                    let answer = id.map(|id| {
                        let (sender, receiver) = oneshot::channel();
                        let answers = answers.clone();
                        tokio::spawn(async move {
                            let result = receiver.await.unwrap_or_else(|_| Err("not answered".to_owned()));
                            // The connection has ended: nobody waits.
                            let _ = answers.send((id, result)).await;
                        });
                        sender
                    });
                    if events.send(Event { kind, bytes: frame.body, answer }).await.is_err() {
                        return Ok(());
                    }
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }
}

/// Sends a frame; a serve process that does not take it in time counts as dead.
async fn send(stream: &UnixStream, head: &Head, body: &[u8], fd: Option<&Arc<OwnedFd>>) -> io::Result<()> {
    timeout(SEND_LIMIT, frame::send(stream, head, body, fd.map(|fd| fd.as_fd()))).await?
}
