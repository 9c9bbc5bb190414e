//! What charon says of other sites: which are connected, and why one is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use super::vici::Message;

/// Most connections of charon whose other end is remembered.
const NUMBERS: usize = 4096;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has begun.
    Begun,
    /// It is established, for so many seconds.
    Established(u64),
}

/// What there is of another site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// How far it has come: the furthest, where there are several; `None` where nothing has begun.
    pub stage: Option<Stage>,
    /// Names of children that carry packets.
    pub children: BTreeSet<String>,
    /// Bytes that came out of the tunnel, and that went into it.
    pub bytes: (u64, u64),
}

impl Peer {
    /// Whether it is connected.
    pub const fn is_up(&self) -> bool {
        matches!(self.stage, Some(Stage::Established(_)))
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Other sites by the address of their gateway.
    pub peers: BTreeMap<Ipv4Addr, Peer>,
    /// Names of connections that have something established, or on its way.
    pub alive: BTreeSet<String>,
    /// Clients that are connected.
    pub clients: Vec<ReportedClient>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedClient {
    /// charon's number of its connection.
    pub number: String,
    /// The user, or what the client says to be before its user is known.
    pub user: String,
    /// Where it comes from.
    pub from: String,
}

impl Report {
    /// Reads what charon lists.
    pub fn read(list: &[Message]) -> Self {
        let mut report = Self::default();
        for (name, connection) in list.iter().flat_map(Message::sections) {
            report.alive.insert(name.to_owned());
            if name.starts_with("remote-") && connection.str("state") == Some("ESTABLISHED") {
                let of = |name: &str| connection.str(name).unwrap_or_default().to_owned();
                let user = connection.str("remote-eap-id").map_or_else(|| of("remote-id"), str::to_owned);
                report.clients.push(ReportedClient { number: of("uniqueid"), user, from: of("remote-host") });
            }
            let Some(peer) = peer_of(name) else { continue };
            let peer = report.peers.entry(peer).or_default();
            let number = |of: &Message, name: &str| of.str(name).and_then(|n| n.parse().ok()).unwrap_or(0);
            let stage = match connection.str("state") {
                Some("ESTABLISHED" | "REKEYING" | "REKEYED") => {
                    Some(Stage::Established(number(connection, "established")))
                }
                Some("CREATED" | "CONNECTING") => Some(Stage::Begun),
                _ => None,
            };
            peer.stage = peer.stage.max(stage);
            for (_, child) in connection.sub("child-sas").into_iter().flat_map(Message::sections) {
                if matches!(child.str("state"), Some("INSTALLED" | "REKEYING" | "UPDATING")) {
                    peer.children.extend(child.str("name").map(str::to_owned));
                    peer.bytes.0 += number(child, "bytes-in");
                    peer.bytes.1 += number(child, "bytes-out");
                }
            }
        }
        report
    }
}

/// The gateway in the name of a connection, `site-198.51.100.9-3fa2b1c0`.
pub(super) fn peer_of(name: &str) -> Option<Ipv4Addr> {
    name.strip_prefix("site-")?.rsplit_once('-')?.0.parse().ok()
}

/// Why a connection does not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What the other side says proves another secret.
    Secret,
    /// The other side does not believe us.
    Refused,
    /// No proposal is common to both.
    Proposal,
    /// The other side is somebody else than the document says.
    Identity,
    /// The networks differ.
    Networks,
    /// There is no answer.
    Silent,
    /// Versions or addresses differ: there is no connection for what the other side begins.
    Unmatched,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "the secrets of both sides differ",
            Self::Refused => {
                "the other side does not believe who we are: its secret or its identity for us is another one"
            }
            Self::Proposal => "the policies of both sides have nothing in common",
            Self::Identity => "the identities of both sides differ: one says or expects to be somebody else",
            Self::Networks => "the networks of both sides differ",
            Self::Silent => "the other side does not answer",
            Self::Unmatched => {
                "the other side begins with a version of IKE or an address that it does not have here"
            }
        })
    }
}

/// What a line of charon's log means; most mean nothing.
fn cause(line: &str) -> Option<Cause> {
    const MEANING: [(&str, Cause); 24] = [
        ("MAC mismatched", Cause::Secret),
        ("no shared key found", Cause::Secret),
        ("HASH_V1 payload length, decryption failed", Cause::Secret),
        ("could not decrypt payloads", Cause::Secret),
        ("calculated HASH does not match", Cause::Secret),
        ("received AUTHENTICATION_FAILED", Cause::Refused),
        ("received INVALID_ID_INFORMATION", Cause::Networks),
        ("received INVALID_HASH_INFORMATION", Cause::Refused),
        ("received PAYLOAD_MALFORMED", Cause::Refused),
        ("no IKE config found", Cause::Unmatched),
        ("no matching peer config found", Cause::Identity),
        ("' does not match to '", Cause::Identity),
        ("constraint check failed: identity", Cause::Identity),
        ("constraint requires", Cause::Identity),
        ("received NO_PROPOSAL_CHOSEN", Cause::Proposal),
        ("received proposals unacceptable", Cause::Proposal),
        ("no acceptable proposal found", Cause::Proposal),
        ("no matching proposal found", Cause::Proposal),
        ("received INVALID_KE_PAYLOAD notify error", Cause::Proposal),
        ("received TS_UNACCEPTABLE", Cause::Networks),
        ("no matching CHILD_SA config found", Cause::Networks),
        ("no acceptable traffic selectors found", Cause::Networks),
        ("giving up after", Cause::Silent),
        ("peer not responding", Cause::Silent),
    ];
    MEANING.iter().find(|(text, _)| line.contains(text)).map(|(_, cause)| *cause)
}

