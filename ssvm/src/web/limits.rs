//! How many connections strangers may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Connections of all together, and of one address; many users may sit behind it.
const ALL: usize = 512;
const EACH: usize = 64;

/// Keeps count; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Limits,
    address: IpAddr,
}

impl Limits {
    /// A place for one more connection, unless there are too many.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= ALL {
            return None;
        }
        let count = counts.entry(address).or_default();
        if *count >= EACH {
            return None;
        }
        *count += 1;
        Some(Place { limits: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let limits = Limits::default();
        let of = |n: u32| limits.place(IpAddr::V4(n.into()));
        let mine: Vec<Place> = std::iter::from_fn(|| of(1)).collect();
        assert_eq!(mine.len(), EACH);
        let others: Vec<Place> = (2..5000).filter_map(of).collect();
        assert_eq!(mine.len() + others.len(), ALL);
        drop((mine, others));
        assert!(limits.0.lock().unwrap().is_empty() && of(1).is_some());
    }
}
