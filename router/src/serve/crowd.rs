//! How many connections there may be at a time, in all and of one guest. With IPv6 a guest has as many addresses as it
//! likes: a network counts as one, and may have up to half of all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The connections there are.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    most_of_one: usize,
    there: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    of: IpAddr,
}

impl Crowd {
    /// At most `most` connections, and `most_of_one` from one address.
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, there: Mutex::default() }
    }

    /// A place for a connection from `of`; `None` where there is none left.
    pub fn enter(self: &Arc<Self>, of: IpAddr) -> Option<Place> {
        let (of, most_of_one) = match of {
            IpAddr::V4(_) => (of, self.most_of_one),
            IpAddr::V6(address) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
                (network.into(), self.most / 2)
            }
        };
        let mut there = self.lock();
        if there.values().sum::<usize>() >= self.most {
            return None;
        }
        let of_one = there.entry(of).or_default();
        if *of_one >= most_of_one {
            return None;
        }
        *of_one += 1;
        Some(Place { crowd: self.clone(), of })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut there = self.crowd.lock();
        if let Some(of_one) = there.get_mut(&self.of) {
            *of_one -= 1;
            if *of_one == 0 {
                there.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_and_come_back() {
        let crowd = Arc::new(Crowd::new(3, 2));
        let [a, b] = [[10, 1, 1, 10], [10, 1, 1, 20]].map(IpAddr::from);
        let first = crowd.enter(a).unwrap();
        let _second = crowd.enter(a).unwrap();
        assert!(crowd.enter(a).is_none());
        let _third = crowd.enter(b).unwrap();
        assert!(crowd.enter(b).is_none());
        drop(first);
        assert!(crowd.enter(b).is_some());
        let crowd = Arc::new(Crowd::new(4, 1));
        let of = |n: u16| crowd.enter(IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, n]));
        let places = [of(1), of(2), of(3)];
        assert_eq!(places.iter().flatten().count(), 2, "one network has half of all places");
        assert!(crowd.enter(a).is_some());
    }
}
