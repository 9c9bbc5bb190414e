//! Health checks in the form of router contract 2.9, evaluated on the live state; [`machine`] has those of the
//! machine itself.

mod machine;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{paths::Paths, shim::wire::Reply};
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, sync::Mutex, time::timeout};

use super::{clock::Civil, engine::Engine};
use crate::{
    snapshot::Service,
    state::{Monitor, State},
    types::Ports,
};

/// Time for sshd to accept.
const SSH: Duration = Duration::from_secs(2);

/// What came of a check; never `Failed` where it is not certain, for that may rebuild the router.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success(String),
    Warning(String),
    Failed(String),
}

/// `filesystem_writable_check.py`.
pub(super) fn writable(paths: &Paths) -> Reply {
    let file = paths.cache().join(".writable");
    match fs::write(&file, b"").and_then(|()| fs::remove_file(&file)) {
        Ok(()) => Reply::ok(""),
        Err(error) => {
            Reply::fail(1, format_args!("Read-only file system: {}: {error}", paths.cache().display()))
        }
    }
}

/// `getRouterMonitorResults.sh`: runs all checks now.
pub(super) async fn report(paths: &Paths, engine: &Mutex<Engine>) -> String {
    let mut engine = engine.lock().await;
    let balancing = engine.balancer().is_well();
    let monitor = engine.network().state().monitor.clone();
    let serving = *engine.handover().connected().borrow();
    let failures = engine.handover().failures();
    let reached_at = engine.network().setup().ssh_address();
    let serves = engine.network().setup().kind.serves_guests();
    let state = Arc::new(engine.network().state().clone());
    drop(engine);

    let mut basic = Results::new(&monitor);
    let service = |service: Service| {
        let prefix = match service {
            Service::Dhcp => "dhcp ",
            _ => "metadata ",
        };
        match failures.iter().find(|(name, _)| name.starts_with(prefix)) {
            Some((name, why)) => Outcome::Warning(format!("socket {name} cannot be opened: {why}")),
            None if serving => Outcome::Success("service is running".to_owned()),
            None => Outcome::Warning("service is not there".to_owned()),
        }
    };
    if serves {
        basic.service("dhcp.service", service(Service::Dhcp));
        basic.service("webserver.service", service(Service::Metadata));
    }
    if !state.balance.rules.is_empty() {
        let outcome = match balancing {
            true => Outcome::Success("service is running".to_owned()),
            false => Outcome::Warning("service is not there".to_owned()),
        };
        basic.service("loadbalancing.service", outcome);
    }
    basic.service("ssh.service", ssh((reached_at, 3922).into()).await);
    let mut advanced = Results::new(&monitor);
    if monitor.enabled {
        let threshold = thresholds(&monitor);
        basic.script("cpu_usage_check.py", machine::processor(threshold("maxCpuUsage")).await);
        basic.script("disk_space_check.py", machine::disk(paths, threshold("minDiskNeeded")));
        basic.script("memory_usage_check.py", machine::memory(threshold("maxMemoryUsage")));
        basic.script("router_version_check.py", machine::version(paths, &monitor));
        if !basic.is_excluded("gateways_check.py") {
            basic.script("gateways_check.py", machine::gateways(&monitor).await);
        }
        advanced.script("dhcp_check.py", guests(&monitor, &state, "dhcp"));
        advanced.script("dns_check.py", guests(&monitor, &state, "dns"));
        advanced.script("iptables_check.py", forwards(&monitor, &state));
        advanced.script("haproxy_check.py", balanced(&monitor, &state));
    }
    let failing: String = [&basic, &advanced]
        .iter()
        .filter(|r| !r.failing.is_empty())
        .map(|r| r.failing.join(",") + "\n")
        .collect();
    format!(
        "FAILING CHECKS:\n{failing}MONITOR RESULTS:\n{{\"basic\":\n{}\n,\"advanced\":\n{}\n}}\n",
        basic.finish(),
        advanced.finish()
    )
}

struct Results<'a> {
    monitor: &'a Monitor,
    began: SystemTime,
    started: Instant,
    records: Map<String, Value>,
    failing: Vec<String>,
}

impl<'a> Results<'a> {
    fn new(monitor: &'a Monitor) -> Self {
        let (began, started) = (SystemTime::now(), Instant::now());
        Self { monitor, began, started, records: Map::new(), failing: Vec::new() }
    }

    /// All records, and when they were made.
    fn finish(mut self) -> Value {
        if self.records.is_empty() {
            return Value::Object(self.records);
        }
        let end = SystemTime::now();
        let took = end.duration_since(self.began).unwrap_or_default();
        let run = json!({
            "start": fraction(self.began),
            "end": fraction(end),
            "duration": format!("{:.3}", took.as_secs_f64()),
        });
        self.records.insert("lastRun".to_owned(), run);
        Value::Object(self.records)
    }

    /// Services count as failing whenever they are not well.
    fn service(&mut self, name: &str, outcome: Outcome) {
        let failing = !matches!(outcome, Outcome::Success(_));
        self.record(name, outcome, failing);
    }

