//! What upstreams said, for as long as they allow.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::query::{Answer, Question};

/// How many answers are kept.
const ENTRIES: usize = 8192;
/// The longest answer that is kept, bytes; with [`ENTRIES`] this bounds the memory.
const LONGEST: usize = 2048;
/// The longest time for which an answer is kept, however long its TTL.
const LONGEST_TTL: u32 = 86_400;
/// The longest time for which "there is no such thing" is kept (RFC 2308 5 allows up to three hours).
const LONGEST_NEGATIVE_TTL: u32 = 900;

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    kind: RecordType,
    signatures: bool,
    unchecked: bool,
}

impl Key {
    /// The key of a question.
    pub fn of(question: &Question) -> Self {
        Self {
            name: question.query.name().to_lowercase(),
            kind: question.query.query_type(),
            signatures: question.edns.is_some_and(|(_, signatures)| signatures),
            unchecked: question.unchecked,
        }
    }
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    since: Instant,
    until: Instant,
}

/// The answers, the oldest ones given up for new ones.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
}

impl Cache {
    /// What was said to a question, its TTLs shortened by its age.
    pub fn find(&self, key: &Key, now: Instant) -> Option<Answer> {
        let entry = self.entries.get(key).filter(|e| now < e.until)?;
        let age = now.saturating_duration_since(entry.since).as_secs();
        let mut answer = answer_of(Message::from_vec(&entry.bytes).ok()?);
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            record.decrement_ttl(u32::try_from(age).unwrap_or(u32::MAX));
        }
        Some(answer)
    }

    /// Keeps what an upstream said (`bytes` as they came, `message` the same read), if it may be kept.
    pub fn keep(&mut self, key: Key, bytes: &[u8], message: &Message, now: Instant) {
        let ttl = time_to_live(message);
        if ttl == 0 || bytes.len() > LONGEST {
            return;
        }
        let entry = Entry { bytes: bytes.into(), since: now, until: now + Duration::from_secs(ttl.into()) };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > ENTRIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// How many answers are held, those past their time included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What of an upstream's message goes to guests.
pub fn answer_of(message: Message) -> Answer {
    Answer {
        code: message.metadata.response_code,
        authoritative: false,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }
}

/// For how many seconds a message may be kept; 0: not at all (RFC 2308 5).
fn time_to_live(message: &Message) -> u32 {
    let least = message.all_sections().map(|r| r.ttl).min();
    let negative = message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain;
    match message.metadata.response_code {
        _ if message.metadata.truncation => 0,
        ResponseCode::NoError | ResponseCode::NXDomain if negative => {
            let minimum = message.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
                _ => None,
            });
            minimum.min(least).unwrap_or(0).min(LONGEST_NEGATIVE_TTL)
        }
        ResponseCode::NoError => least.unwrap_or(0).min(LONGEST_TTL),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{MessageType, OpCode, Query},
        rr::{
            Record,
            rdata::{A, SOA},
        },
    };

    use super::*;

    fn question(name: &str) -> Question {
        let query = Query::query(name.parse().unwrap(), RecordType::A);
        Question { query, id: 1, recurse: true, unchecked: false, edns: None }
    }

    fn said(code: ResponseCode, ttls: &[u32], soa: Option<(u32, u32)>) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        let name: Name = "www.example.".parse().unwrap();
        for ttl in ttls {
            message.add_answer(Record::from_rdata(name.clone(), *ttl, RData::A(A::new(192, 0, 2, 1))));
        }
        if let Some((ttl, minimum)) = soa {
            let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, minimum);
            message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
        }
        message
    }

    fn kept(message: &Message) -> (Cache, Key, Instant) {
        let (mut cache, key, now) = (Cache::default(), Key::of(&question("WWW.example.")), Instant::now());
        cache.keep(key.clone(), &message.to_vec().unwrap(), message, now);
        (cache, key, now)
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let (cache, _, now) = kept(&said(ResponseCode::NoError, &[300, 60], None));
        let key = Key::of(&question("www.EXAMPLE."));
        let later = cache.find(&key, now + Duration::from_secs(59)).unwrap();
        assert_eq!(later.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [241, 1]);
        assert_eq!(cache.find(&key, now + Duration::from_secs(60)), None);
    }

    #[test]
    fn other_flags_are_another_question() {
        let (cache, _, now) = kept(&said(ResponseCode::NoError, &[300], None));
        let mut signed = question("www.example.");
        signed.edns = Some((1232, true));
        assert_eq!(cache.find(&Key::of(&signed), now), None);
        let mut unchecked = question("www.example.");
        unchecked.unchecked = true;
        assert_eq!(cache.find(&Key::of(&unchecked), now), None);
    }

    #[test]
    fn absence_is_kept_as_long_as_the_zone_says() {
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let (cache, key, now) = kept(&said(code, &[], Some((600, 120))));
            assert_eq!(cache.find(&key, now + Duration::from_secs(119)).unwrap().code, code);
            assert_eq!(cache.find(&key, now + Duration::from_secs(120)), None);
            let (cache, key, now) = kept(&said(code, &[], Some((86_400, 86_400))));
            assert_eq!(cache.find(&key, now + Duration::from_secs(900)), None);
        }
    }

    #[test]
    fn what_may_not_be_kept_is_not() {
        let cut = {
            let mut message = said(ResponseCode::NoError, &[300], None);
            message.metadata.truncation = true;
            message
        };
        let none = [
            said(ResponseCode::ServFail, &[300], None),
            said(ResponseCode::NoError, &[300, 0], None),
            said(ResponseCode::NXDomain, &[], None),
            said(ResponseCode::NoError, &vec![300; 200], None),
            cut,
        ];
        for message in none {
            assert!(kept(&message).0.is_empty());
        }
    }

    #[test]
    fn the_cache_has_a_bound() {
        let message = said(ResponseCode::NoError, &[300], None);
        let bytes = message.to_vec().unwrap();
        let (mut cache, now) = (Cache::default(), Instant::now());
        for i in 0..ENTRIES + 10 {
            cache.keep(Key::of(&question(&format!("h{i}.example."))), &bytes, &message, now);
        }
        assert_eq!(cache.len(), ENTRIES);
        assert_eq!(cache.find(&Key::of(&question("h9.example.")), now), None);
        assert!(cache.find(&Key::of(&question("h10.example.")), now).is_some());
    }
}
