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

    /// An admitted session has ended.
    pub fn ended(&self, end: End, down: u64, up: u64) {
        self.open.dec();
        self.ended.get_or_create(&label("cause", end.label())).inc();
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
