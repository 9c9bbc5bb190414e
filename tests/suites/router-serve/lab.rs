//! A router with two networks of guests and an outside, and the core that a test holds in its hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Permissions,
    net::Ipv4Addr,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{
    handover::{Core, Offer},
    paths::Paths,
    sandbox::User,
};
use router::{
    serve::sockets,
    snapshot::{
        COUNTERS, DHCP, DNS, Dhcp, DhcpHost, DhcpSubnet, Dns, DnsSubnet, EVENT, Event, Listener, Metadata,
        PASSWORDS, Password, Passwords, Service, host_kind, metadata_kind,
    },
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tests::lab::{Namespace, Process, binary, join};
use tokio::sync::oneshot;

/// Time for what should come at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// MACs of the guests: A and B in the first network, C in the second.
pub const A: &str = "02:00:00:00:00:0a";
pub const B: &str = "02:00:00:00:00:0b";
pub const C: &str = "02:00:00:00:00:0c";

/// Routes a call to the namespace of the lab's router: a thread that has moved there.
pub fn inside<T: Send + 'static>(
    namespace: &Namespace,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = format!("/run/netns/{}", namespace.name());
    std::thread::spawn(move || {
        let file = std::fs::File::open(path).expect("namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        work()
    })
}

/// A core that serves what the test tells it.
pub struct TestCore {
    core: Core,
    /// Waiting passwords, as core would keep them on its disk.
    pub passwords: Arc<Mutex<Passwords>>,
    /// The last counters.
    pub counters: Arc<Mutex<BTreeMap<String, u64>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestCore {
    pub fn start(paths: &Paths, namespace: &Namespace, passwords: Arc<Mutex<Passwords>>) -> Self {
        let (end, ended) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let counters = Arc::<Mutex<BTreeMap<String, u64>>>::default();
        let (paths, kept, counted) = (paths.clone(), passwords.clone(), counters.clone());
        let thread = inside(namespace, move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let (core, mut events) =
                    Core::listen(&paths, User::named(&paths, User::SERVE).unwrap()).expect("listen");
                ready.send(core.clone()).expect("test");
                let follow = async {
                    while let Some(event) = events.recv().await {
                        match event.kind.as_str() {
                            EVENT => {
                                let Event::PasswordTaken { address, serial } = event.parse().expect("event");
                                let mut kept = kept.lock().unwrap();
                                let taken = kept.0.get(&address).is_some_and(|p| p.serial == serial);
                                if taken {
                                    kept.0.remove(&address);
                                }
                                core.publish(PASSWORDS, &*kept).unwrap();
                                event.answer(&taken);
                            }
                            COUNTERS => {
                                *counted.lock().unwrap() = event.parse().expect("counters");
                                event.answer(&true);
                            }
                            other => panic!("event {other}"),
                        }
                    }
                };
                tokio::select! { () = follow => {}, _ = ended => {} }
            });
        });
        let core = started.recv_timeout(SOON).expect("core");
        Self { core, passwords, counters, end: Some(end), thread: Some(thread) }
    }

    /// Publishes a snapshot and waits until it is in force.
    pub fn publish<T: serde::Serialize>(&self, kind: &str, value: &T) {
        let version = self.core.publish(kind, value).unwrap();
        self.wait(version);
    }

    pub fn wait(&self, version: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(
            runtime.block_on(self.core.applied(version, SOON)),
            "serve did not take it: {:?}",
            self.core.failures()
        );
        assert!(self.core.failures().is_empty(), "{:?}", self.core.failures());
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("core");
        }
    }
}

