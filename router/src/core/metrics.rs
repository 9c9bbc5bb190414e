//! `metrics`: what an operator's monitoring wants of the router, in the text form of Prometheus. There is no port for
//! it: a router is asked by SSH, as for everything else.

use std::{fs, time::Duration};

use common::{
    metrics::{
        Metrics,
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    },
    shim::wire::Reply,
};
use tokio::sync::Mutex;

use super::engine::Engine;
use crate::{nft::run, usage};

/// Labels of a metric: addresses, NICs and words of this program only.
type Labels = Vec<(&'static str, String)>;

/// What is measured while the core runs.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Seconds from a document that has been read to the answer.
    changes: Histogram,
    /// Documents that were refused.
    refused: Counter,
}

impl Measured {
    pub(super) fn new() -> Self {
        let metrics = Metrics::new();
        Self { changes: metrics.latency("", ""), refused: Counter::default() }
    }

    /// Notes what became of a document, or of a bundle of them.
    pub(super) fn change(&self, took: Duration, refused: usize) {
        self.changes.observe(took.as_secs_f64());
        self.refused.inc_by(u64::try_from(refused).unwrap_or(u64::MAX));
    }
}

/// Everything, as it is now.
pub(super) async fn report(engine: &Mutex<Engine>, measured: &Measured) -> Reply {
    let metrics = Metrics::new();
    metrics.register("change_seconds", "Time to bring a document about", measured.changes.clone());
    metrics.register("documents_refused", "Documents that were refused", measured.refused.clone());
    let mut engine = engine.lock().await;
    engine.balancer().refresh().await;
    balanced(&metrics, &mut engine);
    let entries: Family<Labels, Gauge> = Family::default();
    for (kind, figure) in engine.figures() {
        set(&entries, vec![("kind", kind.to_owned())], figure as u64);
    }
    metrics.register("entries", "What is in force, by kind", entries);
    let serving = u64::from(*engine.handover().connected().borrow());
    set_one(&metrics, "serve_up", "Whether the part that answers guests is there", serving);
    for (name, count) in &engine.counters {
        metrics.counter(name, "Counted since the part that answers guests has started").inc_by(*count);
    }
    if let Some(pair) = &engine.network().setup().pair {
        let primary = u64::from(!engine.network().setup().is_silent());
        set_one(&metrics, "pair_primary", "Whether this router of a pair is the one in force", primary);
        let fault = u64::from(pair.role == crate::redundancy::Role::Fault);
        set_one(&metrics, "pair_fault", "Whether this router of a pair cannot be elected", fault);
    }
    let nics: Vec<String> = engine.network().view().outer().map(|nic| nic.name.clone()).collect();
    drop(engine);

    let tracked = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    set_one(&metrics, "connections", "Connections that pass or end here", tracked("count"));
    set_one(&metrics, "connections_limit", "Most connections there may be", tracked("max"));
    match run::counters().await {
        Ok(counters) => {
            let bytes: Family<Labels, Counter> = Family::default();
            for nic in &nics {
                for (figure, counter) in usage::FIGURES.iter().zip(usage::counters(nic)) {
                    let labels = vec![("nic", nic.clone()), ("figure", (*figure).to_owned())];
                    let counted = counters.get(&counter).map_or(0, |(_, bytes)| *bytes);
                    bytes.get_or_create(&labels).inc_by(counted);
                }
            }
            metrics.register("usage_bytes", "Bytes of public NICs, as they are billed", bytes);
            Reply::ok(metrics.text())
        }
        Err(error) => Reply::fail(1, error),
    }
}

/// Rules of the load balancer.
fn balanced(metrics: &Metrics, engine: &mut Engine) {
    let (current, up, servers) = <(Family<Labels, Gauge>, Family<_, _>, Family<_, _>)>::default();
    let (total, bytes) = <(Family<Labels, Counter>, Family<Labels, Counter>)>::default();
    for rule in engine.balancer().report() {
        let front = || vec![("front", rule.front.to_string())];
        let direction = |word: &str| [front(), vec![("direction", word.to_owned())]].concat();
        set(&current, front(), rule.current);
        set(&up, front(), rule.up as u64);
        set(&servers, front(), rule.servers as u64);
        total.get_or_create(&front()).inc_by(rule.count.total);
        bytes.get_or_create(&direction("received")).inc_by(rule.count.received);
        bytes.get_or_create(&direction("sent")).inc_by(rule.count.sent);
    }
    metrics.register("balance_connections", "Connections of a load balancer rule", current);
    metrics.register("balance_servers_up", "Servers of a rule that take connections", up);
    metrics.register("balance_servers", "Servers of a rule", servers);
    metrics.register("balance_accepted", "Connections of a rule since it began", total);
    metrics.register("balance_bytes", "Bytes of a rule since it began", bytes);
    let well = u64::from(engine.balancer().is_well());
    set_one(metrics, "balance_up", "Whether everything that is to be balanced is", well);
}

fn set(family: &Family<Labels, Gauge>, labels: Labels, value: u64) {
    family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn set_one(metrics: &Metrics, name: &str, help: &str, value: u64) {
    metrics.gauge(name, help).set(i64::try_from(value).unwrap_or(i64::MAX));
}
