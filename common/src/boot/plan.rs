//! What the boot does to the machine, decided from the [`Identity`] alone: files, kernel settings,
//! addresses and routes, a closed packet filter, services. Nothing here touches the machine.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::{Identity, Nic, Role, files, sysctl};

/// Port of the management's SSH.
pub const SSH_PORT: u16 = 3922;

/// What the plan has to know about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Names of the network interfaces.
    pub devices: Vec<String>,
    /// Whether the host offers its clock as `/dev/ptp0`.
    pub host_clock: bool,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its absolute path in the VM.
    pub path: &'static str,
    /// All of its text.
    pub text: String,
    /// Its mode.
    pub mode: u32,
}

/// Everything to do, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Short name of the role; empty where the arguments name none.
    pub role: &'static str,
    /// Host name.
    pub name: String,
    /// Files to write.
    pub files: Vec<File>,
    /// The packet filter, as `nft -f -` reads it; it admits only SSH and echo on the control NIC.
    pub filter: String,
    /// Kernel settings: path below `/proc/sys`, value.
    pub settings: Vec<(String, String)>,
    /// Devices that must be there before the addresses.
    pub devices: Vec<String>,
    /// Addresses and links, as `ip -batch -` reads them.
    pub addresses: Vec<String>,
    /// Routes, as `ip -batch -` reads them.
    pub routes: Vec<String>,
    /// Services to start; those of the list that the image lacks are left out.
    pub services: &'static [&'static str],
    /// What cannot be done as the arguments ask, for the console and the log.
    pub remarks: Vec<String>,
}

/// The plan for an identity.
pub fn plan(identity: &Identity, facts: &Facts) -> Plan {
    let mut remarks: Vec<String> = identity.problems.iter().map(ToString::to_string).collect();
    let control = identity.control().filter(|nic| nic.address.is_some()).or_else(|| link_local(identity));
    if control.is_none() {
        remarks.push(format!(
            "no address for the control NIC eth{}: SSH cannot be reached",
            identity.control_nic
        ));
    }
    if identity.get("bootproto") == Some("dhcp") {
        remarks.push(
            "boot argument bootproto=dhcp: addresses from DHCP are not known here; those given are used"
                .into(),
        );
    }
    if identity.get("userdata").is_some() {
        remarks.push("boot argument userdata: is not run".into());
    }
    let nics = nics(identity, control);
    Plan {
        role: identity.role.name(),
        name: identity.name.clone(),
        files: files::render(identity, control, facts),
        filter: filter(control),
        settings: sysctl::settings(identity, facts),
        devices: nics.iter().map(Nic::device).collect(),
        addresses: nics.iter().flat_map(|nic| address(nic, identity)).collect(),
        routes: routes(identity),
        services: match identity.role {
            Role::SecondaryStorage => &["sshd", "chronyd", "rpcbind", "statd", "core", "serve"],
            // The core starts those of VPNs where a document asks for one.
            Role::Router => &["sshd", "chronyd", "core", "serve", "charon", "xl2tpd"],
            Role::ConsoleProxy => &["sshd", "chronyd", "core", "serve"],
        },
        remarks,
    }
}

/// The NICs that the boot configures: of a router only the control NIC, the core does the rest.
fn nics(identity: &Identity, control: Option<&Nic>) -> Vec<Nic> {
    match identity.role {
        Role::Router => control.into_iter().cloned().collect(),
        Role::SecondaryStorage | Role::ConsoleProxy => {
            let mut nics: Vec<Nic> = identity.nics.iter().filter(|n| n.address.is_some()).cloned().collect();
            // Without a storage network eth3 has an address of the management network, and stays unused.
            nics.retain(|nic| nic.index != 3);
            nics.extend(storage_nic(identity));
            nics
        }
    }
}

/// The storage NIC, where the zone has a storage network (secondary storage contract 1.2).
fn storage_nic(identity: &Identity) -> Option<Nic> {
    let address: Ipv4Addr = identity.parsed("storageip")?;
    let prefix = ipnet::ipv4_mask_to_prefix(identity.parsed("storagenetmask")?).ok()?;
    Some(Nic { index: 3, address: Some(address), prefix, ipv6: None })
}

/// A NIC with a link-local address: a host's control network, whatever the arguments lack else.
fn link_local(identity: &Identity) -> Option<&Nic> {
    identity.nics.iter().find(|nic| nic.address.is_some_and(|a| a.is_link_local()))
}

fn address(nic: &Nic, identity: &Identity) -> Vec<String> {
    let device = nic.device();
    let Some(net) = nic.ipv4() else { return Vec::new() };
    let mtu = identity.parsed::<u32>("mtu").filter(|_| nic.index == 3);
    let mtu = mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    // An address of a /32 has no broadcast address.
    let broadcast = if net.prefix_len() < 31 { " broadcast +" } else { "" };
    vec![format!("link set dev {device}{mtu} up"), format!("address replace {net}{broadcast} dev {device}")]
}

