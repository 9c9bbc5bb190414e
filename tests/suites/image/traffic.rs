//! What goes through a router: guests of its networks, flows, and the documents of its management.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tests::lab::{Namespace, Process, join};

use crate::lab::{CONTROL, Lab};

/// A guest's end of a DHCP client: writes the address and takes it.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr flush dev eth0; ip addr add "$ip/$mask" dev eth0; ip route replace default via "$router"
echo "$ip $router $hostname" >"$OUT"
"#;

/// A guest's NIC, and a DHCP client for it.
pub(crate) struct Client {
    pub(crate) net: Namespace,
    dir: tempfile::TempDir,
}

impl Client {
    /// Puts a guest behind a bridge of the host.
    pub(crate) fn new(lab: &Lab, bridge: &str, mac: &str) -> Self {
        let net = Namespace::new(&format!("guest-{bridge}"));
        let device = format!("v-{bridge}");
        join(&lab.host, &device, &net, "eth0");
        lab.host.attach(bridge, &device);
        net.ip(&["link", "set", "eth0", "address", mac]);
        let dir = tempfile::tempdir().expect("folder");
        let script = dir.path().join("script");
        fs::write(&script, SCRIPT).expect("script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
        Self { net, dir }
    }

    /// Takes a lease: address, router and name.
    pub(crate) fn lease(&self) -> String {
        let (out, script) = (self.dir.path().join("out"), self.dir.path().join("script"));
        let _ = fs::remove_file(&out);
        let line = format!("OUT={} udhcpc -f -n -q -t 5 -T 3 -i eth0 -s {}", out.display(), script.display());
        self.net.ok(&line);
        fs::read_to_string(&out).expect("a lease").trim().to_owned()
    }

    /// Repeats on a port what it hears.
    pub(crate) fn echo(&self, port: u16) -> Process {
        self.net.spawn("busybox", &["nc", "-ll", "-p", &port.to_string(), "-e", "cat"])
    }
}

/// One connection from the host to an echo server that says something every 20 ms and wants it back.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<(u32, Duration), String>>,
}

impl Flow {
    /// Connects to `address`.
    pub(crate) fn start(lab: &Lab, address: &str) -> Self {
        // A socket stays in the namespace where it was made.
        let connect = || {
            lab.host.enter();
            TcpStream::connect(address)
        };
        let connected = thread::scope(|scope| scope.spawn(connect).join().expect("connecting"));
        let mut stream = connected.expect("the way to the echo server");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("time limit");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let work = thread::spawn(move || {
            let (mut count, mut longest) = (0_u32, Duration::ZERO);
            while !ended.load(Ordering::Relaxed) {
                let start = Instant::now();
                let mut back = [0; 4];
                stream.write_all(&count.to_be_bytes()).map_err(|e| format!("word {count}: {e}"))?;
                stream.read_exact(&mut back).map_err(|e| format!("word {count}: {e}"))?;
                if back != count.to_be_bytes() {
                    return Err(format!("word {count} came back as {back:?}"));
                }
                count += 1;
                longest = longest.max(start.elapsed());
                thread::sleep(Duration::from_millis(20));
            }
            Ok((count, longest))
        });
        Self { stop, work }
    }

    /// Words that came back, and the longest time that one took.
    pub(crate) fn end(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().expect("flow").expect("a connection that lasts")
    }
}

/// A document as a host sends it.
pub(crate) fn send(lab: &Lab, name: &str, text: &str) {
    send_to(lab, CONTROL, name, text);
}

/// The same to the VM that has an address.
pub(crate) fn send_to(lab: &Lab, address: &str, name: &str, text: &str) {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join(name);
    fs::write(&file, text).expect("document");
    let copied = lab.scp_to(address, &[&file]);
    assert!(copied.status.success(), "{copied:?}");
    let out = lab.ssh_to(address, &format!("/opt/cloud/bin/update_config.py {name}"));
    assert!(out.status.success(), "{name}: {out:?}");
}
