//! Everything that documents change, behind one lock: the network, and what guests are told.

mod pair;
mod preview;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    iter,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    handover,
    paths::Paths,
    persist::{self, Journal, PersistError},
};

use ipnet::Ipv4Net;

use super::alerts::Alerts;
use crate::{
    apply::{ApplyError, Network},
    balance::Balancer,
    bgp,
    document::{Document, DocumentError},
    redundancy::keeper::Keeper,
    serve::sockets,
    serving,
    snapshot::{self, Dhcp, Dns, Listener},
    state::{self, Guests, Hosts, LIMIT, Secrets, State},
    vpn,
};

/// Version of the shape of the files below.
const VERSION: u32 = 1;

/// How long an answer waits for serve to have what changed.
const SERVE: Duration = Duration::from_secs(2);

/// What came of one document.
pub(super) type Outcome = Result<(), String>;

/// The last change.
#[derive(Debug, Clone)]
pub(super) struct LastChange {
    /// What it was.
    pub(super) what: String,
    /// When it was in force.
    pub(super) at: std::time::SystemTime,
    /// How long it took.
    pub(super) took: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Engine {
    folder: PathBuf,
    network: Network,
    guests: Guests,
    /// Where they are kept.
    journal: Journal,
    secrets: Secrets,
    handover: handover::Core,
    last: Option<LastChange>,
    /// What the management server is to hear of.
    pub(super) alerts: Alerts,
    /// What serve has counted since it started.
    pub(super) counters: BTreeMap<String, u64>,
    /// Sockets that serve has been offered, with the kernel's number of the NIC.
    offered: BTreeMap<Listener, u32>,
    told: Told,
    /// The pair that this router is of.
    keeper: Keeper,
    /// Who tells others of guests' networks.
    speaker: bgp::keeper::Keeper,
    /// The network is not yet what the election made of this router.
    behind: bool,
    vpn: vpn::Keeper,
    machine: vpn::MachineKeeper,
    authority: vpn::Authority,
}

/// What serve has of DHCP and DNS.
#[derive(Debug, Default)]
struct Told {
    dhcp: Option<Dhcp>,
    dns: Option<Dns>,
    hosts: Hosts,
}

impl Engine {
    /// Loads what guests are told, and declares to serve what it is to have.
    pub(super) fn new(
        paths: &Paths,
        network: Network,
        handover: handover::Core,
        keeper: Keeper,
    ) -> Result<Self, PersistError> {
        let folder = paths.state("router");
        let secrets = load(&folder.join("passwords"))?.unwrap_or_default();
        let (journal, loaded) = Journal::load(&folder.join("guests"), VERSION, Guests::edit)?;
        if let Some(fallback) = loaded.fallback {
            tracing::error!("{fallback}");
        }
        let mut engine = Self {
            folder,
            network,
            guests: loaded.value.unwrap_or_default(),
            journal,
            secrets,
            handover,
            last: None,
            alerts: Alerts::load(paths)?,
            counters: BTreeMap::new(),
            offered: BTreeMap::new(),
            told: Told::default(),
            keeper,
            speaker: bgp::keeper::Keeper::new(paths),
            behind: false,
            vpn: vpn::Keeper::start(paths),
            machine: vpn::MachineKeeper::start(paths),
            authority: vpn::Authority::load(paths)?,
        };
        engine.publish_network();
        engine.publish(snapshot::PASSWORDS, &engine.secrets.waiting);
        for (address, data) in &engine.guests.0 {
            engine.publish(&snapshot::metadata_kind(*address), data);
        }
        engine.handover.complete();
        Ok(engine)
    }

    pub(super) const fn network(&self) -> &Network {
        &self.network
    }

    /// What HAProxy does.
    pub(super) const fn balancer(&mut self) -> &mut Balancer {
        self.network.balancer()
    }

    /// Who knows of tunnels.
    pub(super) fn vpn(&self) -> vpn::Keeper {
        self.vpn.clone()
    }

    /// Who knows of the rest of VPNs.
    pub(super) fn machine(&self) -> vpn::MachineKeeper {
        self.machine.clone()
    }

    /// The certificate by which clients know this router, PEM.
    pub(super) fn certificate(&self) -> Option<&str> {
        self.authority.certificate()
    }

    pub(super) const fn handover(&self) -> &handover::Core {
        &self.handover
    }

    pub(super) const fn last(&self) -> Option<&LastChange> {
        self.last.as_ref()
    }

