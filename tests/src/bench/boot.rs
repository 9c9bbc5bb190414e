//! `boot`: from power-on, from disk by BIOS, to each role ready (SSVM and CPVM: joined), beside a Debian with the same
//! daemons to its SSH banner; and what our processes then hold.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use common::{
    channel::{
        server::{Admission, AttachedAgent, Candidate, Manager, Server, ServerConfig},
        tls::{Authority, ClientPolicy, KeyKind, Revoked, ServerTls},
    },
    command::agent::ReadyCommand,
};

use super::{Figure, Floor, Where};
use crate::lab::{
    Namespace,
    vm::{Config, Firmware, Vm, image_folder},
    wait_until,
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

/// The management server's end of the channel: lets everyone in, and says so.
struct Gate(mpsc::Sender<()>);

impl Manager for Gate {
    async fn admit(&self, _: &Candidate) -> Result<Admission, String> {
        Ok(Admission {
            host_id: 4,
            host_uuid: "77777777-0000-4000-8000-000000000004".into(),
            host_name: "joined".into(),
            setup: vec![],
            ready: ReadyCommand::default(),
        })
    }

    async fn attached(&self, _: &AttachedAgent) {
        let _ = self.0.send(());
    }
}

/// Opens that end in a namespace, for as long as this process runs.
fn gate(network: &Namespace, folder: PathBuf) -> mpsc::Receiver<()> {
    let (sender, joined) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let name = network.name().to_owned();
    thread::spawn(move || {
        Namespace::there(name).enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let address = IpAddr::from([10, 1, 2, 10]);
            let authority = Authority::open(&folder, "ca.bench", KeyKind::P256).expect("authority");
            let policy = ClientPolicy { strict: false, allow_expired: true };
            let tls = ServerTls::new(&authority, vec![], vec![address], policy, Revoked::default());
            let manager = Arc::new(Gate(sender));
            let server =
                Server::bind((address, 8250).into(), ServerConfig::default(), tls.expect("TLS"), manager);
            let _server = server.await.expect("port 8250");
            open.send(()).expect("a bench");
            std::future::pending::<()>().await;
        });
    });
    opened.recv().expect("the channel's end");
    joined
}

/// Seconds and CPU seconds that Debian takes to its SSH banner.
fn debian(network: &Namespace, round: usize) -> Option<(f64, f64)> {
    let disk = image_folder().join("../cache/stock/plain.qcow2");
    if !disk.exists() {
        return None;
    }
    let config = Config { disk, firmware: Firmware::Bios, memory: 512, ..Config::ours() };
    let vm = Vm::start(config.behind(network, "br0", &format!("02:00:4d:0f:{round:02x}:00")));
    let address = SocketAddr::from(([10, 1, 1, 1], 22));
    wait_until("Debian's SSH banner", LIMIT, || {
        network.inside(|| {
            let mut banner = [0; 4];
            let second = Duration::from_secs(1);
            TcpStream::connect_timeout(&address, second).is_ok_and(|mut stream| {
                stream.set_read_timeout(Some(second)).is_ok()
                    && stream.read_exact(&mut banner).is_ok()
                    && &banner == b"SSH-"
            })
        })
    });
    Some(vm.seconds())
}

/// What a role was seen to take.
#[derive(Default)]
struct Seen {
    wall: Vec<f64>,
    cpu: Vec<f64>,
    core: Vec<f64>,
    serve: Vec<f64>,
    timeline: String,
}

/// Boots each role `times` times, and Debian as often, in turns.
pub fn run(times: usize) {
    let network = Namespace::new("boot");
    network.bridge("br0");
    network.address("br0", "10.1.1.10/24");
    network.address("br0", "10.1.2.10/24");
    let folder = tempfile::tempdir().expect("folder");
    let joined = gate(&network, folder.path().to_owned());
    let (mut their_wall, mut their_cpu) = (vec![], vec![]);
    let mut roles: [Seen; ROLES.len()] = Default::default();
    for round in 0..times {
        if let Some((seconds, used)) = debian(&network, round) {
            their_wall.push(seconds);
            their_cpu.push(used);
        }
        for (kind, ((role, arguments), seen)) in ROLES.iter().zip(&mut roles).enumerate() {
            let mut config = Config { firmware: Firmware::Bios, ..Config::ours() };
            // Taps are named after it, and stay with the namespace.
            let one = format!("{kind:02x}:{round:02x}");
            for nic in 0..3 {
                config = config.behind(&network, "br0", &format!("02:00:4d:{one}:{nic:02x}"));
            }
            while joined.try_recv().is_ok() {}
            let mut vm = Vm::start(config);
            vm.deliver(arguments, LIMIT);
            vm.wait_line(&format!("TRIVIUM-READY role={role}"), LIMIT);
            if *role != "router" {
                joined.recv_timeout(LIMIT).expect("it joins the channel");
            }
            let (seconds, used) = vm.seconds();
            seen.wall.push(seconds);
            seen.cpu.push(used);
            seen.core.push(resident(&vm, "core"));
            seen.serve.push(resident(&vm, "serve"));
            seen.timeline = vm.agent(LIMIT).text("/run/trivium/timeline");
        }
    }
    for ((role, _), seen) in ROLES.iter().zip(roles) {
        for line in seen.timeline.lines() {
            println!("# {role} {line}");
        }
        for (what, ours, theirs, unit, floor) in [
            ("boot_cpu", seen.cpu, &their_cpu[..], "s", Some(Floor::RatioAtMost(0.5))),
            ("boot_wall", seen.wall, &their_wall, "s", None),
            ("rss_core", seen.core, &[], "MiB", None),
            ("rss_serve", seen.serve, &[], "MiB", None),
        ] {
            let mut figure = Figure::host(format!("{what}_{role}"), unit, ours, floor);
            if !theirs.is_empty() {
                figure = figure.against("debian", theirs.to_vec());
            }
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