/// The routes beside those that come with the addresses.
fn routes(identity: &Identity) -> Vec<String> {
    let local = identity.parsed::<Ipv4Addr>("localgw");
    let mut routes = Vec::new();
    match identity.role {
        Role::Router => {
            if let (Some(gateway), Some(control)) = (local, identity.control()) {
                let device = control.device();
                routes.extend(via(identity, identity.cidrs("mgmtcidr"), gateway, &device));
            }
        }
        Role::SecondaryStorage | Role::ConsoleProxy => {
            if let Some(gateway) = identity.parsed::<Ipv4Addr>("gateway") {
                let device = device_towards(identity, gateway).unwrap_or_else(|| "eth2".to_owned());
                routes.push(format!("route replace default via {gateway} dev {device}"));
            }
            if let Some(gateway) = local {
                let internal = internal(identity);
                routes.extend(via(identity, internal, gateway, "eth1"));
            }
        }
    }
    routes
}

/// Destinations behind the pod's gateway (secondary storage contract 1.4).
fn internal(identity: &Identity) -> Vec<IpNet> {
    let mut all = identity.cidrs("mgmtcidr");
    if public_address(identity).is_some_and(|address| !address.is_private() && !address.is_loopback()) {
        all.extend(PRIVATE.iter().map(|(address, bits)| IpNet::new_assert(IpAddr::V4(*address), *bits)));
    }
    let hosts = identity.get("host").unwrap_or_default().split('@').next().unwrap_or_default().split(',');
    let resolvers = ["internaldns1", "internaldns2"].into_iter().filter_map(|name| identity.get(name));
    let single = hosts.chain(resolvers).filter_map(|host| host.trim().parse::<Ipv4Addr>().ok());
    let management = identity.nic(1).and_then(Nic::ipv4);
    all.extend(
        single.filter(|a| !management.is_some_and(|net| net.contains(a))).map(|a| IpNet::from(IpAddr::V4(a))),
    );
    all
}

/// Private networks (RFC 1918).
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Routes to IPv4 destinations, each once; a network that a NIC is in keeps its own route.
fn via(identity: &Identity, to: Vec<IpNet>, gateway: Ipv4Addr, device: &str) -> Vec<String> {
    let own: Vec<Ipv4Net> = identity.nics.iter().filter_map(Nic::ipv4).map(|net| net.trunc()).collect();
    let mut seen = BTreeSet::new();
    to.into_iter()
        .filter_map(|net| match net {
            IpNet::V4(net) if !own.contains(&net) && seen.insert(net) => {
                Some(format!("route replace {net} via {gateway} dev {device}"))
            }
            _ => None,
        })
        .collect()
}

/// The NIC whose network holds an address; the public one first.
fn device_towards(identity: &Identity, address: Ipv4Addr) -> Option<String> {
    let order = identity.nic(2).into_iter().chain(identity.nics.iter());
    order.filter(|nic| nic.ipv4().is_some_and(|net| net.contains(&address))).map(Nic::device).next()
}

/// The address that stands for this VM to the world: of eth2, or of eth1 where that has none.
pub(super) fn public_address(identity: &Identity) -> Option<Ipv4Addr> {
    [2, 1].into_iter().find_map(|index| identity.nic(index).and_then(|nic| nic.address))
}

/// The closed filter, until the role's core puts its own in its place.
fn filter(control: Option<&Nic>) -> String {
    let admitted = control.map(|nic| {
        let device = nic.device();
        format!("\t\tiifname \"{device}\" icmp type echo-request accept\n\t\tiifname \"{device}\" tcp dport {SSH_PORT} accept\n")
    });
    format!(
        "add table inet trivium\ndelete table inet trivium\ntable inet trivium {{\n\
         \tchain input {{\n\t\ttype filter hook input priority filter; policy drop;\n\
         \t\tiifname \"lo\" accept\n\t\tct state established,related accept\n{}\t}}\n\
         \tchain forward {{\n\t\ttype filter hook forward priority filter; policy drop;\n\t}}\n}}\n",
        admitted.unwrap_or_default()
    )
}

/// The plan where the arguments do not say what the VM is to be: SSH on a link-local NIC if there is
/// one, so that an operator gets in, and nothing else.
pub fn rescue(line: &str, reason: &str, facts: &Facts) -> Plan {
    // The words are read as a console proxy's, which needs the fewest of them.
    let words = super::arguments(line).into_iter().filter(|(name, _)| name != "type" && name != "sshonguest");
    let words: Vec<String> = words.map(|(name, value)| format!("{name}={value}")).collect();
    let mut plan = Plan { remarks: vec![reason.to_owned()], ..Plan::default() };
    let Ok(identity) = Identity::parse(&format!("{} type=consoleproxy", words.join(" "))) else {
        return plan;
    };
    let Some(control) = link_local(&identity).or_else(|| identity.control()).filter(|n| n.address.is_some())
    else {
        plan.remarks.push("no NIC has a link-local address: SSH cannot be reached".to_owned());
        return plan;
    };
    plan.name.clone_from(&identity.name);
    plan.files = files::render(&identity, Some(control), facts);
    plan.filter = filter(Some(control));
    plan.settings = sysctl::settings(&identity, facts);
    plan.devices = vec![control.device()];
    plan.addresses = address(control, &identity);
    plan.services = &["sshd", "chronyd"];
    plan
}
