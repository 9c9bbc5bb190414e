//! Staying: the regular sign of life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::channel::lenient;
use crate::channel::message::{AnswerBase, Base};
use crate::command::wire;

/// Sign of life of a console proxy; also the common part of the other pings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingCommand {
    /// `ConsoleProxy`, `Storage` (of a secondary storage VM) or `Routing`.
    pub host_type: String,
    /// The agent's id; filled in by the channel.
    #[serde(deserialize_with = "lenient::integer")]
    pub host_id: i64,
    /// Sent between two regular pings because something changed.
    #[serde(deserialize_with = "lenient::boolean")]
    pub out_of_band: bool,
    /// Long commands still at work; hypervisor hosts only.
    pub command_infos: Vec<Value>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// Sign of life of a secondary storage VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PingStorageCommand {
    /// Always empty.
    pub changes: Map<String, Value>,
    /// The common part.
    #[serde(flatten)]
    pub ping: PingCommand,
}

/// Sign of life of a hypervisor host, with the state of its VMs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PingRoutingCommand {
    /// State of each VM by its instance name.
    #[serde(rename = "_hostVmStateReport")]
    pub states: BTreeMap<String, VmState>,
    /// Whether the default gateway answers.
    #[serde(rename = "_gatewayAccessible", deserialize_with = "lenient::boolean")]
    pub gateway_accessible: bool,
    /// Whether the guest networks work.
    #[serde(rename = "_vnetAccessible", deserialize_with = "lenient::boolean")]
    pub vnet_accessible: bool,
    /// Outcome of the operator's health script.
    #[serde(
        rename = "hostHealthCheckResult",
        deserialize_with = "lenient::optional_boolean",
        skip_serializing_if = "Option::is_none"
    )]
    pub health: Option<bool>,
    /// The common part.
    #[serde(flatten)]
    pub ping: PingCommand,
}

impl Default for PingRoutingCommand {
    fn default() -> Self {
        Self {
            states: BTreeMap::new(),
            gateway_accessible: true,
            vnet_accessible: true,
            health: None,
            ping: PingCommand { host_type: "Routing".to_owned(), ..PingCommand::default() },
        }
    }
}

/// Whether a VM runs, and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmState {
    /// `PowerOn`, `PowerOff` or `PowerUnknown`.
    pub state: String,
    /// Name of the host.
    pub host: String,
}

/// The server saw the ping.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingAnswer {
    /// The ping itself, echoed.
    #[serde(rename = "_command", skip_serializing_if = "Option::is_none")]
    pub command: Option<Value>,
    /// The server lost track of this agent: send the start-up again.
    #[serde(deserialize_with = "lenient::boolean")]
    pub send_startup: bool,
    /// Servers to turn to last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_ms_list: Option<Vec<String>>,
    /// Commands whose outcome the server wants; hypervisor hosts only.
    pub reconcile_commands: Vec<String>,
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

wire! {
    PingCommand = "com.cloud.agent.api.PingCommand",
    PingStorageCommand = "com.cloud.agent.api.PingStorageCommand",
    PingRoutingCommand = "com.cloud.agent.api.PingRoutingCommand",
    PingAnswer = "com.cloud.agent.api.PingAnswer",
}
