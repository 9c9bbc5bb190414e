//! Which sessions may be opened: those that management has announced, each once. Where the boot
//! arguments set a window for reconnection, a session that ended may be opened again within it, from
//! the same address for the same VM.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::wire::Open;

/// An announced session that nobody opens is forgotten after this time.
const KEPT: Duration = Duration::from_secs(600);
/// Sessions that are kept track of; the oldest give way.
const TRACKED: usize = 4096;

/// How a session may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// For the first time; management has to agree.
    Fresh,
    /// Again; management has agreed before.
    Again,
}

/// Announced and recently ended sessions. Pure: the caller brings the time.
#[derive(Debug, Default)]
pub struct Gate {
    window: Duration,
    announced: HashMap<String, Instant>,
    ended: HashMap<String, (Instant, Open)>,
}

impl Gate {
    /// `window`: for reconnection; zero for none.
    pub fn new(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    /// Management has announced a session.
    pub fn allow(&mut self, session: &str, now: Instant) {
        bound(&mut self.announced, now, KEPT, |since| *since);
        self.announced.insert(session.to_owned(), now);
    }

    /// Takes the session, if it may be opened; it cannot be taken a second time.
    pub fn take(&mut self, open: &Open, now: Instant) -> Option<Leave> {
        if let Some(since) = self.announced.remove(&open.session) {
            return (now.duration_since(since) < KEPT).then_some(Leave::Fresh);
        }
        let (since, before) = self.ended.get(&open.session)?;
        if now.duration_since(*since) >= self.window || !before.is_same_viewer(open) {
            return None;
        }
        self.ended.remove(&open.session);
        Some(Leave::Again)
    }

    /// A session has ended; says whether it may come back.
    pub fn ended(&mut self, open: Open, now: Instant) -> bool {
        if self.window.is_zero() {
            return false;
        }
        bound(&mut self.ended, now, self.window, |(since, _)| *since);
        self.ended.insert(open.session.clone(), (now, open));
        true
    }
}

/// Forgets what is older than `kept`, and the oldest where there is still no room for one more.
fn bound<T>(map: &mut HashMap<String, T>, now: Instant, kept: Duration, since: impl Fn(&T) -> Instant) {
    if map.len() < TRACKED {
        return;
    }
    map.retain(|_, value| now.duration_since(since(value)) < kept);
    if map.len() >= TRACKED
        && let Some(oldest) = map.iter().min_by_key(|(_, value)| since(value)).map(|(name, _)| name.clone())
    {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(session: &str) -> Open {
        Open {
            key: 1,
            host: "10.1.1.20".into(),
            port: 5901,
            to: ("10.1.1.20".into(), 5901),
            ask: true,
            vm: "vm".into(),
            password: "secret".into(),
            ticket: Some("t".into()),
            session: session.into(),
            client: [203, 0, 113, 7].into(),
        }
    }

    #[test]
    fn a_session_opens_once() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert_eq!(gate.take(&open("a"), now), None);
        gate.allow("a", now);
        assert_eq!(gate.take(&open("a"), now), Some(Leave::Fresh));
        assert_eq!(gate.take(&open("a"), now), None);
        assert!(!gate.ended(open("a"), now));
        assert_eq!(gate.take(&open("a"), now), None);
    }

    #[test]
    fn what_nobody_opens_is_forgotten() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        gate.allow("a", now);
        assert_eq!(gate.take(&open("a"), now + KEPT), None);
        for n in 0..2 * TRACKED {
            gate.allow(&n.to_string(), now + Duration::from_millis(n as u64));
        }
        assert_eq!(gate.announced.len(), TRACKED);
        assert_eq!(gate.take(&open("0"), now + Duration::from_secs(9)), None);
        assert!(gate.take(&open(&(2 * TRACKED - 1).to_string()), now + Duration::from_secs(9)).is_some());
    }

    #[test]
    fn within_the_window_the_same_viewer_comes_back() {
        let window = Duration::from_secs(30);
        let (mut gate, now) = (Gate::new(window), Instant::now());
        for (other, later, wanted) in [
            (Open { key: 2, ticket: None, ..open("a") }, Duration::ZERO, Some(Leave::Again)),
            (open("a"), window, None),
            (Open { client: [203, 0, 113, 8].into(), ..open("a") }, Duration::ZERO, None),
            (Open { vm: "other".into(), ..open("a") }, Duration::ZERO, None),
            (Open { port: 5902, ..open("a") }, Duration::ZERO, None),
            (open("b"), Duration::ZERO, None),
        ] {
            assert!(gate.ended(open("a"), now));
            assert_eq!(gate.take(&other, now + later), wanted, "{other:?}");
        }
        assert_eq!(gate.take(&open("a"), now), Some(Leave::Again));
        assert_eq!(gate.take(&open("a"), now), None);
    }
}