    /// Brings the network to the state in force again.
    pub(super) async fn reconcile(&mut self) -> Result<(), ApplyError> {
        // Addresses may have come or gone that say who is in force.
        if !self.tend("").await? {
            self.network.reconcile().await?;
            self.publish_network();
        }
        Ok(())
    }

    /// Sets the MTU of the NIC that has the address; tells whether there is one.
    pub(super) async fn set_mtu(&mut self, address: Ipv4Net, mtu: u16) -> Result<bool, ApplyError> {
        let mut next = self.network.state().clone();
        if next.set_mtu(self.network.setup(), address, mtu).is_none() {
            return Ok(false);
        }
        self.network.change(next).await?;
        self.publish_network();
        Ok(true)
    }

    /// Merges documents and makes all that could be merged the state in force, by one change of the
    /// network. One outcome for each document, in their order.
    pub(super) async fn merge(&mut self, documents: Vec<Document>) -> Vec<Outcome> {
        let started = Instant::now();
        let what = match documents.as_slice() {
            [one] => kind(one).to_owned(),
            many => format!("{} documents", many.len()),
        };
        let mut next = self.network.state().clone();
        let mut refused = Vec::new();
        let merge = |d| self.merge_network(&mut next, d, &mut refused).map_err(|e| e.to_string());
        let mut outcomes: Vec<Outcome> = documents.iter().map(merge).collect();
        refused.extend(self.network.vet(&mut next).await);
        let changed = next != *self.network.state();
        if let Err(error) = self.network.change(next).await {
            // Together they cannot be applied: one by one tells which of them cannot.
            let single = documents.len() == 1;
            for (document, outcome) in documents.iter().zip(&mut outcomes).filter(|(_, o)| o.is_ok()) {
                *outcome = if single { Err(error.to_string()) } else { self.alone(document).await };
            }
        }
        let mut version = changed.then(|| self.publish_network()).flatten();
        self.speak().await;
        if changed && let Err(error) = self.tend("").await {
            tracing::warn!(%error, "the pair does not follow a change");
        }
        version = version.max(self.merge_guests(&documents, &mut outcomes));
        for (_, outcome) in documents
            .iter()
            .zip(&mut outcomes)
            .filter(|(d, o)| matches!(d, Document::Balance(_)) && o.is_ok() && !refused.is_empty())
        {
            *outcome = Err(format!(
                "{}; what is named here is as it was before, all else of this document is in force",
                refused.join("; ")
            ));
        }
        if let Some(version) = version
            && *self.handover.connected().borrow()
            && !self.handover.applied(version, SERVE).await
        {
            tracing::warn!("serve is slow to take a change");
        }
        self.last = Some(LastChange { what, at: std::time::SystemTime::now(), took: started.elapsed() });
        outcomes
    }

    async fn alone(&mut self, document: &Document) -> Outcome {
        let mut next = self.network.state().clone();
        self.merge_network(&mut next, document, &mut Vec::new()).map_err(|e| e.to_string())?;
        self.network.vet(&mut next).await;
        self.network.change(next).await.map_err(|e| e.to_string())
    }

    /// Merges what is about the network. Rules that are refused alone are added to `refused`.
    fn merge_network(
        &self,
        state: &mut State,
        document: &Document,
        refused: &mut Vec<String>,
    ) -> Result<(), DocumentError> {
        let setup = self.network.setup();
        match document {
            Document::Addresses(changes) => state.merge_addresses(setup, changes),
            Document::Forwards(changes) => state.merge_forwards(setup, changes),
            Document::StaticNat(changes) => state.merge_static_nat(setup, changes),
            Document::Firewall(changes) => state.merge_firewall(setup, changes),
            Document::Firewall6(changes) => state.merge_firewall6(setup, changes),
            Document::Tier(change) => state.merge_tier(setup, change),
            Document::Acl(change) => state.merge_acl(setup, change),
            Document::Routes(changes) => state.merge_routes(setup, changes),
            Document::Aliases(changes) => state.merge_aliases(setup, changes),
            Document::Dhcp(change) => state.merge_host(change),
            Document::Bgp(change) => state.merge_peers(setup, change),
            Document::Site(change) => state.merge_site(setup, change),
            Document::Remote(change) => state.merge_remote(setup, change),
            Document::Users(changes) => state.merge_users(setup, changes),
            Document::Wireguard(change) => state.merge_wireguard(setup, change),
            Document::Balance(change) => {
                let rules = state.merge_balance(setup, change);
                refused.extend(rules.iter().map(ToString::to_string));
                Ok(())
            }
            Document::Monitor(change) => {
                state.merge_monitor(change);
                Ok(())
            }
            Document::Metadata(_) | Document::Password(_) | Document::Nothing(_) => Ok(()),
        }
    }

