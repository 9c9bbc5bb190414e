//! One question to all upstreams, and whom of the guests to let ask.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::op::{Message, ResponseCode};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    cache::{Cache, Key, answer_of},
    exchange::{self, Failure, Said},
    query::{Answer, Question},
};
use crate::serve::crowd::Crowd;

/// The port of upstreams.
const PORT: u16 = 53;
/// Time until the next upstream is asked too.
const PATIENCE: Duration = Duration::from_millis(250);
/// Time until a question is given up.
const LIMIT: Duration = Duration::from_secs(4);
/// Questions on their way at a time.
const FLIGHTS: usize = 256;
/// Guests' questions that wait at a time, and of one guest.
const WAITING: usize = 2048;
const WAITING_OF_ONE: usize = 64;

/// What came of a flight: `None` where no upstream had an answer.
type Outcome = Option<Arc<Message>>;
type Landing = watch::Receiver<Option<Outcome>>;

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// An upstream's answer.
    Answer(Answer),
    /// No upstream has one, in time.
    Failed,
    /// Too many questions wait already.
    Busy,
}

/// Asks upstreams on behalf of guests.
#[derive(Debug)]
pub struct Forwarder {
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, Landing>>,
    waiting: Arc<Crowd>,
    /// Counts up whenever the upstream that is asked first fails, so that another one is.
    turns: AtomicUsize,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            cache: Mutex::default(),
            flights: Mutex::default(),
            waiting: Arc::new(Crowd::new(WAITING, WAITING_OF_ONE)),
            turns: AtomicUsize::new(0),
        }
    }
}

impl Forwarder {
    /// What is known from before.
    pub fn cached(&self, question: &Question) -> Option<Answer> {
        lock(&self.cache).find(&Key::of(question), Instant::now())
    }

    /// Asks upstreams, or waits with others who asked the same. Ends in bounded time.
    pub async fn resolve(
        self: &Arc<Self>,
        upstreams: &[IpAddr],
        question: &Question,
        asker: IpAddr,
    ) -> Resolved {
        let Some(_place) = self.waiting.enter(asker) else { return Resolved::Busy };
        let Some(mut landing) = self.board(upstreams, question) else { return Resolved::Busy };
        let outcome = match timeout(LIMIT + PATIENCE, landing.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().flatten(),
            _ => None,
        };
        outcome.map_or(Resolved::Failed, |message| Resolved::Answer(answer_of(Message::clone(&message))))
    }

    /// Joins the flight of a question, which starts one if there is none.
    fn board(self: &Arc<Self>, upstreams: &[IpAddr], question: &Question) -> Option<Landing> {
        let key = Key::of(question);
        let mut flights = lock(&self.flights);
        if let Some(landing) = flights.get(&key) {
            return Some(landing.clone());
        }
        if flights.len() >= FLIGHTS {
            return None;
        }
        let (land, landing) = watch::channel(None);
        flights.insert(key.clone(), landing.clone());
        drop(flights);
        let (this, question) = (self.clone(), question.clone());
        let first = self.turns.load(Ordering::Relaxed);
        let mut addresses: Vec<_> = upstreams.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
        let count = addresses.len().max(1);
        addresses.rotate_left(first % count);
        tokio::spawn(async move {
            let won = timeout(LIMIT, race(&addresses, &question)).await.ok().flatten();
            if won.as_ref().is_none_or(|(at, _)| *at > 0) {
                // Only one of the flights that saw it fail moves on.
                let _ = this.turns.compare_exchange(first, first + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            let outcome = won.map(|(_, (bytes, message))| {
                lock(&this.cache).keep(key.clone(), &bytes, &message, Instant::now());
                Arc::new(message)
            });
            lock(&this.flights).remove(&key);
            land.send_replace(Some(outcome));
        });
        Some(landing)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first answer of use and the number of the upstream it is from. The first upstream is asked at
/// once, each further one when those before have failed or taken their time; none is given up for that.
async fn race(upstreams: &[SocketAddr], question: &Question) -> Option<(usize, Said)> {
    let mut running: JoinSet<(usize, Result<Said, Failure>)> = JoinSet::new();
    let mut upstreams = upstreams.iter().copied().enumerate();
    loop {
        let mut more = false;
        if let Some((number, upstream)) = upstreams.next() {
            let question = question.clone();
            running.spawn(async move { (number, exchange::ask(upstream, &question).await) });
            more = true;
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(Ok((number, Ok(said)))) if is_of_use(&said.1) => return Some((number, said)),
                Some(Ok((number, Err(error)))) => tracing::debug!(number, %error, "upstream"),
                Some(_) => {}
                None => return None,
            },
            () = sleep(PATIENCE), if more => {}
        }
    }
}

/// SERVFAIL, REFUSED and their like say something about the upstream, not about the name.
fn is_of_use(message: &Message) -> bool {
    matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Query,
        rr::{Name, RData, Record, RecordType, rdata::A},
    };
    use tokio::net::UdpSocket;

    use super::*;

    fn question() -> Question {
        let query = Query::query("www.example.".parse().unwrap(), RecordType::A);
        Question { query, id: 1, recurse: true, unchecked: false, edns: None }
    }

    /// An upstream that answers everything with `code`, or keeps silent.
    async fn upstream(code: Option<ResponseCode>, last: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Some(code) = code else { continue };
                let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
                message.metadata.response_code = code;
                let name: Name = message.queries[0].name().clone();
                message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last))));
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_silent_or_failing_upstream_does_not_hold_up_the_next() {
        let silent = upstream(None, 0).await;
        let failing = upstream(Some(ResponseCode::ServFail), 1).await;
        let good = upstream(Some(ResponseCode::NoError), 2).await;
        let start = Instant::now();
        let (number, _) = race(&[silent, failing, good], &question()).await.unwrap();
        assert_eq!(number, 2);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn where_nobody_answers_the_end_is_known() {
        let failing = upstream(Some(ResponseCode::Refused), 1).await;
        assert!(race(&[failing], &question()).await.is_none());
        assert!(race(&[], &question()).await.is_none());
    }

    #[tokio::test]
    async fn without_upstreams_every_question_fails_and_leaves_nothing_behind() {
        let forwarder = Arc::new(Forwarder::default());
        assert_eq!(forwarder.resolve(&[], &question(), [10, 1, 1, 10].into()).await, Resolved::Failed);
        assert!(lock(&forwarder.flights).is_empty());
        assert_eq!(forwarder.cached(&question()), None);
    }
}
