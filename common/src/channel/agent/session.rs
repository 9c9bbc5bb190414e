//! One connection to a server, from the start-up to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::core::{Core, Event};
use super::run::{Life, Watch, dial};
use super::{Order, RequestError, Resource};
use crate::channel::message::Message;
use crate::channel::packet::{Flags, Ids, Packet, PacketError};
use crate::channel::stream::{PacketReader, PacketWriter, Stream, StreamError};
use crate::channel::waiters::Waiters;
use crate::command::agent::{PingAnswer, ShutdownCommand, StartupAnswer, failed};

/// Packets that may wait to be written.
const QUEUE: usize = 64;
/// Requests of the server that may be at work or waiting for a worker.
const MAX_WORK: usize = 1000;
/// Own requests that may wait for an answer.
const MAX_WAITING: usize = 1024;
/// Commands that may be repeated at once.
const MAX_REPEATED: usize = 16;
/// Packets that cannot be read before the connection is given up.
const MAX_BAD: u32 = 16;
/// Seconds between pings where the server says none.
const PING: u64 = 60;
/// How long a last look at the socket takes before the server counts as dead.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// Longest good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// Far away: a deadline that is not armed.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was lost, or the server refused the agent.
    Lost {
        /// Why.
        reason: String,
        /// The server had said Ready on it.
        joined: bool,
    },
    /// The agent wants a new one at once, to this server where it is named.
    Again(Option<String>),
    /// The server does not want to see the agent again.
    Dismissed,
    /// The agent was stopped.
    Stopped,
}

/// A connection to a server.
pub(super) struct Session<'a, R> {
    life: &'a mut Life<R>,
    core: Arc<Core<R>>,
    host: &'a str,
    reader: PacketReader,
    writer: AbortOnDropHandle<Result<(), StreamError>>,
    out: Option<mpsc::Sender<Packet>>,
    waiters: Waiters,
    waiting: JoinSet<()>,
    looks: JoinSet<Option<End>>,
    repeated: HashMap<String, AbortOnDropHandle<()>>,
    watch: Watch,
    startup_deadline: Option<Instant>,
    pings: tokio::time::Interval,
    ping_every: Option<Duration>,
    look_at: Option<Instant>,
    joined: bool,
    dismissed: bool,
    bad: u32,
}

