//! Counters and latencies for an operator, in the text format that Prometheus reads.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

pub use prometheus_client::{encoding, metrics};

/// The metrics of one process; clones share them. All names begin with `trivium_`.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("trivium"))))
    }

    /// A counter; `_total` is added to its name.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Latencies in seconds, from 100 µs to 100 s.
    pub fn latency(&self, name: &str, help: &str) -> Histogram {
        let bounds = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
        self.register(name, help, Histogram::new(bounds))
    }

    /// Counters told apart by labels. The caller sees to it that labels are few: no stranger may choose them.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
    {
        self.register(name, help, Family::default())
    }

    /// Any other metric.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_what_was_counted() {
        let metrics = Metrics::new();
        let counter = metrics.counter("leases", "Leases given");
        let other = metrics.clone();
        counter.inc_by(3);
        other.gauge("sessions", "Open sessions").set(7);
        metrics.latency("apply_seconds", "Time to apply").observe(0.002);
        let text = other.text();
        assert!(text.contains("trivium_leases_total 3\n"), "{text}");
        assert!(text.contains("trivium_sessions 7\n"), "{text}");
        assert!(text.contains("trivium_apply_seconds_bucket{le=\"0.003\"} 1\n"), "{text}");
    }
}
