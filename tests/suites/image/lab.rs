//! A host with the three networks of a system VM, and the management's key.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use base64::Engine as _;
use tests::lab::{
    Namespace,
    vm::{Config, Saved, Vm},
};

/// Longest time for one step inside a VM on a busy machine without KVM.
pub(crate) const STEP: Duration = Duration::from_secs(180);

/// Address of the VM on the control network.
pub(crate) const CONTROL: &str = "169.254.10.20";

/// A role with the arguments that a host sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Router,
    SecondaryStorage,
    ConsoleProxy,
}

impl Role {
    /// The name of its binary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::SecondaryStorage => "ssvm",
            Self::ConsoleProxy => "cpvm",
        }
    }

    /// Bridges behind eth0, eth1, eth2.
    fn bridges(self) -> [&'static str; 3] {
        match self {
            Self::Router => ["guest", "control", "public"],
            Self::SecondaryStorage | Self::ConsoleProxy => ["control", "guest", "public"],
        }
    }

    /// The line of boot arguments, without the key.
    fn arguments(self) -> String {
        match self {
            Self::Router => format!(
                " template=domP name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
                 publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 privateMtu=1500 domain=cs1.example \
                 cidrsize=24 dhcprange=10.1.1.1 eth1ip={CONTROL} eth1mask=255.255.0.0 type=router \
                 disable_rp_filter=true dns1=192.0.2.53 dns2=192.0.2.54 logrotatefrequency=*:00:00"
            ),
            Self::SecondaryStorage => Self::system("secstorage", "s-2-VM"),
            Self::ConsoleProxy => Self::system("consoleproxy", "v-3-VM"),
        }
    }

    fn system(kind: &str, name: &str) -> String {
        format!(
            " template=domP type={kind} host=10.1.1.10 port=8250 name={name} zone=1 pod=1 guid=x.{name} \
             eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 public.network.device=eth2 \
             eth0ip={CONTROL} eth0mask=255.255.0.0 eth1ip=10.1.1.1 eth1mask=255.255.255.0 \
             mgmtcidr=10.1.1.0/24 localgw=10.1.1.10 internaldns1=192.0.2.53 dns1=192.0.2.53"
        )
    }
}

/// A host: bridges `control`, `guest`, `public` with an address each, and an SSH key.
pub(crate) struct Lab {
    pub(crate) host: Namespace,
    keys: tempfile::TempDir,
}

impl Lab {
    /// Makes the host's side.
    pub(crate) fn new() -> Self {
        let host = Namespace::new("host");
        for (bridge, address) in
            [("control", "169.254.0.1/16"), ("guest", "10.1.1.10/24"), ("public", "203.0.113.1/24")]
        {
            host.bridge(bridge);
            host.address(bridge, address);
        }
        let keys = tempfile::tempdir().expect("folder of keys");
        for name in ["id", "other"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "management", "-f"])
                .arg(keys.path().join(name))
                .status();
            assert!(made.expect("ssh-keygen (package openssh-client)").success(), "ssh-keygen failed");
        }
        Self { host, keys }
    }

    /// Puts the three cards of a machine behind the bridges of a role.
    pub(crate) fn plug(&self, mut config: Config, role: Role) -> Config {
        config.nics.clear();
        for (index, bridge) in role.bridges().iter().enumerate() {
            config = config.behind(&self.host, bridge, &format!("02:00:4c:00:00:0{index}"));
        }
        config
    }

    /// A machine that waits for its boot arguments, wired for a role.
    pub(crate) fn waiting(&self, role: Role) -> Vm {
        let maker = Self::new();
        let saved = Saved::before_arguments(maker.plug(Config::ours(), role));
        saved.restore(|config| self.plug(config, role))
    }

    /// A machine that has got the arguments of a role, and more words.
    pub(crate) fn start(&self, role: Role, more: &str) -> Vm {
        let vm = self.waiting(role);
        vm.deliver(&self.line(role, more), STEP);
        vm
    }

    /// The arguments of a role with the management's key, and more words.
    pub(crate) fn line(&self, role: Role, more: &str) -> String {
        self.keyed(&role.arguments(), more)
    }

    /// Arguments with the management's key, and more words.
    pub(crate) fn keyed(&self, arguments: &str, more: &str) -> String {
        let key = std::fs::read(self.key("id.pub")).expect("public key");
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        format!("{arguments} authorized_key={key} {more}")
    }

    /// The file of a key: `id` is the management's, `other` a stranger's.
    fn key(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// An OpenSSH client's command from the host: `ssh` or `scp` with a key, on port 3922, with
    /// what the reference's Java client can do and no more.
    pub(crate) fn client(&self, program: &str, key: &str) -> Command {
        let mut command = self.host.command(program);
        command.arg("-i").arg(self.key(key));
        for option in [
            "Port=3922",
            "BatchMode=yes",
            "ConnectTimeout=20",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
            "Ciphers=aes256-ctr",
            "MACs=hmac-sha2-256",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// Runs one command line in the VM as the management does.
    pub(crate) fn ssh(&self, line: &str) -> Output {
        self.ssh_to(CONTROL, line)
    }

    /// The same in the VM that has an address.
    pub(crate) fn ssh_to(&self, address: &str, line: &str) -> Output {
        self.client("ssh", "id").arg(format!("root@{address}")).arg(line).output().expect("ssh")
    }

    /// Copies files into `/var/cache/cloud/` as the management does.
    pub(crate) fn scp(&self, files: &[&Path]) -> Output {
        self.scp_to(CONTROL, files)
    }

    /// The same into the VM that has an address.
    pub(crate) fn scp_to(&self, address: &str, files: &[&Path]) -> Output {
        let mut command = self.client("scp", "id");
        command.arg("-O").args(files).arg(format!("root@{address}:/var/cache/cloud/"));
        command.output().expect("scp")
    }

    /// Waits until SSH answers on the control NIC.
    pub(crate) fn wait_ssh(&self, vm: &Vm) {
        tests::lab::wait_until("SSH on the control NIC", STEP, || {
            assert!(vm.runs(), "QEMU ended:\n{}", vm.serial());
            self.ssh("/opt/cloud/bin/get_template_version.sh").status.success()
        });
    }
}

/// Standard output as text.
pub(crate) fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}
