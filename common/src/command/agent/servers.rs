//! Which servers an agent may turn to, and moving it from one to another.

use serde::{Deserialize, Serialize};

use crate::channel::lenient;
use crate::channel::message::{AnswerBase, Base};
use crate::command::wire;

/// The list of servers has changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetupMsListCommand {
    /// Servers in order of preference.
    pub ms_list: Vec<String>,
    /// Servers to turn to last.
    pub avoid_ms_list: Vec<String>,
    /// `static`, `roundrobin` or `shuffle`.
    pub lb_algorithm: String,
    /// Seconds between two looks at the preferred server, 0 = none.
    #[serde(deserialize_with = "lenient::optional_integer")]
    pub lb_check_interval: Option<i64>,
    /// Look at the preferred server now.
    #[serde(deserialize_with = "lenient::boolean")]
    pub trigger_host_lb: bool,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// The new list is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetupMsListAnswer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Move to another server: the first reachable of the list that is not to be avoided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrateAgentConnectionCommand {
    /// A new list of servers; absent where the old one holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_list: Option<Vec<String>>,
    /// Servers to leave.
    pub avoid_ms_list: Vec<String>,
    /// `static`, `roundrobin` or `shuffle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lb_algorithm: Option<String>,
    /// Seconds between two looks at the preferred server, 0 = none.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub lb_check_interval: Option<i64>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// The move begins (or why not).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrateAgentConnectionAnswer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

wire! {
    SetupMsListCommand = "org.apache.cloudstack.agent.lb.SetupMSListCommand",
    SetupMsListAnswer = "org.apache.cloudstack.agent.lb.SetupMSListAnswer",
    MigrateAgentConnectionCommand = "com.cloud.agent.api.MigrateAgentConnectionCommand",
    MigrateAgentConnectionAnswer = "com.cloud.agent.api.MigrateAgentConnectionAnswer",
}
