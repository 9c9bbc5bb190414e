//! The line of boot arguments of a system VM: keys and their order as the contract has them
//! (router contract 1.4, secondary storage 1.1, console proxy 1.1).

use base64::{Engine, engine::general_purpose::STANDARD};
use common::command::host::Traffic;
use ipnet::Ipv4Net;

use crate::{
    db::{Kind, NicRow, Owner, Vm},
    zone::{NetworkKind, StoreKind, Zone},
};

/// Collects `key=value` words.
struct Words(Vec<String>);

impl Words {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.0.push(format!("{key}={value}"));
        self
    }

    fn nic(&mut self, nic: &NicRow, net: Ipv4Net) -> &mut Self {
        self.add(&format!("eth{}ip", nic.device), nic.address)
            .add(&format!("eth{}mask", nic.device), net.netmask())
    }

    fn line(self) -> String {
        self.0.join(" ")
    }
}

/// The line for `vm`; `None` for a guest, and for a VM that the zone has no longer. `public_key`
/// is the line of `authorized_keys`. The same zone and VM give the same line, so that a VM that
/// starts anew keeps its state.
pub(crate) fn render(zone: &Zone, vm: &Vm, public_key: &str) -> Option<String> {
    match (&vm.owner, vm.kind) {
        (Owner::Network(name), _) => router(zone, vm, name, public_key),
        (_, Kind::Ssvm) => Some(ssvm(zone, vm, public_key)),
        (_, Kind::Cpvm) => Some(cpvm(zone, vm, public_key)),
        _ => None,
    }
}

fn control_net() -> Ipv4Net {
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16)
}

fn router(zone: &Zone, vm: &Vm, network: &str, public_key: &str) -> Option<String> {
    let network = zone.network(network)?;
    let mut words = Words::new();
    words.add("template", "domP").add("name", &vm.name).add("authorized_key", STANDARD.encode(public_key));
    for nic in nics_default_first(vm) {
        match nic.traffic {
            Traffic::Public => {
                words.nic(nic, zone.public.net).add("gateway", zone.public.gateway).add("publicMtu", 1500);
            }
            Traffic::Guest => {
                words.nic(nic, network.net);
                if network.is_guarded() {
                    words.add("gateway", network.gateway);
                }
                words
                    .add("privateMtu", 1500)
                    .add("domain", &network.domain)
                    .add("cidrsize", network.net.prefix_len());
                if let Some(first) = network.net.hosts().next() {
                    words.add("dhcprange", first);
                }
            }
            _ => {
                words.nic(nic, control_net());
            }
        }
    }
    let kind = match network.kind {
        NetworkKind::Isolated => "router",
        NetworkKind::Basic { .. } => "dhcpsrvr",
    };
    words.add("type", kind).add("disable_rp_filter", true);
    for (number, resolver) in (1..).zip(&zone.dns) {
        words.add(&format!("dns{number}"), resolver);
    }
    words.add("logrotatefrequency", "*:00:00");
    Some(words.line())
}

fn ssvm(zone: &Zone, vm: &Vm, public_key: &str) -> String {
    let mut words = Words::new();
    words
        .add("template", "domP")
        .add("type", "secstorage")
        .add("host", zone.management.address)
        .add("port", zone.management.port)
        .add("name", &vm.name)
        .add("zone", zone.id)
        .add("pod", zone.pod)
        .add("guid", &vm.name)
        .add("workers", 5)
        .add("authorized_key", STANDARD.encode(public_key))
        .add("resource", "org.apache.cloudstack.storage.resource.NfsSecondaryStorageResource")
        .add("instance", "SecStorage")
        .add("sslcopy", false)
        .add("role", "templateProcessor")
        .add("mtu", 1500);
    time_servers(&mut words, zone);
    for nic in nics_default_first(vm) {
        match nic.traffic {
            Traffic::Public => {
                words
                    .nic(nic, zone.public.net)
                    .add("gateway", zone.public.gateway)
                    .add("public.network.device", format!("eth{}", nic.device));
            }
            Traffic::Management => {
                management(&mut words, zone, nic);
                words.add("private.network.device", format!("eth{}", nic.device));
            }
            _ => {
                words.nic(nic, control_net());
            }
        }
    }
    resolvers(&mut words, zone);
    words
        .add("nfsVersion", "null")
        .add("keystore_password", STANDARD.encode(&vm.keystore_password))
        .add("useHttpsToUpload", true);
    let servers = store_servers(zone);
    if !servers.is_empty() {
        words.add("secondaryStorageServerAddress", servers.join(","));
    }
    words.line()
}

fn cpvm(zone: &Zone, vm: &Vm, public_key: &str) -> String {
    let mut words = Words::new();
    words
        .add("template", "domP")
        .add("type", "consoleproxy")
        .add("host", zone.management.address)
        .add("port", zone.management.port)
        .add("name", &vm.name)
        .add("zone", zone.id)
        .add("pod", zone.pod)
        .add("guid", format!("Proxy.{}", vm.id))
        .add("proxy_vm", vm.id)
        .add("disable_rp_filter", true)
        .add("authorized_key", STANDARD.encode(public_key));
    time_servers(&mut words, zone);
    for nic in nics_default_first(vm) {
        match nic.traffic {
            Traffic::Public => {
                words.nic(nic, zone.public.net).add("gateway", zone.public.gateway);
            }
            Traffic::Management => management(&mut words, zone, nic),
            _ => {
                words.nic(nic, control_net());
            }
        }
    }
    resolvers(&mut words, zone);
    words.add("vncport", 8080).add("keystore_password", STANDARD.encode(&vm.keystore_password));
    words.line()
}

