//! One question to one upstream.
//!
//! Whoever wants to slip in a false answer has to guess, all at once, the port that the question left
//! from, its identification, and the spelling of the name, each letter of which is upper or lower case
//! by chance. Where an answer comes that does not quite fit, the question is repeated over TCP; there
//! nobody slips anything in, and upstreams that do not keep the spelling are understood too.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::Name,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::query::{DATAGRAM, Question};

/// Time for an answer to a datagram.
const DATAGRAM_LIMIT: Duration = Duration::from_millis(1200);
/// How often a datagram is sent.
const DATAGRAMS: usize = 2;
/// Datagrams that do not fit before TCP is used.
const MISFITS: usize = 3;

/// What an upstream said: the bytes, and the same read.
pub type Said = (Vec<u8>, Message);

/// Why an upstream said nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The network, or no answer in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The question cannot be put into bytes.
    #[error("The question cannot be asked: {0}")]
    Question(#[from] hickory_proto::ProtoError),
    /// What came over TCP is no answer to the question.
    #[error("The upstream gave another answer than asked for")]
    Misfit,
}

/// What came in a datagram.
enum Datagram {
    Answer(Said),
    /// The answer is too long, or somebody else answers too.
    AskOverTcp,
}

/// Asks `upstream`, over UDP and where needed over TCP. The caller bounds the time of the whole.
///
/// # Errors
/// Where no fitting answer comes.
pub async fn ask(upstream: SocketAddr, question: &Question) -> Result<Said, Failure> {
    let (message, bytes) = compose(question)?;
    for _ in 0..DATAGRAMS {
        match timeout(DATAGRAM_LIMIT, over_udp(upstream, &message, &bytes)).await {
            Ok(Ok(Datagram::Answer(said))) => return Ok(said),
            Ok(Ok(Datagram::AskOverTcp)) => return over_tcp(upstream, &message, &bytes).await,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut).into())
}

/// The question as the upstream gets it.
///
/// # Errors
/// Where it cannot be put into bytes.
pub fn compose(question: &Question) -> Result<(Message, Vec<u8>), hickory_proto::ProtoError> {
    let mut name: Name = question.query.name().clone();
    name.randomize_label_case();
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = question.unchecked;
    message.add_query(Query::query(name, question.query.query_type()));
    let mut edns = Edns::new();
    let signatures = question.edns.is_some_and(|(_, signatures)| signatures);
    edns.set_max_payload(DATAGRAM).set_dnssec_ok(signatures);
    message.set_edns(edns);
    let bytes = message.to_vec()?;
    Ok((message, bytes))
}

