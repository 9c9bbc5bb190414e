//! Commands between the management end and a host: starting and stopping VMs, keys and
//! certificates for them, the report of what runs, and the road into a router.
//!
//! Class and field names of the contract (management channel 5 and 6.6) are kept where it has the
//! command. What only our own hosts know has a class below `trivium.host`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::wire;
use crate::channel::message::{AnswerBase, Base};

wire! {
    StartupRoutingCommand = "com.cloud.agent.api.StartupRoutingCommand",
    PingRoutingCommand = "com.cloud.agent.api.PingRoutingCommand",
    ModifySshKeysCommand = "com.cloud.agent.api.ModifySshKeysCommand",
    StartCommand = "com.cloud.agent.api.StartCommand",
    StartAnswer = "com.cloud.agent.api.StartAnswer",
    StopCommand = "com.cloud.agent.api.StopCommand",
    StopAnswer = "com.cloud.agent.api.StopAnswer",
    CheckSshCommand = "com.cloud.agent.api.check.CheckSshCommand",
    CheckSshAnswer = "com.cloud.agent.api.check.CheckSshAnswer",
    GetVncPortCommand = "com.cloud.agent.api.GetVncPortCommand",
    GetVncPortAnswer = "com.cloud.agent.api.GetVncPortAnswer",
    DeliverCertificateCommand = "trivium.host.DeliverCertificateCommand",
    RouterCommand = "trivium.host.RouterCommand",
    RouterAnswer = "trivium.host.RouterAnswer",
    RollCommand = "trivium.host.RollCommand",
    GroupsCommand = "trivium.host.GroupsCommand",
    ReportCommand = "trivium.host.ReportCommand",
    ReportAnswer = "trivium.host.ReportAnswer",
}

/// First message of a host (management channel 3.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupRoutingCommand {
    /// Always `Routing`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Zone id as text.
    pub data_center: String,
    /// Pod id as text.
    pub pod: String,
    /// `<name>-<resourceName>`.
    pub guid: String,
    /// Host name, as the zone file has it.
    pub name: String,
    /// Class of the resource; part of the guid.
    pub resource_name: String,
    /// Version of this program.
    pub version: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Management address.
    pub private_ip_address: String,
    /// Always `KVM`, the wire's word for QEMU.
    pub hypervisor_type: String,
    /// Number of processors.
    pub cpus: u32,
    /// MHz of one processor.
    pub speed: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// `accelerator` = `kvm` or `tcg`, and what the host says of itself.
    pub host_details: BTreeMap<String, String>,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Whether a VM has a running QEMU process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// It runs.
    PowerOn,
    /// It does not.
    PowerOff,
}

/// What a host says of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmReport {
    /// Whether it runs.
    pub state: Power,
    /// Name of the host.
    pub host: String,
    /// Which start of the VM this is: the word of [`VirtualMachine::start_id`].
    #[serde(default)]
    pub start_id: String,
    /// Whether the start went through: boot arguments, SSH and files.
    #[serde(default)]
    pub ready: bool,
}

/// Ping of a host with the state of all its VMs (management channel 3.6).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingRoutingCommand {
    /// Instance name to state.
    #[serde(rename = "_hostVmStateReport")]
    pub vms: BTreeMap<String, VmReport>,
    /// Always true.
    #[serde(rename = "_gatewayAccessible")]
    pub gateway_accessible: bool,
    /// Always true.
    #[serde(rename = "_vnetAccessible")]
    pub vnet_accessible: bool,
    /// Always `Routing`.
    pub host_type: String,
    /// Id that the server gave the host.
    pub host_id: i64,
    /// Sent because something changed, not because the interval passed.
    pub out_of_band: bool,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Key pair with which a host reaches its system VMs. Its private half stays out of logs.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModifySshKeysCommand {
    /// One line, as in `authorized_keys`.
    #[serde(rename = "_pubKey")]
    pub public: String,
    /// PEM.
    #[serde(rename = "_prvKey")]
    pub private: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for ModifySshKeysCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModifySshKeysCommand").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Tells a host who has a vote in its zone, for its guard. Its Debug form has no keys.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RollCommand {
    /// The list, as JSON.
    pub roll: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for RollCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RollCommand").finish_non_exhaustive()
    }
}

/// Tells a host which packets its guests may send and get.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupsCommand {
    /// All of its ports and their security groups, as JSON.
    pub policy: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Traffic of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Traffic {
    /// Link-local, between host and VM.
    Control,
    /// Between VM and management end.
    Management,
    /// Towards the internet.
    Public,
    /// Of a tenant's network.
    Guest,
    /// Towards the stores.
    Storage,
}