/// The contract lists the NIC of the default route first, the others by number.
fn nics_default_first(vm: &Vm) -> impl Iterator<Item = &NicRow> {
    let public = vm.nics.iter().filter(|n| n.traffic == Traffic::Public);
    public.chain(vm.nics.iter().filter(|n| n.traffic != Traffic::Public))
}

fn management(words: &mut Words, zone: &Zone, nic: &NicRow) {
    let segment = &zone.management.segment;
    words.nic(nic, segment.net).add("mgmtcidr", segment.net).add("localgw", segment.gateway);
}

fn resolvers(words: &mut Words, zone: &Zone) {
    for (number, resolver) in (1..).zip(&zone.internal_dns) {
        words.add(&format!("internaldns{number}"), resolver);
    }
    for (number, resolver) in (1..).zip(&zone.dns) {
        words.add(&format!("dns{number}"), resolver);
    }
}

fn time_servers(words: &mut Words, zone: &Zone) {
    if !zone.ntp.is_empty() {
        words.add("ntpserverlist", zone.ntp.join(","));
    }
}

fn store_servers(zone: &Zone) -> Vec<&str> {
    fn host(kind: &StoreKind) -> Option<&str> {
        match kind {
            StoreKind::Nfs { url, .. } => url.strip_prefix("nfs://")?.split('/').next()?.split(':').next(),
            StoreKind::S3 { .. } => None,
        }
    }
    let mut servers: Vec<&str> = zone.stores.iter().filter_map(|s| host(&s.kind)).collect();
    servers.dedup();
    servers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{db::Db, zone::tests::example};

    fn lines() -> Vec<String> {
        let zone = example();
        let db = Db::in_memory().unwrap();
        db.take_zone(&zone).unwrap();
        db.vms().unwrap().iter().filter_map(|vm| render(&zone, vm, "ssh-rsa AAAA")).collect()
    }

    #[test]
    fn a_router_gets_the_contracts_arguments_in_the_contracts_order() {
        assert_eq!(
            lines()[0],
            "template=domP name=r-1-VM authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.10 \
             eth2mask=255.255.255.0 gateway=203.0.113.1 publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 \
             privateMtu=1500 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.1.1 \
             eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 \
             logrotatefrequency=*:00:00"
        );
    }

    #[test]
    fn an_ssvm_gets_the_contracts_arguments_in_the_contracts_order() {
        let line = &lines()[1];
        let (before, password) = line.split_once(" keystore_password=").unwrap();
        assert_eq!(
            before,
            "template=domP type=secstorage host=192.168.100.5 port=8250 name=s-2-VM zone=1 pod=1 guid=s-2-VM \
             workers=5 authorized_key=c3NoLXJzYSBBQUFB \
             resource=org.apache.cloudstack.storage.resource.NfsSecondaryStorageResource instance=SecStorage \
             sslcopy=false role=templateProcessor mtu=1500 ntpserverlist=192.0.2.123 eth2ip=203.0.113.11 \
             eth2mask=255.255.255.0 gateway=203.0.113.1 public.network.device=eth2 eth0ip=169.254.1.2 \
             eth0mask=255.255.0.0 eth1ip=192.168.100.20 eth1mask=255.255.255.0 mgmtcidr=192.168.100.0/24 \
             localgw=192.168.100.1 private.network.device=eth1 internaldns1=192.0.2.53 dns1=192.0.2.53 \
             nfsVersion=null"
        );
        assert!(password.ends_with(" useHttpsToUpload=true secondaryStorageServerAddress=192.168.100.5"));
    }

    #[test]
    fn a_cpvm_gets_the_contracts_arguments_in_the_contracts_order() {
        let line = &lines()[2];
        let (before, _) = line.split_once(" keystore_password=").unwrap();
        assert_eq!(
            before,
            "template=domP type=consoleproxy host=192.168.100.5 port=8250 name=v-3-VM zone=1 pod=1 guid=Proxy.3 \
             proxy_vm=3 disable_rp_filter=true authorized_key=c3NoLXJzYSBBQUFB ntpserverlist=192.0.2.123 \
             eth2ip=203.0.113.12 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=169.254.1.3 \
             eth0mask=255.255.0.0 eth1ip=192.168.100.21 eth1mask=255.255.255.0 mgmtcidr=192.168.100.0/24 \
             localgw=192.168.100.1 internaldns1=192.0.2.53 dns1=192.0.2.53 vncport=8080"
        );
    }

    #[test]
    fn the_router_of_a_basic_network_gets_no_public_nic() {
        let zone = crate::zone::tests::with_basic();
        let db = Db::in_memory().unwrap();
        db.take_zone(&zone).unwrap();
        let vms = db.vms().unwrap();
        let router = vms.iter().find(|vm| vm.owner == Owner::Network("basic".to_owned())).unwrap();
        assert_eq!(
            render(&zone, router, "ssh-rsa AAAA").unwrap(),
            "template=domP name=r-2-VM authorized_key=c3NoLXJzYSBBQUFB eth0ip=10.2.0.2 eth0mask=255.255.255.0 \
             gateway=10.2.0.1 privateMtu=1500 domain=cs2.example cidrsize=24 dhcprange=10.2.0.1 eth1ip=169.254.1.2 \
             eth1mask=255.255.0.0 type=dhcpsrvr disable_rp_filter=true dns1=192.0.2.53 logrotatefrequency=*:00:00"
        );
    }

    #[test]
    fn a_guest_has_none() {
        assert_eq!(lines().len(), 3);
    }
}