impl<'a, R: Resource> Session<'a, R> {
    /// Takes over a connection after its handshake.
    pub(super) fn start(life: &'a mut Life<R>, stream: Stream, host: &'a str) -> Self {
        let (out, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(write(stream.writer, queue, life.core.config.timings.write));
        let writer = AbortOnDropHandle::new(writer);
        let mut session = Self {
            core: life.core.clone(),
            host,
            reader: stream.reader,
            writer,
            out: Some(out),
            waiters: Waiters::default(),
            waiting: JoinSet::new(),
            looks: JoinSet::new(),
            repeated: HashMap::new(),
            watch: Watch::new(life.fingerprint),
            startup_deadline: None,
            pings: ticks(NEVER),
            ping_every: None,
            look_at: None,
            joined: false,
            dismissed: false,
            bad: 0,
            life,
        };
        session.arm_look();
        session
    }

    /// Talks until the connection ends.
    pub(super) async fn talk(mut self) -> End {
        self.send_startup();
        let mut end = self.until_end().await;
        if matches!(end, End::Lost { .. })
            && let Some(reason) = self.last_words().await
        {
            end = reason;
        }
        self.waiters.fail_all();
        match end {
            End::Stopped => self.good_bye().await,
            // What has just been answered shall still arrive.
            End::Again(_) => self.flush().await,
            End::Lost { .. } | End::Dismissed => {}
        }
        match end {
            End::Lost { .. } if self.dismissed => End::Dismissed,
            other => other,
        }
    }

    async fn until_end(&mut self) -> End {
        let timings = self.core.config.timings.clone();
        let mut look = tokio::time::interval(timings.watch);
        let far = Instant::now() + NEVER;
        loop {
            let silent_at = self.silent_at().unwrap_or(far);
            let ended = tokio::select! {
                () = self.life.stop.cancelled() => Some(End::Stopped),
                read = self.reader.next() => self.arrived(read),
                written = &mut self.writer => Some(match written {
                    Ok(Err(error)) => self.lost(error),
                    _ => self.lost("nothing can be sent any more"),
                }),
                order = self.life.inbox.recv() => match order {
                    Some(order) => self.obey(order),
                    None => Some(End::Stopped),
                },
                Some(event) = self.life.events.recv() => self.follow(event),
                Some(_) = self.life.work.join_next() => None,
                Some(_) = self.waiting.join_next() => None,
                Some(looked) = self.looks.join_next() => looked.ok().flatten(),
                _ = self.pings.tick(), if self.ping_every.is_some() => {
                    self.send_ping();
                    None
                }
                () = sleep_until(self.startup_deadline.unwrap_or(far)) => {
                    self.life.patience = timings.startup * 2;
                    Some(self.lost("no answer to the start-up"))
                }
                () = sleep_until(silent_at) => self.check_silence().await,
                () = sleep_until(self.look_at.unwrap_or(far)) => {
                    self.look_for_preferred();
                    self.arm_look();
                    None
                }
                _ = look.tick() => {
                    let own = self.core.installing.load(Ordering::Acquire);
                    let changed = !own && self.watch.has_changed(self.core.files.fingerprint());
                    if changed { tracing::info!("certificates have changed, connecting anew"); }
                    changed.then_some(End::Again(None))
                }
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    /// What the server said right before the connection ended counts: a refusal comes with its close.
    async fn last_words(&mut self) -> Option<End> {
        let work = async { while self.life.work.join_next().await.is_some() {} };
        // Commands that last go on without this connection.
        let _ = timeout(SECOND_LOOK, work).await;
        let mut end = None;
        while let Ok(event) = self.life.events.try_recv() {
            end = self.follow(event).or(end);
        }
        end
    }

    /// When the server counts as dead, unless it is heard before.
    fn silent_at(&self) -> Option<Instant> {
        let silence = self.ping_every?.mul_f64(self.core.config.timings.silence);
        Some(Instant::from_std(self.reader.heard()) + silence)
    }

    /// The server seems silent. What already lies in the socket counts, though: the agent may have
    /// been too busy to read it.
    async fn check_silence(&mut self) -> Option<End> {
        if let Ok(read) = timeout(SECOND_LOOK, self.reader.next()).await {
            return self.arrived(read);
        }
        let still = self.silent_at().is_some_and(|at| at <= Instant::now());
        still.then(|| self.lost("the server has been silent for too long"))
    }

    /// What came of reading.
    fn arrived(&mut self, read: Result<Option<Result<Packet, PacketError>>, StreamError>) -> Option<End> {
        match read {
            Ok(Some(Ok(packet))) => self.take(packet),
            Ok(Some(Err(error))) => self.note_bad(&error),
            Ok(None) => Some(self.lost("the server closed the connection")),
            Err(error) => Some(self.lost(error)),
        }
    }

    fn lost(&self, reason: impl ToString) -> End {
        End::Lost { reason: reason.to_string(), joined: self.joined }
    }

    fn note_bad(&mut self, error: &PacketError) -> Option<End> {
        tracing::warn!(%error, "ignoring a packet of the server");
        self.bad += 1;
        (self.bad >= MAX_BAD)
            .then(|| self.lost(format!("too many packets that cannot be read, the last: {error}")))
    }

    /// Puts a packet into the queue; false where it is full or the writer has gone.
    fn send(&self, packet: Packet) -> bool {
        self.out.as_ref().is_some_and(|out| out.try_send(packet).is_ok())
    }

    fn request(&self, flags: Flags, message: &[Message]) -> Packet {
        let sequence = self.life.sequence.fetch_add(1, Ordering::Relaxed);
        let ids = Ids::of_agent(self.core.state().host_id);
        Packet::new(flags, sequence, ids, message)
    }

    fn send_startup(&mut self) {
        let mut commands = self.core.resource.startup();
        {
            let mut state = self.core.state();
            let transferred = std::mem::take(&mut state.transferred);
            for command in &mut commands {
                if let Some(id) = state.host_id {
                    command.body.insert("id".to_owned(), id.into());
                }
                command.body.insert("msHostList".to_owned(), state.reported().into());
                command.body.insert("connectionTransferred".to_owned(), transferred.into());
            }
        }
        let in_sequence = commands.first().is_some_and(|first| {
            matches!(first.simple_name(), "StartupSecondaryStorageCommand" | "StartupProxyCommand")
        });
        let flags = if in_sequence { Flags::REQUEST.with(Flags::IN_SEQUENCE) } else { Flags::REQUEST };
        let packet = self.request(flags, &commands);
        self.send(packet);
        self.startup_deadline = Some(Instant::now() + self.life.patience);
    }

    fn send_ping(&mut self) {
        let mut ping = self.core.resource.ping();
        if let Some(id) = self.core.state().host_id {
            ping.body.insert("hostId".to_owned(), id.into());
        }
        let packet = self.request(Flags::REQUEST.with(Flags::STOP_ON_ERROR), &[ping]);
        if !self.send(packet) {
            tracing::warn!("a ping could not be sent, the connection is busy");
        }
    }

    fn take(&mut self, packet: Packet) -> Option<End> {
        if tracing::enabled!(tracing::Level::DEBUG) {
            tracing::debug!("{}", packet.describe("Received"));
        }
        if packet.is_request() {
            self.work_on(packet);
            return None;
        }
        let first = packet.messages().ok().and_then(|list| list.into_iter().next()).and_then(Result::ok);
        match first {
            Some(answer) if answer.is::<StartupAnswer>() => match answer.read::<StartupAnswer>() {
                Ok(answer) => self.started(answer),
                Err(error) => Some(self.lost(error)),
            },
            Some(answer) if answer.is::<PingAnswer>() => {
                match answer.read::<PingAnswer>() {
                    Ok(answer) => self.pinged(answer),
                    Err(error) => tracing::warn!(%error, "an answer to a ping that cannot be read"),
                }
                None
            }
            _ => {
                let sequence = packet.sequence;
                if !self.waiters.deliver(packet) {
                    tracing::debug!(sequence, "nobody waits for this answer");
                }
                None
            }
        }
    }

    fn started(&mut self, answer: StartupAnswer) -> Option<End> {
        if !answer.answer.result {
            return Some(self.lost(format!("refused: {}", answer.answer.details.unwrap_or_default())));
        }
        self.startup_deadline = None;
        self.life.patience = self.core.config.timings.startup;
        self.core.learn(answer.host_id, answer.host_uuid, answer.host_name);
        let seconds = u64::try_from(answer.ping_interval).unwrap_or_default();
        let every = Duration::from_secs(if seconds == 0 { PING } else { seconds.min(3600) });
        if self.ping_every != Some(every) {
            self.ping_every = Some(every);
            self.pings = ticks(every);
        }
        None
    }

    fn pinged(&mut self, answer: PingAnswer) {
        if let Some(avoid) = answer.avoid_ms_list {
            self.core.state().avoid = avoid;
        }
        if answer.send_startup && self.startup_deadline.is_none() {
            tracing::info!("the server asks for a new start-up");
            self.send_startup();
        }
    }

    /// Executes a request beside the conversation; beyond the limit it fails at once.
    fn work_on(&mut self, packet: Packet) {
        let Some(out) = self.out.clone() else { return };
        if self.life.work.len() >= MAX_WORK {
            let count = packet.messages().map_or(1, |list| list.len());
            self.send(packet.response(&vec![failed("the agent has too much to do"); count]));
            return;
        }
        let core = self.core.clone();
        self.life.work.spawn(async move {
            let response = packet.response(&core.answer(&packet).await);
            if out.send(response).await.is_err() {
                tracing::warn!(sequence = packet.sequence, "an answer is lost, its connection has gone");
            }
        });
    }

    fn obey(&mut self, order: Order) -> Option<End> {
        match order {
            Order::Reload => return Some(End::Again(None)),
            Order::Ping => self.send_ping(),
            Order::Request(command, answer, limit) => self.ask(command, answer, limit),
        }
        None
    }

    fn ask(
        &mut self,
        command: Message,
        answer: Option<oneshot::Sender<Result<Message, RequestError>>>,
        limit: Duration,
    ) {
        let packet = self.request(Flags::REQUEST.with(Flags::STOP_ON_ERROR), &[command]);
        let Some(answer) = answer else {
            if !self.send(packet) {
                tracing::warn!("a report could not be sent, the connection is busy");
            }
            return;
        };
        let Some(mut waiter) = self.waiters.join(packet.sequence, MAX_WAITING) else {
            let _ = answer.send(Err(RequestError::Busy));
            return;
        };
        if !self.send(packet) {
            let _ = answer.send(Err(RequestError::Busy));
            return;
        }
        self.waiting.spawn(async move {
            let result = match timeout(limit, waiter.response()).await {
                Ok(Some(response)) => first_message(&response),
                Ok(None) => Err(RequestError::NotConnected),
                Err(_) => Err(RequestError::Timeout(limit)),
            };
            let _ = answer.send(result);
        });
    }

    fn follow(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Ready => self.joined = true,
            Event::Refused(reason) => return Some(self.lost(format!("refused: {reason}"))),
            Event::Dismissed => {
                self.dismissed = true;
                self.ping_every = None;
                self.startup_deadline = None;
            }
            Event::Installed => {
                self.life.fingerprint = self.core.files.fingerprint();
                self.watch.learn(self.life.fingerprint);
                self.core.installing.store(false, Ordering::Release);
            }
            Event::Servers(now) => {
                if now {
                    self.look_for_preferred();
                }
                self.arm_look();
            }
            Event::Migrate => self.move_away(),
            Event::Repeat(packet, command, every) => self.repeat(packet, command, every),
        }
        None
    }

    /// Looks at the preferred server after the interval that a server or the operator gave; where
    /// the list is shuffled, once only.
    fn arm_look(&mut self) {
        let seconds = self.core.check_interval();
        let once = self.look_at.is_some() && self.core.state().algorithm.as_deref() == Some("shuffle");
        self.look_at =
            (seconds > 0 && !once).then(|| Instant::now() + Duration::from_secs(seconds.min(7 * 24 * 3600)));
    }

    fn look_for_preferred(&mut self) {
        let Some(preferred) = self.core.state().preferred().cloned().filter(|host| host != self.host) else {
            return;
        };
        let core = self.core.clone();
        self.looks.spawn(async move {
            let (port, limit) = (core.config.port, core.config.timings.probe);
            let reachable = dial(&preferred, port, limit).await.is_ok();
            (reachable && core.is_idle()).then(|| {
                tracing::info!(preferred, "the preferred server is back, moving to it");
                End::Again(Some(preferred))
            })
        });
    }

    fn move_away(&mut self) {
        let core = self.core.clone();
        let here = self.host.to_owned();
        self.looks.spawn(async move {
            tokio::time::sleep(core.config.timings.migrate).await;
            let (port, limit) = (core.config.port, core.config.timings.probe);
            let (candidates, avoid) = {
                let state = core.state();
                (state.candidates(), state.avoid.clone())
            };
            for host in candidates.into_iter().filter(|host| !avoid.contains(host) && *host != here) {
                if dial(&host, port, limit).await.is_ok() {
                    tracing::info!(host, "moving to another server");
                    core.state().transferred = true;
                    return Some(End::Again(Some(host)));
                }
            }
            tracing::warn!("no other server can be reached, staying here");
            None
        });
    }

    fn repeat(&mut self, packet: Packet, command: Message, every: Duration) {
        let known = self.repeated.contains_key(&command.class);
        let Some(out) = self.out.clone().filter(|_| known || self.repeated.len() < MAX_REPEATED) else {
            tracing::warn!(class = command.class, "too many commands to repeat, not this one");
            return;
        };
        let core = self.core.clone();
        let class = command.class.clone();
        let work = tokio::spawn(async move {
            let mut ticks = ticks(every);
            loop {
                ticks.tick().await;
                let answer = core.by_role(command.clone()).await;
                if out.send(packet.response(&[answer])).await.is_err() {
                    return;
                }
            }
        });
        self.repeated.insert(class, AbortOnDropHandle::new(work));
    }

    /// Tells the server that this process ends, and waits a moment for what is still in the queue.
    async fn good_bye(&mut self) {
        let message =
            Message::wrap(&ShutdownCommand { reason: "sig.kill".to_owned(), ..ShutdownCommand::default() });
        let flags = Flags::REQUEST.with(Flags::STOP_ON_ERROR).with(Flags::IN_SEQUENCE);
        let ids = Ids::of_agent(self.core.state().host_id);
        self.send(Packet::new(flags, -1, ids, &[message]));
        self.life.work.abort_all();
        self.flush().await;
    }

    /// Waits a moment for what is in the queue or about to be.
    async fn flush(&mut self) {
        self.out = None;
        self.repeated.clear();
        let _ = timeout(GOOD_BYE, &mut self.writer).await;
    }
}

fn first_message(response: &Packet) -> Result<Message, RequestError> {
    let unreadable = |reason: String| Err(RequestError::Unreadable(reason));
    match response.messages().map(|list| list.into_iter().next()) {
        Ok(Some(Ok(message))) => Ok(message),
        Ok(Some(Err(error))) => unreadable(error.to_string()),
        Ok(None) => unreadable("it is empty".to_owned()),
        Err(error) => unreadable(error.to_string()),
    }
}

/// Ticks every `every`, the first one after that time; ticks that were missed are left out.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn write(
    mut writer: PacketWriter,
    mut queue: mpsc::Receiver<Packet>,
    limit: Duration,
) -> Result<(), StreamError> {
    while let Some(packet) = queue.recv().await {
        if tracing::enabled!(tracing::Level::DEBUG) {
            tracing::debug!("{}", packet.describe("Sending"));
        }
        writer.send(&packet, limit).await?;
    }
    writer.close().await;
    Ok(())
}