/// The kernel takes a source port by chance for each socket, and a connected socket takes datagrams of
/// the upstream alone.
async fn over_udp(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Datagram> {
    let any = match upstream {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(DATAGRAM) + 1];
    for _ in 0..MISFITS {
        let length = socket.recv(&mut buffer).await?;
        let Some(message) = fitting(asked, &buffer[..length]) else { continue };
        let cut = message.metadata.truncation || length > usize::from(DATAGRAM);
        if cut || !same_spelling(asked, &message) {
            return Ok(Datagram::AskOverTcp);
        }
        return Ok(Datagram::Answer((buffer[..length].to_vec(), message)));
    }
    Ok(Datagram::AskOverTcp)
}

async fn over_tcp(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> Result<Said, Failure> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    let message = fitting(asked, &buffer).ok_or(Failure::Misfit)?;
    Ok((buffer, message))
}

/// Reads an answer if it is one to this question.
pub fn fitting(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let same = message.metadata.id == asked.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query;
    // Queries are compared in any spelling.
    (same && message.queries == asked.queries).then_some(message)
}

fn same_spelling(asked: &Message, message: &Message) -> bool {
    asked.queries.iter().zip(&message.queries).all(|(a, b)| a.name().eq_case(b.name()))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RData, Record, RecordType, rdata::A};
    use tokio::net::TcpListener;

    use super::*;

    fn question() -> Question {
        let query = Query::query("some-longer-name.example.".parse().unwrap(), RecordType::A);
        Question { query, id: 1, recurse: true, unchecked: true, edns: Some((1232, true)) }
    }

    fn answer(bytes: &[u8], last: u8) -> Message {
        let mut message = Message::from_vec(bytes).unwrap().into_response();
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last))));
        message
    }

    /// An upstream: a UDP and a TCP socket on one port.
    async fn upstream() -> (SocketAddr, UdpSocket, TcpListener) {
        loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(address).await {
                return (address, udp, tcp);
            }
        }
    }

    async fn answer_over_tcp(tcp: &TcpListener, change: impl FnOnce(&mut Message)) {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut bytes).await.unwrap();
        let mut message = answer(&bytes, 7);
        change(&mut message);
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }

    fn last_octet(said: &Said) -> u8 {
        match said.1.answers[0].data {
            RData::A(a) => a.octets()[3],
            ref other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_right_answer_is_taken() {
        let (address, udp, _tcp) = upstream().await;
        let server = async {
            let mut buffer = [0; 1500];
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            assert!(asked.metadata.recursion_desired && asked.metadata.checking_disabled);
            assert!(asked.edns.as_ref().unwrap().flags().dnssec_ok);
            assert_ne!(asked.queries[0].name().to_ascii(), "some-longer-name.example.", "spelling by chance");
            udp.send_to(&answer(&buffer[..length], 1).to_vec().unwrap(), from).await.unwrap();
        };
        let asked = question();
        let (said, ()) = tokio::join!(ask(address, &asked), server);
        assert_eq!(last_octet(&said.unwrap()), 1);
    }

    #[tokio::test]
    async fn false_answers_are_not_taken_and_lead_to_tcp() {
        let (address, udp, tcp) = upstream().await;
        let server = async {
            let mut buffer = [0; 1500];
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let good = answer(&buffer[..length], 66);
            let mut other_id = good.clone();
            other_id.metadata.id ^= 1;
            let mut other_name = good.clone();
            other_name.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
            let mut a_query = good.clone();
            a_query.metadata.message_type = MessageType::Query;
            for misfit in [other_id, other_name, a_query] {
                udp.send_to(&misfit.to_vec().unwrap(), from).await.unwrap();
            }
            answer_over_tcp(&tcp, |_| ()).await;
        };
        let asked = question();
        let (said, ()) = tokio::join!(ask(address, &asked), server);
        assert_eq!(last_octet(&said.unwrap()), 7);
    }

    #[tokio::test]
    async fn an_upstream_that_changes_the_spelling_is_asked_over_tcp() {
        let (address, udp, tcp) = upstream().await;
        let plain = |m: &mut Message| {
            let name = m.queries[0].name().to_lowercase();
            m.queries[0].set_name(name);
        };
        let server = async {
            let mut buffer = [0; 1500];
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let mut changed = answer(&buffer[..length], 66);
            plain(&mut changed);
            udp.send_to(&changed.to_vec().unwrap(), from).await.unwrap();
            answer_over_tcp(&tcp, plain).await;
        };
        let asked = question();
        let (said, ()) = tokio::join!(ask(address, &asked), server);
        assert_eq!(last_octet(&said.unwrap()), 7);
    }

    #[tokio::test]
    async fn a_cut_answer_is_asked_for_over_tcp_and_checked_there_too() {
        for change in [false, true] {
            let (address, udp, tcp) = upstream().await;
            let server = async {
                let mut buffer = [0; 1500];
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let cut = answer(&buffer[..length], 1).truncate();
                udp.send_to(&cut.to_vec().unwrap(), from).await.unwrap();
                answer_over_tcp(&tcp, |m| m.metadata.id ^= u16::from(change)).await;
            };
            let asked = question();
            let (said, ()) = tokio::join!(ask(address, &asked), server);
            assert_eq!(matches!(said, Err(Failure::Misfit)), change);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_seen_at_once() {
        let (address, udp, tcp) = upstream().await;
        drop((udp, tcp));
        assert!(matches!(ask(address, &question()).await, Err(Failure::Io(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_taken_or_not(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600),
            cut in 0..80_usize,
        ) {
            let (asked, sent) = compose(&question()).unwrap();
            proptest::prop_assert!(fitting(&asked, &bytes).is_none(), "no answer by chance");
            // The question itself with its end changed: never an answer to it.
            let kept = sent.len().saturating_sub(cut);
            let _ = fitting(&asked, &[&sent[..kept], &bytes[..]].concat());
        }
    }
}