    /// Checks that do not apply are left out.
    fn script(&mut self, name: &str, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            let failing = matches!(outcome, Outcome::Failed(_));
            self.record(name, outcome, failing);
        }
    }

    fn is_excluded(&self, name: &str) -> bool {
        self.monitor.excluded.iter().any(|excluded| excluded == name)
    }

    fn record(&mut self, name: &str, outcome: Outcome, failing: bool) {
        let took = self.started.elapsed();
        self.started = Instant::now();
        if self.is_excluded(name) {
            return;
        }
        let (word, message) = match outcome {
            Outcome::Success(message) => ("SUCCESS", message),
            Outcome::Warning(message) => ("WARNING", message),
            Outcome::Failed(message) => ("FAILED", message),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = json!({
            "success": word,
            "lastUpdate": now.as_millis().to_string(),
            "lastRunDuration": format!("{:.1}", took.as_secs_f64() * 1000.0),
            "message": message.replace(['\n', '\r'], " "),
        });
        self.records.insert(name.to_owned(), record);
        if failing {
            self.failing.push(name.to_owned());
        }
    }
}

/// `2025-11-02 09:55:00.123`.
fn fraction(moment: SystemTime) -> String {
    let civil = Civil::from(moment);
    format!("{}.{:03}", civil.text(), civil.millisecond)
}

async fn ssh(address: SocketAddr) -> Outcome {
    match timeout(SSH, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Outcome::Success("service is running".to_owned()),
        Ok(Err(error)) => Outcome::Warning(format!("service does not accept: {error}")),
        Err(_) => Outcome::Warning("service does not answer".to_owned()),
    }
}

/// Numbers of `systemThresholds`.
fn thresholds(monitor: &Monitor) -> impl Fn(&str) -> Option<f64> {
    let text = monitor.parameters.get("systemThresholds").cloned().unwrap_or_default();
    let fields: BTreeMap<String, f64> = records(&text)
        .flat_map(|record| record.into_iter())
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect();
    move |name| fields.get(name).copied()
}

/// `k=v,k=v;k=v,k=v;`
fn records(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    let records = text.split(';').map(str::trim).filter(|record| !record.is_empty());
    records.map(|record| record.split(',').filter_map(|field| field.trim().split_once('=')).collect())
}

/// Every VM that should be served is known by its MAC, address and name.
fn guests(monitor: &Monitor, state: &State, service: &str) -> Option<Outcome> {
    let text = monitor.parameters.get("virtualMachines")?;
    let mut missing = Vec::new();
    let mut count = 0;
    for vm in records(text).filter(|vm| vm.get(service) != Some(&"false")) {
        count += 1;
        let address = vm.get("ip").and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let host = address.and_then(|address| state.hosts.get(&address));
        let mac = vm.get("macAddress").and_then(|mac| mac.parse().ok());
        let known = host.is_some_and(|host| {
            vm.get("vmName").is_none_or(|name| host.name.eq_ignore_ascii_case(name))
                && mac.is_none_or(|mac| host.mac == mac)
        });
        if !known {
            missing.push(*vm.get("vmName").unwrap_or(&"?"));
        }
    }
    Some(if missing.is_empty() {
        Outcome::Success(format!("All {count} VMs are known"))
    } else {
        Outcome::Failed(format!("Not known: {}", missing.join(", ")))
    })
}

/// Every rule of a load balancer that should be there is, with its servers.
fn balanced(monitor: &Monitor, state: &State) -> Option<Outcome> {
    let text = monitor.parameters.get("haproxyData")?;
    let mut missing = Vec::new();
    for record in records(text) {
        let field = |name: &str| record.get(name).copied().unwrap_or_default();
        let (address, port) =
            (field("sourceIp").parse::<Ipv4Addr>(), field("sourcePortStart").parse::<u16>());
        let (Ok(address), Ok(port)) = (address, port) else { continue };
        let mut rules = state.balance.rules.iter().filter(|(f, _)| f.address == address && f.port == port);
        let servers = field("vmIps").split_whitespace().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
        let known = rules.next().is_some_and(|(_, rule)| {
            servers.into_iter().all(|ip| rule.servers.iter().any(|server| *server.ip() == ip))
        });
        if !known {
            missing.push(format!("{address}:{port}"));
        }
    }
    Some(if missing.is_empty() {
        Outcome::Success("All load balancer rules are there".to_owned())
    } else {
        Outcome::Failed(format!("Not there: {}", missing.join(", ")))
    })
}

/// Every port forward that should be there is.
fn forwards(monitor: &Monitor, state: &State) -> Option<Outcome> {
    let text = monitor.parameters.get("portForwarding")?;
    let mut missing = Vec::new();
    for rule in records(text) {
        let field = |name: &str| rule.get(name).copied().unwrap_or_default();
        let ports = format!("{}:{}", field("sourcePortStart"), field("sourcePortEnd"));
        let address = |name| field(name).parse::<Ipv4Addr>();
        let wanted = (address("sourceIp"), ports.parse::<Ports>(), address("destIp"));
        let (Ok(address), Ok(ports), Ok(target)) = wanted else { continue };
        let known = state.forwards.iter().any(|(key, forwards)| {
            key.address == address && key.ports == ports && forwards.iter().any(|f| f.target == target)
        });
        if !known {
            missing.push(format!("{address}:{ports}"));
        }
    }
    Some(if missing.is_empty() {
        Outcome::Success("All port forwards are there".to_owned())
    } else {
        Outcome::Failed(format!("Not there: {}", missing.join(", ")))
    })
}
