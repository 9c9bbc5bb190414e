//! The sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    forward::{Forwarder, Resolved},
    query::{self, Answer, Question, Read},
    zone::{Local, Zone},
};
use crate::serve::{
    counters::{Counters, count},
    crowd::Crowd,
    http::is_passing,
};

/// The longest question that is looked at in a datagram, bytes.
const LONGEST_DATAGRAM: usize = 4096;
/// The longest answer over TCP, bytes.
const LONGEST_STREAMED: usize = u16::MAX as usize;
/// Connections at a time, and of one guest.
const CONNECTIONS: (usize, usize) = (128, 8);
/// Questions on one connection.
const QUESTIONS: usize = 256;
/// Time for the next question, and for an answer to be taken.
const IDLE: Duration = Duration::from_secs(10);
/// Pause where the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// The name service.
#[derive(Debug)]
pub struct Server {
    /// The local names in force.
    pub zone: ArcSwap<Zone>,
    forwarder: Arc<Forwarder>,
    counters: Arc<Counters>,
    crowd: Arc<Crowd>,
}

/// What becomes of a question.
enum Next {
    Nothing,
    Say(Vec<u8>),
    Ask(Question),
}

impl Server {
    /// A server that knows no names yet and so serves nobody.
    pub fn new(counters: Arc<Counters>) -> Self {
        let crowd = Arc::new(Crowd::new(CONNECTIONS.0, CONNECTIONS.1));
        Self { zone: ArcSwap::default(), forwarder: Arc::default(), counters, crowd }
    }

    /// Answers datagrams that arrive at the router's address `listener`, until the socket breaks.
    pub async fn serve_udp(self: Arc<Self>, listener: IpAddr, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error about an earlier answer.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            match self.consider(listener, from, &buffer[..length], Question::datagram) {
                Next::Nothing => {}
                Next::Say(bytes) => send(&socket, &bytes, from).await,
                Next::Ask(question) => {
                    let (this, socket) = (self.clone(), socket.clone());
                    tokio::spawn(async move {
                        let limit = question.datagram();
                        if let Some(bytes) = this.ask(question, from, limit).await {
                            send(&socket, &bytes, from).await;
                        }
                    });
                }
            }
        }
    }

    /// Answers connections to the router's address `listener`, until the socket breaks.
    pub async fn serve_tcp(self: Arc<Self>, listener: IpAddr, socket: TcpListener) -> io::Result<()> {
        loop {
            let (stream, from) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(place) = self.crowd.enter(from.ip()) else {
                count(&self.counters.connections_refused);
                continue;
            };
            let this = self.clone();
            tokio::spawn(async move {
                let _place = place;
                // A guest that breaks off its own connection is nobody's trouble.
                let _ = this.converse(listener, from, stream).await;
            });
        }
    }

    async fn converse(&self, listener: IpAddr, from: SocketAddr, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        for _ in 0..QUESTIONS {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut bytes = vec![0; length.into()];
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let answer = match self.consider(listener, from, &bytes, |_| LONGEST_STREAMED) {
                Next::Nothing => return Ok(()),
                Next::Say(bytes) => bytes,
                Next::Ask(question) => match self.ask(question, from, LONGEST_STREAMED).await {
                    Some(bytes) => bytes,
                    None => return Ok(()),
                },
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())).await??;
        }
        Ok(())
    }

    /// Everything that needs nobody else: strangers, malformed questions, local names, the cache.
    fn consider(
        &self,
        listener: IpAddr,
        from: SocketAddr,
        bytes: &[u8],
        limit: impl Fn(&Question) -> usize,
    ) -> Next {
        count(&self.counters.dns_queries);
        let zone = self.zone.load();
        let asker = from.ip();
        if !zone.serves(listener, asker) {
            count(&self.counters.dns_refused);
            return Next::Nothing;
        }
        let question = match query::read(bytes) {
            Read::Question(question) => question,
            Read::Refuse(bytes) => {
                count(&self.counters.dns_refused);
                return Next::Say(bytes);
            }
            Read::Drop => {
                count(&self.counters.dns_refused);
                return Next::Nothing;
            }
        };
        let name = question.query.name();
        let answer = match zone.look_up(name, question.query.query_type(), asker) {
            Local::Found(data) => Answer::local(name, data),
            Local::Empty => Answer::empty(ResponseCode::NoError, true),
            Local::Absent => Answer::empty(ResponseCode::NXDomain, true),
            Local::Elsewhere => match self.forwarder.cached(&question) {
                Some(answer) => {
                    count(&self.counters.dns_cached);
                    let limit = limit(&question);
                    return question.render(answer, limit).map_or(Next::Nothing, Next::Say);
                }
                None if question.recurse => return Next::Ask(question),
                None => {
                    count(&self.counters.dns_refused);
                    let refused = Answer::empty(ResponseCode::Refused, false);
                    return question.render(refused, limit(&question)).map_or(Next::Nothing, Next::Say);
                }
            },
        };
        count(&self.counters.dns_local);
        let limit = limit(&question);
        question.render(answer, limit).map_or(Next::Nothing, Next::Say)
    }

    /// The answer of upstreams, or that there is none.
    async fn ask(&self, question: Question, from: SocketAddr, limit: usize) -> Option<Vec<u8>> {
        let upstreams = self.zone.load().upstreams().to_vec();
        let answer = match self.forwarder.resolve(&upstreams, &question, from.ip()).await {
            Resolved::Answer(answer) => answer,
            Resolved::Failed | Resolved::Busy => {
                count(&self.counters.dns_failed);
                Answer::empty(ResponseCode::ServFail, false)
            }
        };
        question.render(answer, limit)
    }
}

/// A datagram that cannot be sent is lost like any other; the guest asks again.
async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%to, %error, "answer not sent");
    }
}
