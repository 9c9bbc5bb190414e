//! Which socket and which snapshot belongs to which feature.

use std::{collections::BTreeMap, io, net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use common::handover::Serve;
use serde::de::DeserializeOwned;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{counters::Counters, http, networks::Networks, tls};
use crate::{
    advert, dhcp, dns, metadata, password,
    snapshot::{
        DHCP, DNS, Dhcp, DhcpHost, Dns, HOST, Listener, METADATA, Metadata, PASSWORDS, Passwords, Service,
    },
};

/// All features and the tasks that run for them.
pub struct Services {
    counters: Arc<Counters>,
    networks: Arc<ArcSwap<Networks>>,
    dhcp: Arc<dhcp::task::Server>,
    dns: Arc<dns::task::Server>,
    metadata: Arc<http::Server<metadata::task::Service>>,
    password: Arc<http::Server<password::task::Service>>,
    /// `None` where no certificate could be made.
    tls: Option<TlsAcceptor>,
    running: BTreeMap<String, AbortHandle>,
}

/// A snapshot that is not in force; the one before stays.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("not of its shape: {0}")]
    Json(#[from] serde_json::Error),
    #[error("user data: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("the kind is unknown")]
    Kind,
}

impl Services {
    /// Features that have nothing to serve yet.
    pub fn new(core: Serve, media: PathBuf) -> Self {
        let counters = Arc::new(Counters::default());
        let dhcp = Arc::new(dhcp::task::Server::new(counters.clone()));
        let networks = Arc::new(ArcSwap::<Networks>::default());
        let metadata = Arc::new(metadata::task::Service::new(
            metadata::media::Media::below(media),
            networks.clone(),
            counters.clone(),
        ));
        let password = Arc::new(password::task::Service::new(core, networks.clone(), counters.clone()));
        Self {
            dns: Arc::new(dns::task::Server::new(counters.clone())),
            metadata: Arc::new(http::Server::new(metadata, dhcp.clone(), counters.clone())),
            password: Arc::new(http::Server::new(password, dhcp.clone(), counters.clone())),
            dhcp,
            counters,
            networks,
            tls: tls::acceptor().inspect_err(|error| tracing::error!(%error, "no TLS for metadata")).ok(),
            running: BTreeMap::new(),
        }
    }

    /// What has been counted.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Serves on a socket, in place of one of the same name.
    pub fn start(&mut self, name: String, fd: OwnedFd) {
        self.stop(&name);
        let started = name.parse::<Listener>().map_err(io::Error::other).and_then(|l| self.spawn(l, fd));
        match started {
            Ok(task) => {
                tracing::info!(socket = name, "serving");
                self.running.extend(task.map(|t| (name, t)));
            }
            Err(error) => tracing::error!(socket = name, %error, "cannot serve"),
        }
    }

    /// Serves no longer on a socket. Connections that were accepted are served to their end.
    pub fn stop(&mut self, name: &str) {
        if let Some(task) = self.running.remove(name) {
            task.abort();
        }
        if let Ok(Listener { service: Service::Dhcp, nic, .. }) = name.parse() {
            self.dhcp.datagrams.rcu(|sockets| {
                let mut sockets = BTreeMap::clone(sockets);
                sockets.remove(&nic);
                sockets
            });
        }
    }

    /// Puts a snapshot in force.
    pub fn take(&self, kind: &str, bytes: &[u8]) {
        if let Err(error) = self.put(kind, bytes) {
            tracing::error!(kind, %error, "snapshot not in force");
        }
    }

    fn spawn(&self, listener: Listener, fd: OwnedFd) -> io::Result<Option<AbortHandle>> {
        let Listener { service, nic, address } = listener;
        Ok(Some(match service {
            Service::Dhcp => {
                let socket = Arc::new(socket2::Socket::from(fd));
                self.dhcp.datagrams.rcu(|sockets| {
                    let mut sockets = BTreeMap::clone(sockets);
                    sockets.insert(nic.clone(), socket.clone());
                    sockets
                });
                return Ok(None);
            }
            Service::DhcpFrames => watch("DHCP", self.dhcp.clone().serve(nic, fd)),
            Service::DnsUdp => {
                let socket = UdpSocket::from_std(fd.into())?;
                watch("DNS over UDP", self.dns.clone().serve_udp(address, socket))
            }
            Service::DnsTcp => {
                let socket = TcpListener::from_std(fd.into())?;
                watch("DNS over TCP", self.dns.clone().serve_tcp(address, socket))
            }
            Service::Metadata => {
                let socket = TcpListener::from_std(fd.into())?;
                watch("metadata", self.metadata.clone().serve(address, socket, None))
            }
            Service::MetadataTls => {
                let socket = TcpListener::from_std(fd.into())?;
                let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("there is no certificate"))?;
                watch("metadata over TLS", self.metadata.clone().serve(address, socket, Some(tls.clone())))
            }
            Service::Dhcp6 => {
                let socket = UdpSocket::from_std(fd.into())?;
                watch("DHCPv6", dhcp::stateless::serve(self.dhcp.clone(), nic, socket))
            }
            Service::Advert => {
                // To the runtime any socket of datagrams is alike.
                let socket = UdpSocket::from_std(fd.into())?;
                watch("router advertisements", advert::serve(self.dhcp.clone(), nic, socket))
            }
            Service::Password => {
                let socket = TcpListener::from_std(fd.into())?;
                watch("passwords", self.password.clone().serve(address, socket, None))
            }
        }))
    }

    fn put(&self, kind: &str, bytes: &[u8]) -> Result<(), Unusable> {
        match kind {
            DHCP => {
                let snapshot: Dhcp = read(bytes)?.unwrap_or_default();
                self.networks.store(Arc::new(Networks::new(&snapshot)));
                self.dhcp.table.store(Arc::new(self.dhcp.table.load().with_subnets(snapshot)));
            }
            DNS => {
                let snapshot: Dns = read(bytes)?.unwrap_or_default();
                self.dns.zone.store(Arc::new(self.dns.zone.load().with(snapshot)));
            }
            PASSWORDS => self.password.handler.set(read::<Passwords>(bytes)?.unwrap_or_default()),
            _ => match (guest(kind, HOST), guest(kind, METADATA)) {
                (Some(address), _) => self.put_host(address, read(bytes)?),
                (_, Some(address)) => {
                    let guest = read::<Metadata>(bytes)?.map(metadata::store::Guest::new).transpose()?;
                    self.metadata.handler.store.set(address, guest);
                }
                _ => return Err(Unusable::Kind),
            },
        }
        Ok(())
    }

    fn put_host(&self, address: Ipv4Addr, host: Option<DhcpHost>) {
        let named = host.as_ref().map(|host| (host.name.clone(), host.six));
        self.dns.zone.store(Arc::new(self.dns.zone.load().with_host(address, named)));
        self.dhcp.table.store(Arc::new(self.dhcp.table.load().with_host(address, host)));
    }
}

/// The guest that a kind is about, where it begins so.
fn guest(kind: &str, prefix: &str) -> Option<Ipv4Addr> {
    kind.strip_prefix(prefix)?.parse().ok()
}

/// JSON `null` means: nothing of this kind.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Runs a task that ends only with its socket.
fn watch(what: &'static str, task: impl Future<Output = io::Result<()>> + Send + 'static) -> AbortHandle {
    tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(%error, "{what} ended");
        }
    })
    .abort_handle()
}
