//! The serve process's end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::frame::{self, Head, Reader};
use crate::paths::Paths;

/// Events that wait while the core is busy or away.
const EVENTS: usize = 1024;
/// Updates that wait for the role.
const UPDATES: usize = 64;
/// First and longest pause between two attempts to reach the core.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Something new from the core. It counts as in force once the next one is asked for.
#[derive(Debug)]
pub enum Update {
    /// A socket to serve on; it takes the place of one with the same name.
    Socket {
        /// Its name.
        name: String,
        /// The socket.
        fd: OwnedFd,
    },
    /// A socket that is to be closed.
    Withdrawn {
        /// Its name.
        name: String,
    },
    /// A snapshot that replaces the last one of its kind whole.
    Snapshot {
        /// Its kind.
        kind: String,
        /// Its JSON.
        bytes: Bytes,
    },
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Too many events wait already.
    #[error("too many events wait for the core")]
    Full,
    /// The core is away or took too long.
    #[error("the core did not answer in time")]
    Late,
    /// The core refused.
    #[error("the core refused: {0}")]
    Refused(String),
    /// The event cannot be put into JSON, or the answer is of another shape.
    #[error("event or answer: {0}")]
    Json(#[from] serde_json::Error),
}

/// What answers a question: its JSON and perhaps a socket, or why it was refused.
type Answered = Result<(Bytes, Option<OwnedFd>), String>;

/// What goes to the core.
enum Message {
    Event { kind: String, bytes: Vec<u8>, answer: Option<oneshot::Sender<Answered>> },
    Applied { connection: u64, version: u64 },
}

/// What the connection hands to [`Updates::next`].
enum Arrival {
    Update(Update),
    Mark { connection: u64, version: u64 },
}

/// Tells the core what happened; clones share the connection.
#[derive(Debug, Clone)]
pub struct Serve {
    events: mpsc::Sender<Message>,
}

/// What the core sends, in order.
#[derive(Debug)]
pub struct Updates {
    arrivals: mpsc::Receiver<Arrival>,
    events: mpsc::Sender<Message>,
}

impl Updates {
    /// The next update; everything handed out before counts as in force from now on. Never ends while the
    /// process runs: the connection comes back by itself. May be cancelled.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            // A place first, so that nothing is lost where this is cancelled.
            let place = self.events.reserve().await.ok()?;
            match self.arrivals.recv().await? {
                Arrival::Update(update) => return Some(update),
                Arrival::Mark { connection, version } => place.send(Message::Applied { connection, version }),
            }
        }
    }
}

impl Serve {
    /// Connects to the role's core, and again whenever it has gone, as a task of the current runtime.
    pub fn connect(paths: &Paths) -> (Self, Updates) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (sender, arrivals) = mpsc::channel(UPDATES);
        tokio::spawn(run(paths.serve_socket(), sender, receiver));
        (Self { events: events.clone() }, Updates { arrivals, events })
    }

    /// Tells the core something that needs no answer. It waits in a bounded queue while the core is away.
    ///
    /// # Errors
    /// Where too many events wait already; this one is lost then.
    pub fn tell<T: Serialize>(&self, kind: &str, value: &T) -> Result<(), AskError> {
        self.send(kind, value, None)
    }

    /// Tells the core something and waits for its answer, at most `limit`.
    ///
    /// # Errors
    /// Where there is no answer, or it says no.
    pub async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: &str,
        value: &T,
        limit: Duration,
    ) -> Result<A, AskError> {
        self.ask_with_socket(kind, value, limit).await.map(|(answer, _)| answer)
    }

    /// The same where the core may answer with a socket.
    ///
    /// # Errors
    /// Where there is no answer, or it says no.
    pub async fn ask_with_socket<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: &str,
        value: &T,
        limit: Duration,
    ) -> Result<(A, Option<OwnedFd>), AskError> {
        let (sender, answer) = oneshot::channel();
        self.send(kind, value, Some(sender))?;
        match timeout(limit, answer).await {
            Ok(Ok(Ok((bytes, socket)))) => Ok((serde_json::from_slice(&bytes)?, socket)),
            Ok(Ok(Err(reason))) => Err(AskError::Refused(reason)),
            Ok(Err(_)) | Err(_) => Err(AskError::Late),
        }
    }

    fn send<T: Serialize>(
        &self,
        kind: &str,
        value: &T,
        answer: Option<oneshot::Sender<Answered>>,
    ) -> Result<(), AskError> {
        let bytes = serde_json::to_vec(value)?;
        let message = Message::Event { kind: kind.to_owned(), bytes, answer };
        self.events.try_send(message).map_err(|_| AskError::Full)
    }
}

