//! A router between a guest, a host and the outside.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    shim::wire::{self, Request},
};

use super::{super::processor_seconds, documents::mac};
use crate::lab::{Namespace, Process, binary, join, wait_until};

const ISOLATED: &str = "template=domP name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    eth0ip=10.1.0.1 eth0mask=255.255.0.0 domain=cs1.example cidrsize=16 dhcprange=10.1.0.1 \
    eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=203.0.113.1\n";
const VPC: &str = "vpccidr=10.9.0.0/16 domain=vpc1.example dns1=203.0.113.1 template=domP name=r-12-VM \
    eth0ip=169.254.10.20 eth0mask=255.255.0.0 has_public_network=true type=vpcrouter disable_rp_filter=true \
    source_nat_ip=203.0.113.10\n";
/// Longest time for a command.
const LIMIT: Duration = Duration::from_secs(590);

/// The router's two processes and the namespaces around it; all ends with this guard.
pub(super) struct Lab {
    pub(super) core: Process,
    pub(super) serve: Process,
    pub(super) router: Namespace,
    pub(super) guest: Namespace,
    pub(super) host: Namespace,
    pub(super) outside: Namespace,
    pub(super) paths: Paths,
    _root: tempfile::TempDir,
}

impl Lab {
    /// A guest at 10.1.0.20, the outside at 203.0.113.1.
    pub(super) fn isolated() -> Self {
        let [router, guest, host, outside] = ["router", "guest", "host", "out"].map(Namespace::new);
        for (nic, peer) in [("eth0", &guest), ("eth1", &host), ("eth2", &outside)] {
            join(&router, nic, peer, "eth0");
        }
        guest.address("eth0", "10.1.0.20/16");
        guest.ip(&["route", "add", "default", "via", "10.1.0.1"]);
        Self::start(ISOLATED, router, guest, host, outside)
    }

    /// A VPC: the outside at eth1, tiers at eth2 and on, all wired to one guest namespace.
    pub(super) fn vpc(tiers: u8) -> Self {
        let [router, guest, host, outside] = ["router", "guest", "host", "out"].map(Namespace::new);
        join(&router, "eth0", &host, "eth0");
        join(&router, "eth1", &outside, "eth0");
        for tier in 0..tiers {
            let nic = format!("eth{}", tier + 2);
            join(&router, &nic, &guest, &nic);
        }
        Self::start(VPC, router, guest, host, outside)
    }

    fn start(line: &str, router: Namespace, guest: Namespace, host: Namespace, outside: Namespace) -> Self {
        let nics = router.ok("ls /sys/class/net");
        for number in nics.split_whitespace().filter_map(|nic| nic.strip_prefix("eth")?.parse::<u8>().ok()) {
            router.ip(&["link", "set", &format!("eth{number}"), "address", &mac(number)]);
        }
        outside.address("eth0", "203.0.113.1/24");
        host.address("eth0", "169.254.0.1/16");
        let root = tempfile::tempdir().expect("folder");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("mode");
        let paths = Paths::below(root.path());
        fs::create_dir_all(paths.cache()).expect("folder");
        fs::create_dir_all(paths.at("/etc")).expect("folder");
        fs::write(paths.cmdline(), line).expect("boot arguments");
        fs::write(paths.at("/etc/passwd"), "serve:x:65534:65534::/:/none\n").expect("accounts");
        let half = |half: &str| {
            let mut command = router.command(binary("router"));
            command.arg(half).env("TRIVIUM_ROOT", root.path()).env("RUST_LOG", "error");
            Process::start(command)
        };
        let (core, serve) = (half("core"), half("serve"));
        let lab = Self { core, serve, router, guest, host, outside, paths, _root: root };
        wait_until("the router", Duration::from_secs(60), || {
            lab.paths.boot_done().exists()
                && lab
                    .run(&["status"])
                    .is_some_and(|(code, text)| code == 0 && text.contains("health: healthy"))
        });
        lab
    }

    /// Exit code and output of a command; `None` where nobody answers.
    pub(super) fn run(&self, words: &[&str]) -> Option<(u8, String)> {
        let request = Request::new(words.iter().copied());
        wire::call(&self.paths, &request, LIMIT).ok().map(|reply| (reply.code, reply.stdout + &reply.stderr))
    }

    /// Puts a document where the host puts it, and returns its name.
    pub(super) fn place(&self, kind: &str, text: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{kind}.json.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(self.paths.cache().join(&name), text).expect("document");
        name
    }

    /// Has documents that are in place applied, one by one; how long that took.
    pub(super) fn apply(&self, names: &[String]) -> Duration {
        let start = Instant::now();
        for name in names {
            let (code, text) = self.run(&["update_config.py", name, "false"]).expect("an answer");
            assert_eq!(code, 0, "{name}: {text}");
        }
        start.elapsed()
    }

    /// Has many documents applied as one bundle; how long that took.
    pub(super) fn bundle(&self, documents: &[(&str, String)]) -> Duration {
        let mut text =
            String::from("#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n");
        for (number, (kind, document)) in documents.iter().enumerate() {
            let name = format!("{kind}.json.b{number}");
            text += &format!("<file>\n/var/cache/cloud/{name}\n{document}\n</file>\n");
            text += &format!("<script>\n/opt/cloud/bin/update_config.py {name}\n</script>\n");
        }
        let name = self.place("VR", &text);
        let start = Instant::now();
        let path = format!("/var/cache/cloud/{name}");
        let (code, said) = self.run(&["vr_cfg.sh", "-c", &path]).expect("an answer");
        assert_eq!(code, 0, "{}", said.chars().take(2000).collect::<String>());
        start.elapsed()
    }

    /// Processor seconds of both processes and of the programs they have run.
    pub(super) fn processor(&self) -> f64 {
        [&self.core, &self.serve].map(|process| processor_seconds(process.id())).iter().sum()
    }

    /// Resident memory of both processes, MiB.
    pub(super) fn resident(&self) -> f64 {
        let of = |process: &Process| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("figures");
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1024.0
        };
        of(&self.core) + of(&self.serve)
    }
}
