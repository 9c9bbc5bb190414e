use super::*;

const CPVM: &str = "template=domP type=consoleproxy host=192.168.10.2,192.168.99.2@static port=8250 name=v-42-VM zone=1 pod=1 guid=Proxy.42 proxy_vm=42 disable_rp_filter=true authorized_key=c3NoLXJzYSBBQUFB ntpserverlist=192.0.2.123,ntp.example eth2ip=203.0.113.20 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=169.254.3.4 eth0mask=255.255.0.0 eth1ip=192.168.10.20 eth1mask=255.255.255.0 mgmtcidr=192.168.10.0/24,172.20.0.0/16 localgw=192.168.10.1 internaldns1=192.168.99.53 dns1=192.0.2.53 vncport=8080";

fn facts() -> Facts {
    Facts { devices: ["eth0", "eth1", "eth2", "lo"].map(str::to_owned).to_vec(), host_clock: false }
}

fn of(line: &str) -> Plan {
    plan(&Identity::parse(line).unwrap(), &facts())
}

fn file<'a>(plan: &'a Plan, path: &str) -> &'a str {
    &plan.files.iter().find(|f| f.path == path).unwrap().text
}

fn setting<'a>(plan: &'a Plan, key: &str) -> &'a str {
    &plan.settings.iter().rfind(|(k, _)| k == key).unwrap().1
}

#[test]
fn console_proxy() {
    let plan = of(CPVM);
    assert_eq!(plan.remarks, [""; 0]);
    assert_eq!((plan.role, plan.name.as_str()), ("cpvm", "v-42-VM"));
    assert_eq!(
        plan.addresses,
        [
            "link set dev eth0 up",
            "address replace 169.254.3.4/16 broadcast + dev eth0",
            "link set dev eth1 up",
            "address replace 192.168.10.20/24 broadcast + dev eth1",
            "link set dev eth2 up",
            "address replace 203.0.113.20/24 broadcast + dev eth2",
        ]
    );
    // The management network keeps its own route, and a management server in it needs none.
    assert_eq!(
        plan.routes,
        [
            "route replace default via 203.0.113.1 dev eth2",
            "route replace 172.20.0.0/16 via 192.168.10.1 dev eth1",
            "route replace 10.0.0.0/8 via 192.168.10.1 dev eth1",
            "route replace 172.16.0.0/12 via 192.168.10.1 dev eth1",
            "route replace 192.168.0.0/16 via 192.168.10.1 dev eth1",
            "route replace 192.168.99.2/32 via 192.168.10.1 dev eth1",
            "route replace 192.168.99.53/32 via 192.168.10.1 dev eth1",
        ]
    );
    assert_eq!(
        file(&plan, "/etc/resolv.conf"),
        "nameserver 192.168.99.53\nnameserver 192.0.2.53\noptions timeout:2 attempts:2\n"
    );
    assert!(file(&plan, "/etc/hosts").ends_with("203.0.113.20 v-42-VM\n"));
    assert!(
        file(&plan, "/etc/chrony/chrony.conf")
            .starts_with("server 192.0.2.123 iburst\nserver ntp.example iburst\nmakestep")
    );
    assert_eq!(file(&plan, "/root/.ssh/authorized_keys"), "ssh-rsa AAAA\n");
    assert!(file(&plan, "/etc/ssh/sshd_config").contains("\nListenAddress 169.254.3.4\n"));
    assert!(plan.filter.contains("iifname \"eth0\" tcp dport 3922 accept"));
    assert_eq!(setting(&plan, "net/ipv4/ip_forward"), "0");
    assert_eq!(setting(&plan, "net/ipv4/conf/eth2/rp_filter"), "0");
    assert_eq!(plan.services, ["sshd", "chronyd", "core", "serve"]);
}

#[test]
fn private_public_address_has_no_private_routes() {
    let plan = of(&CPVM.replace("203.0.113.", "10.8.0."));
    assert!(!plan.routes.iter().any(|r| r.contains("10.0.0.0/8")), "{:?}", plan.routes);
    assert!(plan.routes[0].starts_with("route replace default via 10.8.0.1 dev eth2"));
}

#[test]
fn secondary_storage_with_and_without_a_storage_network() {
    let line = CPVM
        .replace("type=consoleproxy", "type=secstorage mtu=9000 eth3ip=192.168.10.30 eth3mask=255.255.255.0");
    let without = of(&line);
    assert!(!without.addresses.iter().any(|a| a.contains("eth3")), "{:?}", without.addresses);
    let with =
        of(&format!("{line} storageip=10.50.0.3 storagenetmask=255.255.255.0 storagegateway=10.50.0.1"));
    assert_eq!(with.addresses[6], "link set dev eth3 mtu 9000 up");
    assert_eq!(with.addresses[7], "address replace 10.50.0.3/24 broadcast + dev eth3");
    assert!(with.services.contains(&"statd"));
}