    /// Merges what is about single guests, and saves it at once; tells the version that serve must have.
    fn merge_guests(&mut self, documents: &[Document], outcomes: &mut [Outcome]) -> Option<u64> {
        let (mut fresh, mut secrets) = (Guests::default(), None);
        for (document, outcome) in documents.iter().zip(outcomes.iter_mut()).filter(|(_, o)| o.is_ok()) {
            let merged = match document {
                Document::Metadata(change) => {
                    let address = change.address;
                    let before = self.guests.0.get(&address).filter(|_| !fresh.0.contains_key(&address));
                    fresh.0.extend(before.map(|before| (address, before.clone())));
                    let room = LIMIT.saturating_sub(self.guests.0.len());
                    fresh.merged(change, room).map(|data| drop(fresh.0.insert(address, data)))
                }
                Document::Password(change) => {
                    secrets.get_or_insert_with(|| self.secrets.clone()).merge(change)
                }
                Document::Nothing(kind) => {
                    tracing::info!(kind, "a document that asks for nothing here");
                    Ok(())
                }
                _ => Ok(()),
            };
            *outcome = merged.map_err(|error| error.to_string());
        }
        let told = if fresh.0.is_empty() { Ok(None) } else { self.keep_guests(fresh) };
        let secrets = secrets.filter(|secrets| *secrets != self.secrets);
        let kept = secrets.map_or(Ok(None), |secrets| self.keep_secrets(secrets));
        for (document, outcome) in documents.iter().zip(outcomes.iter_mut()).filter(|(_, o)| o.is_ok()) {
            let error = match document {
                Document::Metadata(_) => told.as_ref().err(),
                Document::Password(_) => kept.as_ref().err(),
                _ => None,
            };
            *outcome = error.map_or(Ok(()), |error| Err(error.to_string()));
        }
        told.ok().flatten().max(kept.ok().flatten())
    }

    fn keep_guests(&mut self, fresh: Guests) -> Result<Option<u64>, PersistError> {
        let others = self.guests.0.iter().filter(|(address, _)| !fresh.0.contains_key(address));
        self.journal.save(&fresh, iter::once(&fresh).map(Cow::Borrowed).chain(others.map(Guests::record)))?;
        let mut version = None;
        for (address, data) in fresh.0 {
            version = version.max(self.publish(&snapshot::metadata_kind(address), &data));
            self.guests.0.insert(address, data);
        }
        Ok(version)
    }

    /// Forgets a password that its guest has; tells whether it was there.
    pub(super) fn password_taken(&mut self, address: Ipv4Addr, serial: u64) -> Result<bool, PersistError> {
        let mut secrets = self.secrets.clone();
        let taken = secrets.taken(address, serial);
        if taken {
            // Twice: the generation before must not keep the password either.
            self.keep_secrets(secrets.clone())?;
            self.keep_secrets(secrets)?;
        }
        Ok(taken)
    }

    fn keep_secrets(&mut self, secrets: Secrets) -> Result<Option<u64>, PersistError> {
        persist::save(&self.folder.join("passwords"), VERSION, &secrets)?;
        self.secrets = secrets;
        Ok(self.publish(snapshot::PASSWORDS, &self.secrets.waiting))
    }

    /// Has others told of guests' networks, as the state says.
    pub(super) async fn speak(&mut self) {
        let wanted = bgp::plan::plan(self.network.setup(), self.network.state());
        self.speaker.tend(wanted).await;
    }

    /// How sessions of BGP stand, and whether all is well with it; `None` where there are none.
    pub(super) async fn sessions(&mut self) -> Option<(String, bool)> {
        if self.network.state().peers.is_empty() {
            return None;
        }
        let report = self.speaker.report().await.unwrap_or_default();
        Some((report, self.speaker.is_well(true)))
    }

