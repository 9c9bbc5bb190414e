//! Brings links about by netlink: reads what there is, takes the steps that are missing, checks the
//! outcome, and takes them back where one fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rtnetlink::{
    Handle, IpVersion, LinkUnspec, MulticastGroup, RouteMessageBuilder, packet_core::ErrorMessage,
};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use super::{
    Device, Devices, Links,
    plan::{PREFERENCES, Route, Rule, Via},
    steps::{Present, Step, steps},
};
use crate::mac::Mac;

/// Longest time for one question or one change.
const LIMIT: Duration = Duration::from_secs(10);

/// Marks routes and rules as ours; a number that no routing daemon uses.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(84);

/// Why links could not be read or changed. What was changed before the failure has been taken back.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel said no.
    #[error("{what}: {reason}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it said.
        reason: String,
    },
    /// The kernel did not answer in time.
    #[error("{0}: no answer from the kernel")]
    Late(String),
    /// All steps were taken, but the outcome is not what was planned.
    #[error("links are not as planned after the change: {0} would still be needed")]
    Unstable(String),
}

/// The line to the kernel.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    news: watch::Receiver<u64>,
    /// The kernel answers one question for a list at a time, and refuses a second one meanwhile.
    list: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens it; the tasks behind it last as long as the runtime. News of `addresses` are told where they are
    /// asked for.
    pub fn open(addresses: bool) -> io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let groups = groups.get(..1 + usize::from(addresses)).unwrap_or_default();
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(groups)?;
        tokio::spawn(connection);
        let (tell, news) = watch::channel(0);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                tell.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { handle, news, list: Arc::default() })
    }

    /// Whether a NIC has an address.
    pub async fn has(&self, nic: &str, net: Ipv4Net) -> Result<bool, LinkError> {
        let Some(index) = self.devices().await?.get(nic).map(|device| device.index) else { return Ok(false) };
        let question = self.handle.address().get().set_link_index_filter(index).execute();
        let all = self.collect("list of addresses", question).await?;
        Ok(all.iter().any(|message| address_of(message) == Some(net.into())))
    }

    /// Changes whenever something about a NIC does, or, where that is told, about an address.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.clone()
    }

    /// The NICs that are there.
    pub async fn devices(&self) -> Result<Devices, LinkError> {
        let messages = self.collect("list of NICs", self.handle.link().get().execute()).await?;
        let mut devices = Vec::new();
        for message in messages {
            let mut device = Device {
                index: message.header.index,
                name: String::new(),
                mac: Mac([0; 6]),
                up: message.header.flags.contains(LinkFlags::Up),
                mtu: 0,
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => device.name = name,
                    LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                    LinkAttribute::Address(bytes) => device.mac = bytes.try_into().map_or(device.mac, Mac),
                    _ => {}
                }
            }
            if device.number().is_some() {
                devices.push(device);
            }
        }
        devices.sort_by_key(Device::number);
        Ok(Devices(devices))
    }

    /// What there is of what is ours.
    pub async fn present(&self) -> Result<Present, LinkError> {
        let devices = self.devices().await?;
        let name_of = |index: u32| devices.0.iter().find(|d| d.index == index).map(|d| d.name.clone());
        let mut addresses: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
        for message in self.collect("list of addresses", self.handle.address().get().execute()).await? {
            let device = devices.0.iter().find(|d| d.index == message.header.index);
            let (Some(device), Some(net)) = (device, address_of(&message)) else { continue };
            if net.addr() != device.mac.link_local() {
                addresses.entry(device.name.clone()).or_default().push(net);
            }
        }
        let mut routes = BTreeSet::new();
        for question in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let all = self.collect("list of routes", self.handle.route().get(question).execute()).await?;
            routes.extend(all.iter().filter_map(|message| route_of(message, name_of)));
        }
        let rules = self.collect("list of rules", self.handle.rule().get(IpVersion::V4).execute()).await?;
        let rules: BTreeSet<Rule> = rules.iter().filter_map(rule_of).collect();
        Ok(Present { devices, addresses, routes, rules })
    }

    /// Makes links as they should be; tells which steps it took. On failure all steps are taken back.
    pub async fn apply(&self, wanted: &Links) -> Result<Vec<Step>, LinkError> {
        let mut taken = Vec::new();
        // The kernel takes routes away with the addresses they need: the second round puts right
        // what the first one has brought about by the way.
        for _ in 0..3 {
            let present = self.present().await?;
            let missing = steps(&present, wanted);
            if missing.is_empty() {
                return Ok(taken);
            }
            for step in missing {
                if let Err(error) = self.step(&step, &present.devices).await {
                    self.undo(&taken).await;
                    return Err(error);
                }
                taken.push(step);
            }
        }
        let left = steps(&self.present().await?, wanted);
        match left.first() {
            None => Ok(taken),
            Some(first) => {
                let first = format!("{first:?}");
                self.undo(&taken).await;
                Err(LinkError::Unstable(first))
            }
        }
    }

    /// Takes steps back, the last one first; goes on where one cannot be.
    pub async fn undo(&self, taken: &[Step]) {
        for step in taken.iter().rev().filter_map(Step::undo) {
            let outcome = match self.devices().await {
                Ok(devices) => self.step(&step, &devices).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, ?step, "a step could not be taken back");
            }
        }
    }

    async fn collect<T>(
        &self,
        what: &str,
        stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    ) -> Result<Vec<T>, LinkError> {
        let all = async {
            let _alone = self.list.lock().await;
            let mut items = Vec::new();
            let mut stream = std::pin::pin!(stream);
            while let Some(item) = stream.next().await {
                let refused = |e| LinkError::Refused { what: what.to_owned(), reason: reason(&e) };
                items.push(item.map_err(refused)?);
            }
            Ok(items)
        };
        timeout(LIMIT, all).await.map_err(|_| LinkError::Late(what.to_owned()))?
    }

    async fn step(&self, step: &Step, devices: &Devices) -> Result<(), LinkError> {
        let what = || format!("{step:?}");
        let index = |name: &str| {
            let device = devices.get(name).map(|d| d.index);
            device.ok_or_else(|| LinkError::Refused { what: what(), reason: format!("there is no {name}") })
        };
        let (link, address) = (self.handle.link(), self.handle.address());
        let (route, rule) = (self.handle.route(), self.handle.rule());
        let outcome = match step {
            Step::Mtu(nic, mtu, _) => {
                let message = LinkUnspec::new_with_index(index(nic)?).mtu(*mtu).build();
                timeout(LIMIT, link.set(message).execute()).await
            }
            Step::Down(nic) => {
                let message = LinkUnspec::new_with_index(index(nic)?).down().build();
                timeout(LIMIT, link.set(message).execute()).await
            }
            Step::Up(nic) => {
                let message = LinkUnspec::new_with_index(index(nic)?).up().build();
                timeout(LIMIT, link.set(message).execute()).await
            }
            Step::AddAddress(nic, net) => {
                let add = address.add(index(nic)?, net.addr(), net.prefix_len());
                timeout(LIMIT, add.replace().execute()).await
            }
            Step::DeleteAddress(nic, net) => {
                let mut message = AddressMessage::default();
                message.header.family = family(net.addr());
                message.header.index = index(nic)?;
                message.header.prefix_len = net.prefix_len();
                message.attributes.push(AddressAttribute::Local(net.addr()));
                timeout(LIMIT, address.del(message).execute()).await
            }
            Step::SetRoute(new, _) => {
                let out = new.via.as_ref().map(|via| index(&via.nic)).transpose()?;
                timeout(LIMIT, route.add(route_message(new, out)).replace().execute()).await
            }
            Step::DeleteRoute(old) => timeout(LIMIT, route.del(route_message(old, None)).execute()).await,
            Step::AddRule(new) => {
                let mut add = rule.add().v4();
                *add.message_mut() = rule_message(new);
                timeout(LIMIT, add.execute()).await
            }
            Step::DeleteRule(old) => timeout(LIMIT, rule.del(rule_message(old)).execute()).await,
        };
        match outcome {
            Err(_) => Err(LinkError::Late(what())),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if is_done(step, &error) => Ok(()),
            Ok(Err(error)) => Err(LinkError::Refused { what: what(), reason: reason(&error) }),
        }
    }
}

