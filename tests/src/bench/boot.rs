//! `boot`: from power-on, from disk by BIOS, to each role ready; and what its processes then hold.

use std::time::Duration;

use super::{Figure, Where};
use crate::lab::{
    Namespace,
    vm::{Config, Firmware, Vm},
};

const LIMIT: Duration = Duration::from_secs(180);

/// Boot arguments without a key: nobody logs in here.
const ROLES: [(&str, &str); 3] = [
    (
        "router",
        "template=domP type=router name=r-7-VM eth0ip=10.1.1.1 eth0mask=255.255.255.0 eth1ip=169.254.10.20 \
         eth1mask=255.255.0.0 eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 domain=cs1.example \
         cidrsize=24 dhcprange=10.1.1.1 dns1=192.0.2.53 disable_rp_filter=true",
    ),
    (
        "ssvm",
        "template=domP type=secstorage host=10.1.2.10 port=8250 name=s-2-VM zone=1 pod=1 guid=s-2-VM \
         eth0ip=169.254.10.20 eth0mask=255.255.0.0 eth1ip=10.1.2.1 eth1mask=255.255.255.0 eth2ip=203.0.113.10 \
         eth2mask=255.255.255.0 gateway=203.0.113.1 mgmtcidr=10.1.2.0/24 localgw=10.1.2.10 dns1=192.0.2.53",
    ),
    (
        "cpvm",
        "template=domP type=consoleproxy host=10.1.2.10 port=8250 name=v-3-VM zone=1 pod=1 guid=Proxy.3 proxy_vm=3 \
         vncport=8080 eth0ip=169.254.10.20 eth0mask=255.255.0.0 eth1ip=10.1.2.1 eth1mask=255.255.255.0 \
         eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 mgmtcidr=10.1.2.0/24 localgw=10.1.2.10 \
         dns1=192.0.2.53",
    ),
];

/// Boots each role `times` times.
pub fn run(times: usize) {
    let network = Namespace::new("boot");
    network.bridge("br0");
    for (kind, (role, arguments)) in ROLES.into_iter().enumerate() {
        let (mut wall, mut cpu, mut core, mut serve) = (vec![], vec![], vec![], vec![]);
        for round in 0..times {
            let mut config = Config { firmware: Firmware::Bios, ..Config::ours() };
            // Taps are named after it, and stay with the namespace.
            let one = format!("{kind:02x}:{round:02x}");
            for nic in 0..3 {
                config = config.behind(&network, "br0", &format!("02:00:4d:{one}:{nic:02x}"));
            }
            let mut vm = Vm::start(config);
            vm.deliver(arguments, LIMIT);
            vm.wait_line(&format!("TRIVIUM-READY role={role}"), LIMIT);
            let (seconds, used) = vm.seconds();
            wall.push(seconds);
            cpu.push(used);
            core.push(resident(&vm, "core"));
            serve.push(resident(&vm, "serve"));
        }
        for (what, ours, unit) in [
            ("boot_cpu", cpu, "s"),
            ("boot_wall", wall, "s"),
            ("rss_core", core, "MiB"),
            ("rss_serve", serve, "MiB"),
        ] {
            let figure = Figure::host(format!("{what}_{role}"), unit, ours, None);
            Figure { place: Where::Vm, ..figure }.print();
        }
    }
}

/// Resident memory of a service's process, MiB.
fn resident(vm: &Vm, service: &str) -> f64 {
    let mut agent = vm.agent(LIMIT);
    let ran = agent.run("/usr/bin/s6-svstat", &["-o", "pid", &format!("/run/service/{service}")]);
    let status = agent.text(&format!("/proc/{}/status", ran.stdout.trim()));
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .map_or(f64::NAN, |kib| kib / 1024.0)
}
