//! The commands of the host and of operators (router contract 2.7 to 2.10), each answered with what it
//! prints and its exit code.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    shim::wire::{Reply, Request},
    supervise::SuperviseError,
};
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

use super::{
    accounting, archive,
    bundle::{self, Item},
    checks, diagnose,
    engine::Engine,
    inbox::{Found, Inbox},
    legacy, media,
    metrics::{self, Measured},
};
use crate::{
    document::Document,
    explain::{self, Packet},
    link::netlink::Netlink,
    nft::run,
    plan::plan,
};

mod diff;
mod status;
mod tunnels;

/// How long a document waits for a NIC that it names: hot-plugged ones may come after it.
const NIC: Duration = Duration::from_secs(15);

/// Where the host copies files to.
const CACHE: &str = "/var/cache/cloud";

/// Answers commands; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    paths: Paths,
    inbox: Inbox,
    engine: Arc<Mutex<Engine>>,
    netlink: Netlink,
    started: Instant,
    measured: Measured,
}

impl Commands {
    pub(super) fn new(paths: Paths, engine: Arc<Mutex<Engine>>, netlink: Netlink) -> Self {
        let (inbox, started) = (Inbox::new(&paths), Instant::now());
        Self { inbox, paths, engine, netlink, started, measured: Measured::new() }
    }

    /// Answers one command.
    pub(super) async fn run(self, request: Request) -> Reply {
        let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
        let Some((command, arguments)) = words.split_first() else {
            return Reply::fail(127, "no command");
        };
        if *command == "vr_cfg.sh" {
            return self.bundle(arguments).await;
        }
        self.one(command, arguments).await
    }

    pub(super) async fn one(&self, command: &str, arguments: &[&str]) -> Reply {
        match command {
            "update_config.py" => self.update(arguments).await,
            "configure.py" => match self.engine.lock().await.reconcile().await {
                Ok(()) => Reply::ok(""),
                Err(error) => Reply::fail(1, error),
            },
            "netusage.sh" => accounting::network(&self.engine, arguments).await,
            "vpc_netusage.sh" => accounting::vpc(&self.engine, arguments).await,
            "update_interface_config.sh" => self.update_interface(arguments).await,
            "get_diagnostics_files.py" => archive::run(&self.paths, self, arguments).await,
            "checkbatchs2svpn.sh" => self.tunnels(arguments).await,
            "checks2svpn.sh" => self.tunnel(arguments).await,
            // Whoever is in force stays so: there is no priority that would change it.
            "bumpup_priority.sh" => Reply::ok(""),
            "checkrouter.sh" => Reply::ok(format!("Status: {}\n", self.engine.lock().await.standing().await)),
            "manage_service.sh" => self.service(arguments).await,
            "getRouterAlerts.sh" => {
                let moment = arguments.join(" ");
                Reply::ok(self.engine.lock().await.alerts.since(moment.trim()))
            }
            "getRouterMonitorResults.sh" => Reply::ok(checks::report(&self.paths, &self.engine).await),
            "filesystem_writable_check.py" => checks::writable(&self.paths),
            "diagnostics.py" => Reply::ok(diagnose::run(arguments).await),
            "get_haproxy_stats.sh" => self.balanced(arguments).await,
            "status" => Reply::ok(self.status().await),
            "explain" => self.explain(arguments).await,
            "rules" => match run::listing().await {
                Ok(text) => Reply::ok(text),
                Err(error) => Reply::fail(1, error),
            },
            "certificate" => match self.engine.lock().await.certificate() {
                Some(certificate) => Reply::ok(certificate),
                None => Reply::fail(1, "certificate: no client may come, so there is none"),
            },
            "cks_iso.sh" => media::run(&self.paths, arguments).await,
            "diff" => self.diff(arguments).await,
            "metrics" => metrics::report(&self.engine, &self.measured).await,
            _ => match legacy::documents(command, arguments, |path| self.copied(path)) {
                Some(documents) => self.stand_in(documents).await,
                None => Reply::fail(127, format_args!("{command}: not served by this router")),
            },
        }
    }

    /// `update_config.py NAME [false]`.
    async fn update(&self, arguments: &[&str]) -> Reply {
        let (name, keep) = match arguments {
            [name] => (*name, true),
            [name, keep] => (*name, *keep != "false"),
            _ => {
                return Reply::fail(
                    1,
                    "update_config.py: expects the name of a document, and false to not keep it",
                );
            }
        };
        let bytes = match self.find(name) {
            Ok(Found::Bytes(bytes)) => bytes,
            Ok(Found::Done) => return Reply::ok(""),
            Err(reason) => return Reply::fail(1, reason),
        };
        let began = Instant::now();
        let outcome = match Document::read(&bytes) {
            Ok(document) => {
                let documents = vec![document];
                self.wait_for_nics(&documents).await;
                self.engine.lock().await.merge(documents).await.pop().unwrap_or(Ok(()))
            }
            Err(error) => Err(error.to_string()),
        };
        self.measured.change(began.elapsed(), usize::from(outcome.is_err()));
        self.inbox.finish(name, &bytes, outcome.is_ok(), keep);
        match outcome {
            Ok(()) => Reply::ok(""),
            Err(reason) => {
                tracing::warn!(name, reason, "a document was refused");
                Reply::fail(1, format_args!("{name}: {reason}"))
            }
        }
    }