/// What is to go may have gone with something else, and what is to come may be there.
fn is_done(step: &Step, error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) = error else { return false };
    let code = rustix::io::Errno::from_raw_os_error(code.get().abs());
    match step {
        Step::DeleteAddress(..) | Step::DeleteRoute(_) | Step::DeleteRule(_) => {
            matches!(
                code,
                rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::SRCH | rustix::io::Errno::NOENT
            )
        }
        Step::AddRule(_) => code == rustix::io::Errno::EXIST,
        _ => false,
    }
}

fn reason(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io().to_string(),
        other => other.to_string(),
    }
}

/// IPv6 has one address where IPv4 tells both ends.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(IpAddr::V4(*address)),
        AddressAttribute::Address(IpAddr::V6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

const fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

const fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn address_in(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn of_route(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn route_of(message: &RouteMessage, name_of: impl Fn(u32) -> Option<String>) -> Option<Route> {
    let family = message.header.address_family;
    if message.header.protocol != PROTOCOL || !matches!(family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let nobody = unspecified(family);
    let mut table = u32::from(message.header.table);
    let (mut destination, mut gateway, mut nic, mut source) = (nobody, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = address_in(address)?,
            RouteAttribute::Gateway(address) => gateway = address_in(address),
            RouteAttribute::PrefSource(address) => source = address_in(address),
            RouteAttribute::Oif(index) => nic = name_of(*index),
            _ => {}
        }
    }
    let via = match message.header.kind {
        RouteType::Throw => None,
        _ => Some(Via {
            gateway: gateway.unwrap_or(nobody),
            nic: nic.unwrap_or_default(),
            source: source.unwrap_or(nobody),
        }),
    };
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { table, destination, via })
}

fn route_message(route: &Route, out: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.kind = if route.via.is_some() { RouteType::Unicast } else { RouteType::Throw };
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.destination.prefix_len() > 0 {
        let network = of_route(route.destination.network());
        message.attributes.push(RouteAttribute::Destination(network));
    }
    if let (Some(via), Some(out)) = (&route.via, out) {
        message.attributes.push(RouteAttribute::Oif(out));
        message.attributes.push(RouteAttribute::Gateway(of_route(via.gateway)));
        if !via.source.is_unspecified() {
            message.attributes.push(RouteAttribute::PrefSource(of_route(via.source)));
        }
    }
    message
}

fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut table = u32::from(message.header.table);
    let (mut preference, mut source, mut mark) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => preference = *number,
            RuleAttribute::FwMark(number) => mark = Some(*number),
            RuleAttribute::Source(IpAddr::V4(address)) => {
                source = Ipv4Net::new(*address, message.header.src_len).ok();
            }
            _ => {}
        }
    }
    PREFERENCES.contains(&preference).then_some(Rule { preference, source, mark, table })
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Priority(rule.preference));
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL));
    message.attributes.extend(rule.mark.map(RuleAttribute::FwMark));
    if let Some(net) = rule.source {
        message.header.src_len = net.prefix_len();
        message.attributes.push(RuleAttribute::Source(IpAddr::V4(net.network())));
    }
    message
}
