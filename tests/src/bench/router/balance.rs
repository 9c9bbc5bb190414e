//! What balanced connections notice of rules that come and go.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    super::{Figure, Floor},
    changes::milliseconds,
    documents,
    lab::Lab,
    probe::{Probe, connect, echo, say},
};

/// Connections that last.
const LASTING: usize = 200;
/// Rules that come and go again, one by one.
const RULES: u16 = 12;
/// Time between two new connections.
const PACE: Duration = Duration::from_millis(1);
const FRONT: &str = "203.0.113.10:80";

/// A document with the rule of port 80 and so many others.
fn document(others: u16) -> String {
    let mut lines = vec!["global".to_owned(), "\tmaxconn 4096".to_owned(), "defaults".to_owned()];
    lines.push("\tmode tcp".to_owned());
    for port in std::iter::once(80).chain(8000..8000 + others) {
        lines.push(format!("listen 203_0_113_10-{port}"));
        lines.push(format!("\tbind 203.0.113.10:{port}"));
        lines.push("\tbalance roundrobin".to_owned());
        lines.push(format!("\tserver 203_0_113_10-{port}_0 10.1.0.20:7 check"));
    }
    format!(
        r#"{{"rules":[{{"configuration":{},"ssl_certs":[],"add_rules":[],"remove_rules":[],"stat_rules":[],"router_ip":"169.254.10.20"}}],"type":"loadbalancer","delete_from_processed_cache":false}}"#,
        serde_json::json!(lines)
    )
}

/// Adds and removes rules; counts connections that were lost, of those that last and of new ones.
pub(super) fn run() {
    let lab = Lab::isolated();
    echo(&lab.guest, "10.1.0.20:7");
    lab.bundle(&[
        ("ip_associations", documents::addresses(2)),
        ("firewall_rules", documents::open(1, "203.0.113.10", "tcp", (1, 65535))),
        ("load_balancer", document(0)),
    ]);
    let begin = || {
        let mut stream = connect(FRONT)?;
        say(&mut stream).map(|()| stream)
    };
    let mut lasting: Vec<TcpStream> =
        lab.outside.inside(|| (0..LASTING).map(|_| begin()).collect::<Result<_, _>>()).expect("connections");
    let stop = Arc::new(AtomicBool::new(false));
    let new = Probe::start("lb_new", &lab.outside, (&stop, PACE), || move || connect(FRONT).map(drop));
    let (mut took, mut broken) = (vec![], 0);
    for others in (1..=RULES).chain((0..RULES).rev()) {
        took.push(milliseconds(lab.apply(&[lab.place("load_balancer", &document(others))])));
        let before = lasting.len();
        lasting.retain_mut(|stream| say(stream).is_ok());
        broken += before - lasting.len();
    }
    stop.store(true, Ordering::Relaxed);
    let (tried, refused) = new.end();
    println!(
        "# {} rules added and removed, {tried} new connections, {broken} of {LASTING} broken",
        took.len()
    );
    let lost = f64::from(refused) + broken as f64;
    Figure::host("lb_reload", "connections", vec![lost], Some(Floor::AtMost(0.0))).print();
    Figure::host("lb_reload_change", "ms", took, None).print();
}