#[test]
fn ssh_moves_to_the_management_nic_without_a_control_network() {
    let plan =
        of(&CPVM.replace("eth0ip=169.254.3.4 eth0mask=255.255.0.0", "eth0ip=0.0.0.0 eth0mask=0.0.0.0"));
    assert!(file(&plan, "/etc/ssh/sshd_config").contains("\nListenAddress 192.168.10.20\n"));
    assert!(plan.filter.contains("iifname \"eth1\" tcp dport 3922 accept"));
    assert!(!plan.addresses.iter().any(|a| a.contains("eth0")));
}

#[test]
fn a_router_gets_its_control_nic_only() {
    let plan = of(super::tests::ROUTER);
    assert_eq!(
        plan.addresses,
        ["link set dev eth1 up", "address replace 169.254.10.20/16 broadcast + dev eth1"]
    );
    assert_eq!(plan.routes, [""; 0]);
    assert_eq!(setting(&plan, "net/ipv4/ip_forward"), "1");
    assert_eq!(setting(&plan, "net/ipv4/conf/eth1/rp_filter"), "1");
    assert_eq!(setting(&plan, "net/ipv4/conf/eth2/rp_filter"), "0");
    assert!(file(&plan, "/etc/chrony/chrony.conf").starts_with("local stratum 15\n"));
    let dhcp = of(&super::tests::ROUTER.replace("type=router", "type=dhcpsrvr sshonguest=true"));
    assert_eq!(setting(&dhcp, "net/ipv4/ip_forward"), "0");
    assert!(dhcp.filter.contains("iifname \"eth0\" tcp dport 3922"));
    let vmware = of(&super::tests::ROUTER.replace(
        "eth1ip=169.254.10.20 eth1mask=255.255.0.0",
        "eth1ip=192.168.10.9 eth1mask=255.255.255.0 mgmtcidr=172.30.0.0/16 localgw=192.168.10.1",
    ));
    assert_eq!(vmware.routes, ["route replace 172.30.0.0/16 via 192.168.10.1 dev eth1"]);
    let vpc =
        of("type=vpcrouter name=r-12-VM eth0ip=169.254.33.7 eth0mask=255.255.0.0 disable_rp_filter=true");
    assert_eq!(vpc.devices, ["eth0"]);
}

#[test]
fn a_line_without_a_role_still_gives_ssh() {
    let line = super::tests::ROUTER.replace("type=router", "type=toaster");
    let plan = rescue(&line, "unknown type", &facts());
    assert_eq!(plan.role, "");
    assert_eq!(plan.devices, ["eth1"]);
    assert!(file(&plan, "/etc/ssh/sshd_config").contains("\nListenAddress 169.254.10.20\n"));
    assert_eq!(file(&plan, "/root/.ssh/authorized_keys"), "ssh-rsa AAAA\n");
    assert_eq!(plan.services, ["sshd", "chronyd"]);
    let none = rescue("nothing", "unknown type", &facts());
    assert!(none.remarks[1].contains("SSH cannot be reached"));
    assert!(none.addresses.is_empty());
}

#[test]
fn a_malformed_control_nic_is_replaced_by_a_link_local_one() {
    let plan = of(
        "type=consoleproxy name=v-1-VM eth0ip=broken eth0mask=255.255.0.0 eth5ip=169.254.7.7 eth5mask=255.255.0.0",
    );
    assert!(plan.filter.contains("eth5"));
    assert!(plan.remarks[0].starts_with("boot argument eth0ip=broken"));
}

#[test]
fn the_filter_loads_and_the_ssh_configuration_is_understood() {
    use std::time::Duration;
    let plan = of(CPVM);
    let limit = Duration::from_secs(20);
    crate::program::run("nft", ["-c", "-f", "-"], plan.filter.as_bytes(), limit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    crate::program::run(
        "ssh-keygen",
        ["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()],
        b"",
        limit,
    )
    .unwrap();
    let text = file(&plan, "/etc/ssh/sshd_config")
        .lines()
        .filter(|l| !l.starts_with("HostKey "))
        .fold(format!("HostKey {}\n", key.display()), |all, line| all + line + "\n");
    let config = folder.path().join("sshd_config");
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir_all("/run/sshd").unwrap();
    let shown =
        crate::program::run("/usr/sbin/sshd", ["-T", "-f", config.to_str().unwrap()], b"", limit).unwrap();
    assert!(shown.contains("listenaddress 169.254.3.4:3922"), "{shown}");
    assert!(shown.contains("maxsessions 1000"), "{shown}");
}