    /// A file that the host has copied to the folder of documents.
    fn copied(&self, path: &str) -> Option<Vec<u8>> {
        let inside = Path::new(path).parent() == Some(Path::new(CACHE));
        match self.find(base_name(path)) {
            Ok(Found::Bytes(bytes)) if inside => Some(bytes),
            _ => None,
        }
    }

    /// What a script stands for.
    async fn stand_in(&self, documents: Result<Vec<Value>, String>) -> Reply {
        let read = documents.and_then(|all| {
            let read = |value: Value| Document::read(value.to_string().as_bytes()).map_err(|e| e.to_string());
            all.into_iter().map(read).collect::<Result<Vec<Document>, String>>()
        });
        let outcomes = match read {
            Ok(documents) => self.engine.lock().await.merge(documents).await,
            Err(reason) => return Reply::fail(1, reason),
        };
        match outcomes.into_iter().find_map(Result::err) {
            Some(reason) => Reply::fail(1, reason),
            None => Reply::ok(""),
        }
    }

    fn find(&self, name: &str) -> Result<Found, String> {
        if !Inbox::is_name(name) {
            return Err(format!("{name:?} is not the name of a document"));
        }
        self.inbox.read(name).map_err(|e| format!("{name}: {e}"))
    }

    /// `vr_cfg.sh -c FILE`: everything that can be merged is, by one change; the rest is reported.
    async fn bundle(&self, arguments: &[&str]) -> Reply {
        let ["-c", path] = arguments else {
            return Reply::fail(1, "vr_cfg.sh: expects -c and the path of a file");
        };
        let name = base_name(path);
        let bytes = match self.find(name) {
            Ok(Found::Bytes(bytes)) => bytes,
            Ok(Found::Done) => return Reply::ok(""),
            Err(reason) => return Reply::fail(1, reason),
        };
        let items = match bundle::read(&bytes) {
            Ok(items) => items,
            Err(error) => {
                self.inbox.finish(name, &bytes, false, true);
                return Reply::fail(1, format_args!("{name}: {error}"));
            }
        };
        let began = Instant::now();
        let mut failures = Vec::new();
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let (mut names, mut documents, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::File(path, content) => {
                    let name = base_name(&path).to_owned();
                    let inside = Path::new(&path).parent() == Some(Path::new(CACHE));
                    if inside && Inbox::is_name(&name) {
                        files.insert(name, content);
                    } else {
                        failures.push(format!("{path}: files are taken below /var/cache/cloud only"));
                    }
                }
                Item::Script(words) => match words.split_first() {
                    Some((command, rest)) if base_name(command) == "update_config.py" => {
                        match rest.first().map(|name| (name, self.bundled(name, &mut files))) {
                            Some((name, Ok(document))) => {
                                names.push(name.clone());
                                documents.push(document);
                            }
                            Some((name, Err(reason))) => failures.push(format!("{name}: {reason}")),
                            None => failures.push("update_config.py: names no document".to_owned()),
                        }
                    }
                    Some((command, rest)) => others.push((base_name(command).to_owned(), rest.to_vec())),
                    None => {}
                },
            }
        }
        for (name, content) in files {
            failures.extend(self.inbox.write(&name, &content).err().map(|e| format!("{name}: {e}")));
        }
        // A bundle with passwords leaves nothing behind.
        let secret = documents.iter().any(Document::is_secret);
        self.wait_for_nics(&documents).await;
        let outcomes = self.engine.lock().await.merge(documents).await;
        let refused =
            names.iter().zip(outcomes).filter_map(|(name, o)| Some(format!("{name}: {}", o.err()?)));
        failures.extend(refused);
        for (command, arguments) in others {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let reply = self.one(&command, &arguments).await;
            if reply.code != 0 {
                failures.push(format!("{command}: {}", reply.stderr.trim()));
            }
        }
        self.measured.change(began.elapsed(), failures.len());
        self.inbox.finish(name, if secret { &[] } else { &bytes }, true, true);
        if failures.is_empty() {
            return Reply::ok("");
        }
        tracing::warn!(?failures, "items of a bundle were refused");
        let text = failures.iter().map(|f| format!("VR config: {f}")).collect::<Vec<_>>().join("\n");
        Reply::fail(1, text)
    }

    /// A document of a bundle: from the bundle itself, or one that arrived before.
    fn bundled(&self, name: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<Document, String> {
        let bytes = match files.remove(name) {
            Some(bytes) => bytes,
            None => match self.find(name)? {
                Found::Bytes(bytes) => {
                    self.inbox.finish(name, &bytes, true, false);
                    bytes
                }
                Found::Done => return Ok(Document::Nothing("dealt with before".to_owned())),
            },
        };
        Document::read(&bytes).map_err(|e| e.to_string())
    }

    /// Waits a bounded time until the NICs that documents name are there. Addresses of those that come
    /// later are set when they do.
    async fn wait_for_nics(&self, documents: &[Document]) {
        let mut wanted = Vec::new();
        for document in documents {
            match document {
                Document::Addresses(changes) => {
                    let named = changes.iter().filter(|c| c.add && (c.mac.is_some() || c.index.is_some()));
                    // The MAC counts where it is told: the number may be that of another NIC.
                    wanted.extend(named.map(|c| (c.mac, c.index.filter(|_| c.mac.is_none()))));
                }
                Document::Tier(change) if change.tier.is_some() => wanted.push((Some(change.mac), None)),
                _ => {}
            }
        }
        let mut news = self.netlink.news();
        let there = async {
            while let Ok(devices) = self.netlink.devices().await {
                let has = |(mac, index): &(Option<crate::mac::Mac>, Option<u32>)| {
                    mac.is_some_and(|mac| devices.by_mac(mac).is_some())
                        || index.is_some_and(|n| devices.get(&format!("eth{n}")).is_some())
                };
                if wanted.iter().all(has) || news.changed().await.is_err() {
                    return;
                }
            }
        };
        if !wanted.is_empty() && timeout(NIC, there).await.is_err() {
            tracing::warn!(?wanted, "a NIC is not there yet; its addresses are set when it comes");
        }
    }

    /// `update_interface_config.sh ADDRESS PREFIX MTU TRIES`: the MTU of the NIC that has the address, and what
    /// DHCP tells guests of it.
    async fn update_interface(&self, arguments: &[&str]) -> Reply {
        let wrong = |what| Reply::fail(1, format_args!("update_interface_config.sh: {what}"));
        let [ip, prefix, mtu, ..] = arguments else {
            return wrong("expects an address, the length of its prefix, an MTU and a number of tries");
        };
        let Ok(address) = format!("{ip}/{prefix}").parse() else {
            return wrong("the address cannot be read");
        };
        let Some(mtu) = mtu.parse().ok().filter(|mtu| *mtu >= 576) else {
            return wrong("the MTU is no number from 576 to 65535");
        };
        match self.engine.lock().await.set_mtu(address, mtu).await {
            Ok(true) => Reply::ok(""),
            // The management server knows this very text.
            Ok(false) => {
                Reply { stdout: format!("Interface with IP {ip} not found\n"), code: 1, ..Reply::default() }
            }
            Err(error) => Reply::fail(1, error),
        }
    }

    /// `manage_service.sh ACTION SERVICE`, of services that the supervisor does not know.
    async fn service(&self, arguments: &[&str]) -> Reply {
        let [action, service] = arguments else {
            return Reply::fail(1, "manage_service.sh: expects start, stop or restart, and a service");
        };
        let outcome = match action.parse() {
            Ok(action) => self.engine.lock().await.control(service, action).await,
            Err(error) => Err(SuperviseError::to_string(&error)),
        };
        outcome.map_or_else(|reason| Reply::fail(5, reason), |()| Reply::ok(""))
    }

    /// `get_haproxy_stats.sh ADDRESS PORT`: always a number, without a line break.
    async fn balanced(&self, arguments: &[&str]) -> Reply {
        let mean = match arguments {
            [address, port] => {
                let pool = format!("{}-{port}", address.replace('.', "_"));
                let mut engine = self.engine.lock().await;
                engine.balancer().refresh().await;
                engine.balancer().mean_connections(&pool)
            }
            _ => 0,
        };
        Reply::ok(mean.to_string())
    }

    /// `explain tcp 198.51.100.7 203.0.113.10:80`: which rule decides about such a packet.
    async fn explain(&self, arguments: &[&str]) -> Reply {
        match Packet::read(arguments) {
            Ok(packet) => {
                let engine = self.engine.lock().await;
                let network = engine.network();
                let plan = plan(network.setup(), network.state(), network.devices());
                Reply::ok(explain::explain(&plan, &packet))
            }
            Err(error) => Reply::fail(1, format_args!("explain: {error}")),
        }
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
