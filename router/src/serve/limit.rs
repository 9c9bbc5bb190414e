//! How often one of many may be answered.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// A bucket of tokens for each key: full at first, one token taken by each answer, refilled steadily.
#[derive(Debug)]
pub struct Limiter<K> {
    burst: f64,
    rate: f64,
    most: usize,
    buckets: HashMap<K, (f64, Instant)>,
}

impl<K: Hash + Eq> Limiter<K> {
    /// `burst` answers at once, `rate` in each second after that; `most` keys are watched at a time.
    pub fn new(burst: u32, rate: u32, most: usize) -> Self {
        Self { burst: burst.into(), rate: f64::from(rate.max(1)), most, buckets: HashMap::new() }
    }

    /// Whether one more answer to `key` is right `now`; counts it if so. While too many keys are
    /// busy a new one is not answered.
    pub fn allows(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&key) {
            let refilled = Duration::from_secs_f64(self.burst / self.rate);
            self.buckets.retain(|_, (_, last)| now.saturating_duration_since(*last) < refilled);
            if self.buckets.len() >= self.most {
                return false;
            }
        }
        let (tokens, last) = self.buckets.entry(key).or_insert((self.burst, now));
        let gained = now.saturating_duration_since(*last).as_secs_f64() * self.rate;
        *tokens = (*tokens + gained).min(self.burst);
        *last = now;
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let (mut limiter, start) = (Limiter::new(3, 2, 10), Instant::now());
        let passed = (0..10).filter(|_| limiter.allows("a", start)).count();
        assert_eq!(passed, 3);
        assert!(limiter.allows("b", start), "one does not spend what is another's");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| limiter.allows("a", later)).count(), 2);
    }

    #[test]
    fn few_are_watched_and_the_idle_ones_forgotten() {
        let (mut limiter, start) = (Limiter::new(2, 2, 2), Instant::now());
        assert!(limiter.allows(1, start) && limiter.allows(2, start));
        assert!(!limiter.allows(3, start));
        assert!(limiter.allows(3, start + Duration::from_secs(1)));
    }
}
