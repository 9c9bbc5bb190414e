//! A guest's question, and how answers to it are put into bytes.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

/// What fits into a datagram without EDNS, bytes (RFC 1035 4.2.1).
const PLAIN: usize = 512;
/// What is sent in a datagram at most, bytes: more would be cut into fragments somewhere.
pub const DATAGRAM: u16 = 1232;
/// Bytes of a DNS header.
const HEADER: usize = 12;

/// A question of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked, as the guest spelled it.
    pub query: Query,
    /// Its identification, echoed.
    pub id: u16,
    /// Whether the guest wants others to be asked.
    pub recurse: bool,
    /// Whether the guest checks signatures itself (CD).
    pub unchecked: bool,
    /// What the guest said with EDNS: its datagram size in bytes and whether it wants signatures (DO).
    pub edns: Option<(u16, bool)>,
}

/// What is done with bytes that a guest sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A question.
    Question(Question),
    /// Answered at once with these bytes: it cannot be served.
    Refuse(Vec<u8>),
    /// Not answered: not a question at all.
    Drop,
}

/// Reads what a guest sent.
pub fn read(bytes: &[u8]) -> Read {
    let [high, low, flags, ..] = *bytes else { return Read::Drop };
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Read::Drop;
    }
    let refuse = |code: ResponseCode| {
        let id = u16::from_be_bytes([high, low]);
        let error = Message::error_msg(id, OpCode::from_u8(flags >> 3 & 0x0f), code);
        error.to_vec().map_or(Read::Drop, Read::Refuse)
    };
    if OpCode::from_u8(flags >> 3 & 0x0f) != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let (Some(query), true) = (message.queries.pop(), message.queries.is_empty()) else {
        return refuse(ResponseCode::FormErr);
    };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::OPT);
    if query.query_class() != DNSClass::IN || transfer {
        return refuse(ResponseCode::Refused);
    }
    if message.version() != 0 {
        return refuse_version(message.metadata.id, query);
    }
    Read::Question(Question {
        query,
        id: message.metadata.id,
        recurse: message.metadata.recursion_desired,
        unchecked: message.metadata.checking_disabled,
        edns: message.edns.map(|e| (e.max_payload(), e.flags().dnssec_ok)),
    })
}

/// RFC 6891 6.1.3.
fn refuse_version(id: u16, query: Query) -> Read {
    let mut message = Message::error_msg(id, OpCode::Query, ResponseCode::BADVERS);
    message.add_query(query);
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM);
    message.set_edns(edns);
    message.to_vec().map_or(Read::Drop, Read::Refuse)
}

/// What is said to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// Whether this router is the authority.
    pub authoritative: bool,
    /// The three sections of records.
    pub answers: Vec<Record>,
    /// Of whose authority the answer is.
    pub authorities: Vec<Record>,
    /// What else may be of use.
    pub additionals: Vec<Record>,
}

impl Answer {
    /// An answer without records.
    pub fn empty(code: ResponseCode, authoritative: bool) -> Self {
        Self { code, authoritative, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }

    /// An answer from the local names: TTL 0, so that a change is seen at once.
    pub fn local(name: &Name, data: Vec<RData>) -> Self {
        let answers = data.into_iter().map(|d| Record::from_rdata(name.clone(), 0, d)).collect();
        Self { answers, ..Self::empty(ResponseCode::NoError, true) }
    }
}

impl Question {
    /// The largest answer that the guest takes in a datagram, bytes.
    pub fn datagram(&self) -> usize {
        self.edns.map_or(PLAIN, |(size, _)| usize::from(size.min(DATAGRAM)).max(PLAIN))
    }

    /// The bytes of an answer of at most `limit` bytes. One that is longer says only that it was cut
    /// short, and the guest asks again over TCP. `None` where a record cannot be put into bytes.
    pub fn render(&self, answer: Answer, limit: usize) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = answer.authoritative;
        message.metadata.recursion_desired = self.recurse;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.unchecked;
        message.metadata.response_code = answer.code;
        message.add_query(self.query.clone());
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        if let Some((_, signatures)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM).set_dnssec_ok(signatures);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit { Some(bytes) } else { message.truncate().to_vec().ok() }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, TXT};
    use proptest::prelude::*;