/// One NIC of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// N of `ethN`; NICs are plugged in this order.
    pub device_id: u32,
    /// What it is for.
    #[serde(rename = "type")]
    pub traffic: Traffic,
    /// MAC address, lower case, with colons.
    pub mac: String,
    /// IPv4 address.
    pub ip: String,
    /// Dotted mask.
    pub netmask: String,
    /// Next hop, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<String>,
    /// Whether it holds the default route.
    #[serde(default)]
    pub default_nic: bool,
    /// Bridge on the host.
    #[serde(rename = "name")]
    pub bridge: String,
    /// Security groups guard it: it is not plugged before its host was told of them ([`GroupsCommand`]).
    #[serde(default)]
    pub guarded: bool,
}

/// From what a VM boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "from")]
pub enum Boot {
    /// An own overlay above an image that is only read.
    #[serde(rename_all = "camelCase")]
    Image {
        /// qcow2 file on the host.
        path: String,
    },
    /// A kernel and its initrd.
    #[serde(rename_all = "camelCase")]
    Kernel {
        /// Kernel file on the host.
        kernel: String,
        /// Initrd file on the host.
        initrd: Option<String>,
        /// Kernel command line.
        append: String,
    },
}

/// A VM to start. Its Debug form has no secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachine {
    /// Number, part of the name.
    pub id: u64,
    /// Instance name: `r-7-VM`.
    pub name: String,
    /// Stable id.
    pub uuid: String,
    /// One word for each start, given back in [`VmReport::start_id`].
    pub start_id: String,
    /// `DomainRouter`, `SecondaryStorageVm`, `ConsoleProxy`, `User`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Number of processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub max_ram: u64,
    /// What it boots from.
    pub boot: Boot,
    /// Boot arguments, handed over through the guest agent; none for a guest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boot_args: Option<String>,
    /// Password of its VNC console; none = no console.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vnc_password: Option<String>,
    /// NICs, any order.
    pub nics: Vec<Nic>,
}

impl fmt::Debug for VirtualMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualMachine")
            .field("name", &self.name)
            .field("start_id", &self.start_id)
            .field("nics", &self.nics)
            .finish_non_exhaustive()
    }
}

/// Starts a VM, or goes on with a start that was cut off. Answered when the VM can be used:
/// boot arguments handed over, SSH answering, files delivered (management channel 5.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartCommand {
    /// What to start.
    pub vm: VirtualMachine,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`StartCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartAnswer {
    /// Milliseconds of each step, by its name.
    pub steps: BTreeMap<String, u64>,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}

/// Stops a VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopCommand {
    /// Instance name.
    pub vm_name: String,
    /// Its control address, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_ip: Option<String>,
    /// Cut the power at once instead of asking the VM first.
    pub force_stop: bool,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`StopCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StopAnswer {
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}

/// Asks whether SSH answers on a control address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckSshCommand {
    /// Control address.
    pub ip: String,
    /// Always 3922.
    pub port: u16,
    /// Seconds between attempts.
    pub interval: u32,
    /// How many attempts.
    pub retries: u32,
    /// Instance name.
    pub name: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`CheckSshCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckSshAnswer {
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}

/// Asks where a VM's console listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetVncPortCommand {
    /// Number of the VM.
    pub id: u64,
    /// Instance name.
    pub name: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`GetVncPortCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetVncPortAnswer {
    /// Address of the host.
    pub address: String,
    /// TCP port, 5900 and above.
    pub port: u16,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}

/// Gives a system VM its certificate over SSH with `keystore-cert-import` (management channel
/// 4.6). Its Debug form has no key.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeliverCertificateCommand {
    /// Instance name.
    pub vm_name: String,
    /// Control address.
    pub control_ip: String,
    /// Leaf, PEM.
    pub certificate: String,
    /// Key of the leaf, PEM.
    pub private_key: String,
    /// Chain of the CA, PEM.
    pub ca_certificates: String,
    /// Pass-phrase for the VM's key store.
    pub keystore_password: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for DeliverCertificateCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliverCertificateCommand").field("vm_name", &self.vm_name).finish_non_exhaustive()
    }
}

/// A file for a VM. Its Debug form has no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Name without folder; it lands in `/var/cache/cloud/`.
    pub name: String,
    /// Its text.
    pub content: String,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}

/// Copies files to a VM, then runs one script of `/opt/cloud/bin` there (router contract 2.2-2.4).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterCommand {
    /// Instance name; commands to one VM run one after the other.
    pub vm_name: String,
    /// Control address.
    pub control_ip: String,
    /// Copied first.
    pub files: Vec<File>,
    /// Name of the script.
    pub script: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`RouterCommand`]; its result is true for exit code 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterAnswer {
    /// What the script printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
    /// Exit code; absent where SSH itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}

/// Asks a host what runs on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportCommand {
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Answer to [`ReportCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportAnswer {
    /// Instance name to state.
    pub vms: BTreeMap<String, VmReport>,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub base: AnswerBase,
}