impl Drop for TestCore {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The machines and what they are told. Dropped from top to bottom: processes before their namespaces.
pub struct Lab {
    pub serve: Process,
    pub core: TestCore,
    pub dhcp: Dhcp,
    pub hosts: Vec<DhcpHost>,
    /// Guests that core was told about.
    told: Mutex<BTreeSet<Ipv4Addr>>,
    pub dns: Dns,
    pub paths: Paths,
    _folder: tempfile::TempDir,
    pub a: Namespace,
    pub b: Namespace,
    pub c: Namespace,
    pub outside: Namespace,
    pub router: Namespace,
    _switch: Namespace,
}

pub fn subnet(nic: &str, third: u8) -> DhcpSubnet {
    let router = Ipv4Addr::new(10, 9, third, 1);
    DhcpSubnet {
        nic: nic.into(),
        router,
        network: format!("10.9.{third}.0/24").parse().unwrap(),
        mtu: 1450,
        resolvers: vec![router, [192, 0, 2, 53].into()],
        domain: format!("tier{third}.example"),
        search: vec!["a.example".into(), "b.example".into()],
        boot_file: None,
        six: None,
    }
}

pub fn host(mac: &str, address: [u8; 4], name: &str) -> DhcpHost {
    let [a, b, c, _] = address;
    let gateway = Some([a, b, c, 1].into());
    DhcpHost {
        mac: mac.parse().unwrap(),
        address: address.into(),
        six: None,
        name: name.into(),
        gateway,
        default_nic: true,
    }
}

impl Lab {
    /// The machines with serve running; guests have a link but no address.
    pub fn new() -> Self {
        let [router, switch, a, b, c, outside] = ["r", "sw", "a", "b", "c", "out"].map(Namespace::new);
        switch.bridge("br0");
        for (guest, port, mac) in [(&a, "pa", A), (&b, "pb", B)] {
            join(&switch, port, guest, "eth0");
            guest.ip(&["link", "set", "eth0", "address", mac]);
            switch.attach("br0", port);
        }
        join(&switch, "pr", &router, "eth0");
        switch.attach("br0", "pr");
        join(&router, "eth1", &c, "eth0");
        c.ip(&["link", "set", "eth0", "address", C]);
        join(&router, "eth2", &outside, "eth0");
        router.address("eth0", "10.9.1.1/24");
        router.address("eth1", "10.9.2.1/24");
        router.address("eth2", "192.0.2.1/24");
        outside.address("eth0", "192.0.2.53/24");
        outside.ip(&["addr", "add", "192.0.2.54/24", "dev", "eth0"]);

        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for folder in [paths.at("/etc"), paths.run()] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(paths.at("/etc/passwd"), "serve:x:65534:65534::/:/none\n").unwrap();
        // The account has to reach the socket.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let core = TestCore::start(&paths, &router, Arc::default());
        let serve = spawn_serve(&router, &paths);
        let dhcp = Dhcp { subnets: vec![subnet("eth0", 1), subnet("eth1", 2)] };
        let hosts = vec![
            host(A, [10, 9, 1, 10], "web"),
            DhcpHost { default_nic: false, ..host(B, [10, 9, 1, 20], "db") },
            host(C, [10, 9, 2, 10], "web"),
        ];
        let dns = Dns {
            domains: vec!["vpc.example".into(), "tier1.example".into(), "tier2.example".into()],
            upstreams: vec![[192, 0, 2, 53].into()],
            router_names: vec!["r-12-VM".into(), "data-server".into()],
            subnets: dhcp
                .subnets
                .iter()
                .map(|s| DnsSubnet { network: s.network, router: s.router, six: None })
                .collect(),
            near_only: false,
            open: false,
        };
        let lab = Self {
            serve,
            core,
            dhcp,
            hosts,
            told: Mutex::default(),
            dns,
            paths,
            _folder: folder,
            a,
            b,
            c,
            outside,
            router,
            _switch: switch,
        };
        lab.declare();
        lab
    }

    /// Tells core everything, and waits until serve serves it.
    pub fn declare(&self) {
        let mut offers = Vec::new();
        for subnet in &self.dhcp.subnets {
            for service in Service::ALL.into_iter().filter(|s| !matches!(s, Service::Advert | Service::Dhcp6))
            {
                let listener = Listener { service, nic: subnet.nic.clone(), address: subnet.router.into() };
                offers.push(Offer::new(listener.to_string(), move || sockets::open(&listener)));
            }
        }
        self.core.core.publish(DHCP, &self.dhcp).unwrap();
        self.core.core.publish(DNS, &self.dns).unwrap();
        let now: BTreeSet<Ipv4Addr> = self.hosts.iter().map(|host| host.address).collect();
        let before = std::mem::replace(&mut *self.told.lock().unwrap(), now.clone());
        for gone in before.difference(&now) {
            self.core.core.withdraw(&host_kind(*gone));
        }
        for host in &self.hosts {
            self.core.core.publish(&host_kind(host.address), host).unwrap();
        }
        self.core.core.complete();
        self.core.core.publish(PASSWORDS, &*self.core.passwords.lock().unwrap()).unwrap();
        let version = self.core.core.offer(offers);
        self.core.wait(version);
    }

    /// Gives the guests A, B and C their addresses without DHCP.
    pub fn address_guests(&self) {
        for (guest, address) in [(&self.a, "10.9.1.10"), (&self.b, "10.9.1.20"), (&self.c, "10.9.2.10")] {
            guest.address("eth0", &format!("{address}/24"));
            let gateway = if address.starts_with("10.9.1") { "10.9.1.1" } else { "10.9.2.1" };
            guest.ip(&["route", "add", "default", "via", gateway]);
        }
    }

    /// A core in the place of one that was killed; it knows what that one had on its disk.
    pub fn restart_core(&mut self) {
        self.core = TestCore::start(&self.paths, &self.router, self.core.passwords.clone());
        self.declare();
    }

    /// Core and serve in the place of those that were killed: a rebuilt router.
    pub fn restart_core_and_serve(&mut self) {
        self.serve = spawn_serve(&self.router, &self.paths);
        self.restart_core();
    }

    pub fn set_data(&self, guest: [u8; 4], user_data: Option<&[u8]>, keys: &[(&str, &str)]) {
        let keys = keys.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let data = Metadata { user_data: user_data.map(|u| STANDARD.encode(u)), keys };
        self.core.publish(&metadata_kind(guest.into()), &data);
    }

    pub fn set_password(&self, guest: [u8; 4], value: &str, serial: u64) {
        let mut passwords = self.core.passwords.lock().unwrap();
        passwords.0.insert(guest.into(), Password { value: value.into(), serial });
        self.core.publish(PASSWORDS, &*passwords);
    }

    /// A file in the lab's own folder.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.paths.at(&format!("/{name}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn spawn_serve(router: &Namespace, paths: &Paths) -> Process {
    let mut command = router.command(binary("router"));
    command.arg("serve").env("TRIVIUM_ROOT", paths.root());
    Process::start(command)
}