/// One connection after the other, until nobody asks for updates any more.
async fn run(path: PathBuf, arrivals: mpsc::Sender<Arrival>, mut events: mpsc::Receiver<Message>) {
    let (mut held, mut kinds) = (BTreeMap::new(), BTreeSet::new());
    let mut pause = PAUSE.0;
    let mut connection = 0;
    while !arrivals.is_closed() {
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                connection += 1;
                tracing::info!("connected to the core");
                let (held, kinds) = (&mut held, &mut kinds);
                let mut session = Session { stream, arrivals: &arrivals, held, kinds, connection };
                if let Err(error) = session.run(&mut events).await {
                    tracing::warn!(%error, "the connection to the core broke; serving goes on");
                }
                pause = PAUSE.0;
            }
            Err(error) => tracing::debug!(%error, "the core is not there"),
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            () = arrivals.closed() => return,
        }
    }
}

struct Session<'a> {
    stream: UnixStream,
    arrivals: &'a mpsc::Sender<Arrival>,
    /// Sockets as the core gave them, to give them back to a new core.
    held: &'a mut BTreeMap<String, OwnedFd>,
    /// Kinds of the snapshots that there are, to tell a new core.
    kinds: &'a mut BTreeSet<String>,
    connection: u64,
}

impl Session<'_> {
    async fn run(&mut self, events: &mut mpsc::Receiver<Message>) -> io::Result<()> {
        for (name, fd) in &*self.held {
            let head = Head::Socket { name: name.clone(), version: 0 };
            frame::send(&self.stream, &head, &[], Some(fd.as_fd())).await?;
        }
        frame::send(&self.stream, &Head::Kinds, &serde_json::to_vec(&*self.kinds)?, None).await?;
        frame::send(&self.stream, &Head::Ready, &[], None).await?;
        let mut reader = Reader::default();
        let mut asked: HashMap<u64, oneshot::Sender<Answered>> = HashMap::new();
        let mut next_id = 0;
        loop {
            tokio::select! {
                frame = reader.next(&self.stream) => {
                    let Some(frame) = frame? else { return Ok(()) };
                    if let Head::Answer { id, refused } = frame.head {
                        if let Some(answer) = asked.remove(&id) {
                            // Whoever asked may have given up.
                            let _ = answer.send(refused.map_or(Ok((frame.body, frame.fd)), Err));
                        }
                        continue;
                    }
                    let Some(arrival) = self.arrival(frame)? else { continue };
                    if self.arrivals.send(arrival).await.is_err() {
                        return Ok(());
                    }
                }
                Some(message) = events.recv() => {
                    let (head, body) = match message {
                        Message::Applied { connection, version } if connection == self.connection => {
                            (Head::Applied { version }, Vec::new())
                        }
                        Message::Applied { .. } => continue,
                        Message::Event { kind, bytes, answer } => {
                            asked.retain(|_, answer| !answer.is_closed());
                            next_id += 1;
                            let id = answer.map(|answer| {
                                asked.insert(next_id, answer);
                                next_id
                            });
                            (Head::Event { kind, id }, bytes)
                        }
                    };
                    frame::send(&self.stream, &head, &body, None).await?;
                }
            }
        }
    }

    fn arrival(&mut self, frame: frame::Frame) -> io::Result<Option<Arrival>> {
        Ok(Some(match (frame.head, frame.fd) {
            (Head::Socket { name, .. }, Some(fd)) => {
                self.held.insert(name.clone(), fd.try_clone()?);
                Arrival::Update(Update::Socket { name, fd })
            }
            (Head::Withdraw { name, .. }, _) => {
                self.held.remove(&name);
                Arrival::Update(Update::Withdrawn { name })
            }
            (Head::Snapshot { kind, .. }, _) => {
                match &*frame.body {
                    b"null" => self.kinds.remove(&kind),
                    _ => self.kinds.insert(kind.clone()),
                };
                Arrival::Update(Update::Snapshot { kind, bytes: frame.body })
            }
            (Head::Applied { version }, _) => Arrival::Mark { connection: self.connection, version },
            (head, _) => {
                tracing::warn!(?head, "the core sent something unexpected");
                return Ok(None);
            }
        }))
    }
}
