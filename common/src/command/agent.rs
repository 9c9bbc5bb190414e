//! What every agent and every server exchange, whatever the role: joining, staying, leaving,
//! the list of servers, certificates, and the plain answers.

mod certificate;
mod ping;
mod servers;
mod startup;

pub use certificate::{
    SetupCertificateAnswer, SetupCertificateCommand, SetupKeyStoreCommand, SetupKeystoreAnswer,
};
pub use ping::{PingAnswer, PingCommand, PingRoutingCommand, PingStorageCommand, VmState};
pub use servers::{
    MigrateAgentConnectionAnswer, MigrateAgentConnectionCommand, SetupMsListAnswer, SetupMsListCommand,
};
pub use startup::{
    Nic, ReadyAnswer, ReadyCommand, StartupAnswer, StartupBase, StartupProxyCommand, StartupRoutingCommand,
    StartupSecondaryStorageCommand, StartupStorageCommand, StoragePoolInfo,
};

use serde::{Deserialize, Serialize};

use super::wire;
use crate::channel::lenient;
use crate::channel::message::{AnswerBase, Base, Message};

/// Succeeded or failed, and why. The right answer wherever the server looks at the result only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// The command is none that this agent knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnsupportedAnswer {
    /// Always failed.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// The server's answer to a control request that has no answer of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentControlAnswer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Are you alive?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckHealthCommand {
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// I am alive, or what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckHealthAnswer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// From an agent: this process ends. From the server: stop, and do not come back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownCommand {
    /// `sig.kill`, `update`, `deleteHost` or `unknown`.
    pub reason: String,
    /// More words on the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The host record is gone: forget zone, pod and cluster.
    #[serde(deserialize_with = "lenient::boolean")]
    pub remove_host: bool,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// Prepare for maintenance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MaintainCommand {
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// Prepared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MaintainAnswer {
    /// The agent leaves it to the server to move what runs.
    #[serde(deserialize_with = "lenient::boolean")]
    pub will_migrate: bool,
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

wire! {
    Answer = "com.cloud.agent.api.Answer",
    UnsupportedAnswer = "com.cloud.agent.api.UnsupportedAnswer",
    AgentControlAnswer = "com.cloud.agent.api.AgentControlAnswer",
    CheckHealthCommand = "com.cloud.agent.api.CheckHealthCommand",
    CheckHealthAnswer = "com.cloud.agent.api.CheckHealthAnswer",
    ShutdownCommand = "com.cloud.agent.api.ShutdownCommand",
    MaintainCommand = "com.cloud.agent.api.MaintainCommand",
    MaintainAnswer = "com.cloud.agent.api.MaintainAnswer",
}

/// Classes that an agent asks its server while it works (management channel 3.5). A server that
/// sends one to an agent gets an empty `AgentControlAnswer`.
pub const CONTROL: &[&str] = &[
    "com.cloud.agent.api.AgentControlCommand",
    "com.cloud.agent.api.ConsoleAccessAuthenticationCommand",
    "com.cloud.agent.api.ConsoleProxyLoadReportCommand",
];

/// Classes that the agent repeats every `interval` seconds (management channel 3.7).
pub const CRON: &[&str] = &["com.cloud.agent.api.proxy.WatchConsoleProxyLoadCommand"];

/// A plain success.
pub fn succeeded() -> Message {
    Message::wrap(&Answer { answer: AnswerBase::ok() })
}

/// A plain failure with its reason.
pub fn failed(reason: impl Into<String>) -> Message {
    Message::wrap(&Answer { answer: AnswerBase::failed(reason) })
}

/// The answer to a command of a class that the role does not know.
pub fn unsupported(class: &str) -> Message {
    let details =
        format!("Unsupported command issued: {class}.  Are you sure you got the right type of server?");
    Message::wrap(&UnsupportedAnswer { answer: AnswerBase::failed(details) })
}