    use super::*;

    fn ask(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::new(0xabcd, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii("Web.example.").unwrap(), RecordType::A));
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn question(bytes: &[u8]) -> Question {
        match read(bytes) {
            Read::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn refused(bytes: &[u8]) -> ResponseCode {
        match read(bytes) {
            Read::Refuse(bytes) => {
                let message = Message::from_vec(&bytes).unwrap();
                assert_eq!(
                    (message.metadata.id, message.metadata.message_type),
                    (0xabcd, MessageType::Response)
                );
                message.metadata.response_code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_echoes_the_question_as_spelled() {
        let asked = question(&ask(|_| ()));
        let records = vec![RData::A(A::new(10, 1, 1, 10))];
        let bytes = asked.render(Answer::local(asked.query.name(), records), asked.datagram()).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        let m = answer.metadata;
        assert_eq!(
            (m.id, m.authoritative, m.recursion_desired, m.recursion_available),
            (0xabcd, true, true, true)
        );
        assert_eq!(answer.queries[0].name().to_ascii(), "Web.example.");
        assert_eq!((answer.answers.len(), answer.answers[0].ttl), (1, 0));
        assert!(answer.edns.is_none());
    }

    #[test]
    fn an_answer_is_as_long_as_the_guest_takes() {
        let plain = question(&ask(|_| ()));
        assert_eq!(plain.datagram(), 512);
        let edns = question(&ask(|m| {
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_dnssec_ok(true);
            m.set_edns(edns);
        }));
        assert_eq!((edns.datagram(), edns.edns), (1232, Some((4096, true))));
        let text = || vec![RData::TXT(TXT::new(vec!["x".repeat(200); 4]))];
        let cut = |q: &Question| {
            let bytes = q.render(Answer::local(q.query.name(), text()), q.datagram()).unwrap();
            assert!(bytes.len() <= q.datagram());
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.edns.is_some(), q.edns.is_some());
            message.metadata.truncation
        };
        assert!(cut(&plain));
        assert!(!cut(&edns));
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_code_for_it() {
        assert_eq!(refused(&ask(|m| m.metadata.op_code = OpCode::Status)), ResponseCode::NotImp);
        assert_eq!(refused(&ask(|m| m.queries.clear())), ResponseCode::FormErr);
        let twice = ask(|m| {
            let again = m.queries[0].clone();
            m.add_query(again);
        });
        assert_eq!(refused(&twice), ResponseCode::FormErr);
        let chaos = ask(|m| {
            m.queries[0].set_query_class(DNSClass::CH);
        });
        assert_eq!(refused(&chaos), ResponseCode::Refused);
        let transfer = ask(|m| {
            m.queries[0].set_query_type(RecordType::AXFR);
        });
        assert_eq!(refused(&transfer), ResponseCode::Refused);
        let cut = ask(|_| ());
        assert_eq!(refused(&cut[..cut.len() - 3]), ResponseCode::FormErr);
        let future = ask(|m| {
            let mut edns = Edns::new();
            edns.set_version(1);
            m.set_edns(edns);
        });
        assert_eq!(u16::from(refused(&future)), u16::from(ResponseCode::BADVERS));
    }

    #[test]
    fn what_is_no_question_is_dropped() {
        assert_eq!(read(b"short"), Read::Drop);
        assert_eq!(read(&ask(|m| m.metadata.message_type = MessageType::Response)), Read::Drop);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_briefly(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Read::Refuse(answer) = read(&bytes) {
                prop_assert!(answer.len() <= 12 + 300);
            }
        }

        /// A right header, then anything.
        #[test]
        fn any_sections_are_read_or_refused_briefly(
            counts in proptest::array::uniform8(0_u8..3),
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = vec![1, 2, 1, 0];
            bytes.extend(counts.iter().enumerate().map(|(i, c)| if i % 2 == 0 { 0 } else { *c }));
            bytes.extend(rest);
            if let Read::Question(question) = read(&bytes) {
                let answer = Answer::empty(ResponseCode::NXDomain, true);
                prop_assert!(question.render(answer, 512).is_none_or(|b| b.len() <= 512));
            }
        }
    }
}
