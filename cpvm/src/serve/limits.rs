//! How much one stranger may take: connections at a time, and refused consoles in a minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Connections of all strangers together.
const CONNECTIONS: usize = 2048;
/// Connections of one address; many users may sit behind it.
const CONNECTIONS_EACH: usize = 256;
/// Refused consoles of one address within [`WINDOW`].
const FAILURES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered.
const REMEMBERED: usize = 4096;

/// Keeps count; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Limits(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    all: usize,
    connections: HashMap<IpAddr, usize>,
    failures: HashMap<IpAddr, (Instant, u32)>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    limits: Limits,
    address: IpAddr,
}

impl Limits {
    /// A place for one more connection, unless there are too many.
    pub fn place(&self, client: IpAddr) -> Option<Place> {
        let address = block(client);
        let mut inner = self.lock();
        if inner.all >= CONNECTIONS {
            return None;
        }
        let count = inner.connections.entry(address).or_default();
        if *count >= CONNECTIONS_EACH {
            return None;
        }
        *count += 1;
        inner.all += 1;
        Some(Place { limits: self.clone(), address })
    }

    /// A console was refused to this address.
    pub fn failed(&self, client: IpAddr, now: Instant) {
        let mut inner = self.lock();
        if inner.failures.len() >= REMEMBERED {
            inner.failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let address = block(client);
        if inner.failures.len() < REMEMBERED || inner.failures.contains_key(&address) {
            let (since, count) = inner.failures.entry(address).or_insert((now, 0));
            if now.duration_since(*since) >= WINDOW {
                (*since, *count) = (now, 0);
            }
            *count = count.saturating_add(1);
        }
    }

    /// Whether this address has been refused so often that it has to wait.
    pub fn must_wait(&self, client: IpAddr, now: Instant) -> bool {
        let inner = self.lock();
        let failures = inner.failures.get(&block(client));
        failures.is_some_and(|(since, count)| now.duration_since(*since) < WINDOW && *count >= FAILURES)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.limits.lock();
        inner.all -= 1;
        if let Some(count) = inner.connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inner.connections.remove(&self.address);
            }
        }
    }
}

/// What counts as one stranger: an IPv4 address, or the IPv6 network that one site has.
fn block(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let limits = Limits::default();
        let one: Vec<Place> = std::iter::from_fn(|| limits.place(address("10.0.0.1"))).collect();
        assert_eq!(one.len(), CONNECTIONS_EACH);
        assert!(limits.place(address("10.0.0.2")).is_some());
        drop(one);
        assert!(limits.place(address("10.0.0.1")).is_some());
        let all: Vec<Place> = (0..5000_u32).filter_map(|n| limits.place(IpAddr::V4(n.into()))).collect();
        assert_eq!(all.len(), CONNECTIONS);
        drop(all);
        assert!(limits.lock().connections.is_empty());
    }

    #[test]
    fn refused_tokens_of_one_site_make_it_wait() {
        let (limits, start) = (Limits::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(!limits.must_wait(address("2001:db8::2"), start));
            limits.failed(address("2001:db8::1"), start);
        }
        assert!(limits.must_wait(address("2001:db8::2"), start));
        assert!(!limits.must_wait(address("2001:db8:0:1::2"), start));
        assert!(!limits.must_wait(address("2001:db8::2"), start + WINDOW));
    }

    #[test]
    fn many_addresses_take_no_memory() {
        let (limits, start) = (Limits::default(), Instant::now());
        for n in 0..20_000_u32 {
            limits.failed(IpAddr::V4(n.into()), start);
        }
        assert_eq!(limits.lock().failures.len(), REMEMBERED);
        limits.failed(address("10.0.0.1"), start + WINDOW);
        assert_eq!(limits.lock().failures.len(), 1);
    }
}