    /// Tells serve, and who keeps tunnels, what follows from the network's state.
    fn publish_network(&mut self) -> Option<u64> {
        let view = self.network.view();
        let server = view.state.vpn.remotes.keys().next().filter(|_| view.setup.kind.forwards());
        let leaf = server.map(|server| self.authority.leaf(&view.setup.name, *server)).transpose();
        let leaf = leaf.unwrap_or_else(|error| {
            tracing::error!(%error, "clients with IKEv2 cannot be let in");
            None
        });
        self.vpn.want(vpn::Wanted::new(&view, leaf.as_ref()));
        self.machine.want(vpn::Machine::new(&view));
        let devices = self.network.devices();
        let (dhcp, dns) = (serving::dhcp(&view, devices), serving::dns(&view));
        let index = |listener: &Listener| devices.get(&listener.nic).map_or(0, |device| device.index);
        let wanted: BTreeMap<Listener, u32> =
            serving::listeners(&view).into_iter().map(|l| (l.clone(), index(&l))).collect();
        let mut version = None;
        if wanted != self.offered {
            // A socket of a NIC that went and came back under its name is opened anew.
            let stale = wanted.iter().any(|(l, n)| self.offered.get(l).is_some_and(|old| old != n));
            if stale {
                let same = wanted.iter().filter(|(l, n)| self.offered.get(l) == Some(n));
                self.handover.offer(same.map(|(listener, _)| offer(listener.clone())));
            }
            version = Some(self.handover.offer(wanted.keys().cloned().map(offer)));
            self.offered = wanted;
        }
        // Most changes are none of guests' answers.
        if self.told.dhcp.as_ref() != Some(&dhcp) {
            version = version.max(self.publish(snapshot::DHCP, &dhcp));
            self.told.dhcp = Some(dhcp);
        }
        if self.told.dns.as_ref() != Some(&dns) {
            version = version.max(self.publish(snapshot::DNS, &dns));
            self.told.dns = Some(dns);
        }
        let hosts = self.network.state().hosts.clone();
        for (address, host) in state::changed(&self.told.hosts, &hosts) {
            let kind = snapshot::host_kind(address);
            version = version.max(match host {
                Some(host) => self.publish(&kind, &host),
                None => Some(self.handover.withdraw(&kind)),
            });
        }
        self.told.hosts = hosts;
        version
    }

    fn publish<T: serde::Serialize>(&self, kind: &str, value: &T) -> Option<u64> {
        let published = self.handover.publish(kind, value);
        published.inspect_err(|error| tracing::error!(%error, kind, "cannot be handed to serve")).ok()
    }

    /// What is in force, in figures.
    pub(super) fn figures(&self) -> BTreeMap<&'static str, usize> {
        let state = self.network.state();
        BTreeMap::from([
            ("public addresses", state.addresses.len()),
            ("port forwards", state.forwards.values().map(Vec::len).sum()),
            ("static NAT", state.static_nat.len()),
            ("firewall rules", state.firewall.len()),
            ("tiers", state.tiers.len()),
            ("lists of rules", state.acls.len()),
            ("static routes", state.routes.len()),
            ("aliases", state.aliases.len()),
            ("load balancer rules", state.balance.rules.len()),
            ("BGP peers", state.peers.len()),
            ("site-to-site VPNs", state.vpn.sites.len()),
            ("VPN users", state.vpn.users.len()),
            ("reservations", state.hosts.len()),
            ("guests with metadata", self.guests.0.len()),
            ("passwords waiting", self.secrets.waiting.0.len()),
        ])
    }
}

/// Only the core may open sockets; serve gets them.
fn offer(listener: Listener) -> handover::Offer {
    handover::Offer::new(listener.to_string(), move || sockets::open(&listener))
}

fn load<T: serde::de::DeserializeOwned>(file: &std::path::Path) -> Result<Option<T>, PersistError> {
    let loaded = persist::load(file, VERSION)?;
    if let Some(fallback) = loaded.fallback {
        tracing::error!("{fallback}");
    }
    Ok(loaded.value)
}

const fn kind(document: &Document) -> &'static str {
    match document {
        Document::Addresses(_) => "addresses",
        Document::Forwards(_) => "port forwards",
        Document::StaticNat(_) => "static NAT",
        Document::Firewall(_) => "firewall",
        Document::Firewall6(_) => "IPv6 firewall",
        Document::Dhcp(_) => "reservation",
        Document::Metadata(_) => "metadata",
        Document::Password(_) => "password",
        Document::Balance(_) => "load balancing",
        Document::Monitor(_) => "monitoring",
        Document::Bgp(_) => "BGP peers",
        Document::Tier(_) => "tier",
        Document::Acl(_) => "list of rules",
        Document::Routes(_) => "routes",
        Document::Aliases(_) => "aliases",
        Document::Site(_) => "site-to-site VPN",
        Document::Remote(_) => "remote access VPN",
        Document::Users(_) => "VPN users",
        Document::Wireguard(_) => "WireGuard",
        Document::Nothing(_) => "nothing",
    }
}
