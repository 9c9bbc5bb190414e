//! What an operator would ask of the consoles, counted.

use common::metrics::{
    Metrics,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::end::End;

type Labels = Vec<(String, String)>;

/// The counters of the serve process; clones share them.
#[derive(Debug, Clone)]
pub struct Counters {
    metrics: Metrics,
    open: Gauge,
    opened: Counter,
    handshake: Histogram,
    age: Histogram,
    ended: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    bytes: Family<Labels, Counter>,
    turned_away: Family<Labels, Counter>,
}

impl Default for Counters {
    fn default() -> Self {
        let metrics = Metrics::new();
        Self {
            open: metrics.gauge("console_sessions", "Console sessions that are open"),
            opened: metrics.counter("console_opened", "Console sessions whose screen was shown"),
            handshake: metrics
                .latency("console_handshake_seconds", "From the websocket to the first picture"),
            age: metrics.register(
                "console_session_seconds",
                "How long ended sessions lasted",
                Histogram::new([1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0]),
            ),
            ended: metrics.counters("console_ended", "Ended console sessions, by cause"),
            refused: metrics.counters("console_refused", "Refused console requests, by reason"),
            bytes: metrics.counters("console_bytes", "Bytes carried, by direction"),
            turned_away: metrics
                .counters("connections_turned_away", "Connections that were not served, by reason"),
            metrics,
        }
    }
}

fn label(name: &str, value: &str) -> Labels {
    vec![(name.to_owned(), value.to_owned())]
}

impl Counters {
    /// A session was admitted.
    pub fn entered(&self) {
        self.open.inc();
    }

    /// Its screen is shown; `seconds` since the websocket opened.
    pub fn shown(&self, seconds: f64) {
        self.opened.inc();
        self.handshake.observe(seconds);
    }

    /// An admitted session has ended, after so many seconds.
    pub fn ended(&self, end: End, seconds: f64) {
        self.open.dec();
        self.age.observe(seconds);
        self.ended.get_or_create(&label("cause", end.label())).inc();
    }

    /// Bytes were carried.
    pub fn carried(&self, down: u64, up: u64) {
        self.bytes.get_or_create(&label("direction", "down")).inc_by(down);
        self.bytes.get_or_create(&label("direction", "up")).inc_by(up);
    }

    /// A console was refused.
    pub fn refused(&self, reason: &str) {
        self.refused.get_or_create(&label("reason", reason)).inc();
    }

    /// A connection was not served.
    pub fn turned_away(&self, reason: &str) {
        self.turned_away.get_or_create(&label("reason", reason)).inc();
    }

    /// All of them as Prometheus text.
    pub fn text(&self) -> String {
        self.metrics.text()
    }
}