/// Why connections do not come about, as far as charon's log has told.
#[derive(Debug, Default)]
pub struct Causes {
    known: BTreeMap<Ipv4Addr, Cause>,
    /// Sites by charon's number of the connection: only its first lines name the site.
    numbers: BTreeMap<u64, Ipv4Addr>,
}

impl Causes {
    /// Why a site is not connected.
    pub fn of(&self, peer: Ipv4Addr) -> Option<Cause> {
        self.known.get(&peer).copied()
    }

    /// Sites that something is known to be wrong with.
    pub fn peers(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.known.keys().copied()
    }

    /// A site is connected, or gone.
    pub fn clear(&mut self, peer: Ipv4Addr) {
        self.known.remove(&peer);
    }

    /// Hears a line of the log (an event `log`); tells the site and the cause where it says something new about one
    /// of the sites.
    pub fn hear(&mut self, event: &Message, is_site: impl Fn(Ipv4Addr) -> bool) -> Option<(Ipv4Addr, Cause)> {
        let line = event.str("msg")?;
        let number: Option<u64> = event.str("ikesa-uniqueid").and_then(|n| n.parse().ok());
        let named = event.str("ikesa-name").and_then(peer_of);
        let peer = named
            .or_else(|| addresses(line).find(|address| is_site(*address)))
            .or_else(|| self.numbers.get(&number?).copied())?;
        if let Some(number) = number {
            if self.numbers.len() >= NUMBERS {
                self.numbers.pop_first();
            }
            self.numbers.insert(number, peer);
        }
        let cause = cause(line).filter(|_| is_site(peer))?;
        // What is known to be wrong may also be the reason for silence.
        let before = self.known.get(&peer);
        if before == Some(&cause) || (cause == Cause::Silent && before.is_some()) {
            return None;
        }
        self.known.insert(peer, cause);
        Some((peer, cause))
    }
}

/// Addresses in a line.
fn addresses(line: &str) -> impl Iterator<Item = Ipv4Addr> {
    line.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .flat_map(|word| word.split(".."))
        .filter_map(|word| word.trim_matches('.').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

    fn line(name: &str, number: &str, text: &str) -> Message {
        Message::default().text("ikesa-name", name).text("ikesa-uniqueid", number).text("msg", text)
    }

    #[test]
    fn sites_are_told_by_the_names_of_connections() {
        let child = |name: &str, state: &str| {
            Message::default().text("name", name).text("state", state).text("bytes-in", "7")
        };
        let children = Message::default()
            .section("net-1", child("net", "INSTALLED"))
            .section("net-2-2", child("net-2", "CREATED"));
        let up = Message::default()
            .text("state", "ESTABLISHED")
            .text("established", "12")
            .section("child-sas", children);
        let begun = Message::default().text("state", "CONNECTING");
        let list = [
            Message::default().section("site-198.51.100.9-3fa2b1c0", up),
            Message::default().section("site-198.51.100.9-3fa2b1c0", begun.clone()),
            Message::default().section("site-198.51.100.10-3fa2b1c0", begun.clone()),
            Message::default().section("lab", begun),
        ];
        let report = Report::read(&list);
        let peer = &report.peers[&PEER];
        assert_eq!((peer.stage, peer.is_up()), (Some(Stage::Established(12)), true));
        assert_eq!((peer.children.len(), peer.bytes), (1, (7, 0)));
        assert!(!report.peers[&Ipv4Addr::new(198, 51, 100, 10)].is_up());
        assert_eq!((report.peers.len(), report.alive.len()), (2, 3));
    }

    #[test]
    fn lines_are_understood_and_belong_to_the_site_that_their_connection_began_with() {
        let mut causes = Causes::default();
        let site = |address| address == PEER;
        assert_eq!(causes.hear(&line("(unnamed)", "5", "198.51.100.9 is initiating an IKE_SA"), site), None);
        let heard = causes.hear(&line("(unnamed)", "5", "no matching peer config found"), site);
        assert_eq!(heard, Some((PEER, Cause::Identity)));
        let again = causes.hear(&line("(unnamed)", "5", "no matching peer config found"), site);
        assert_eq!(again, None, "once is enough");
        let text = "tried 1 shared key for '203.0.113.20' - '198.51.100.9', but MAC mismatched";
        assert_eq!(causes.hear(&line("site-198.51.100.9-0", "6", text), site), Some((PEER, Cause::Secret)));
        let text = "no IKE config found for 203.0.113.20...198.51.100.9, sending NO_PROPOSAL_CHOSEN";
        assert_eq!(causes.hear(&line("", "", text), site), Some((PEER, Cause::Unmatched)));
        assert_eq!(causes.hear(&line("", "", "giving up after 3 retransmits"), site), None, "of nobody");
        assert_eq!(causes.hear(&line("", "5", "giving up after 3 retransmits"), site), None, "more is known");
        causes.clear(PEER);
        assert_eq!(causes.of(PEER), None);
        let stranger = line("(unnamed)", "9", "192.0.2.1 is initiating an IKE_SA");
        assert_eq!(causes.hear(&stranger, site), None);
        assert_eq!(causes.hear(&line("(unnamed)", "9", "no matching peer config found"), site), None);
    }
}
