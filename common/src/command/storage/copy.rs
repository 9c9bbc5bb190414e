//! Copies between stores, and deletions.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::DataTO;
use crate::{
    channel::message::{AnswerBase, Base},
    command::wire,
};

wire! {
    CopyCommand = "org.apache.cloudstack.storage.command.CopyCommand",
    CopyCmdAnswer = "org.apache.cloudstack.storage.command.CopyCmdAnswer",
    DeleteCommand = "org.apache.cloudstack.storage.command.DeleteCommand",
}

/// Copy a template, volume or snapshot from one store to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CopyCommand {
    /// What is copied.
    #[serde(rename = "srcTO", skip_serializing_if = "Option::is_none")]
    pub source: Option<DataTO>,
    /// Where to; its path is a folder.
    #[serde(rename = "destTO", skip_serializing_if = "Option::is_none")]
    pub destination: Option<DataTO>,
    /// Staging copy; not used by the secondary storage VM.
    #[serde(rename = "cacheTO", skip_serializing_if = "Option::is_none")]
    pub cache: Option<DataTO>,
    /// Keeps its place among other commands to the same agent.
    pub execute_in_sequence: bool,
    /// Hints of the hypervisor's side.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
    /// Hints of the hypervisor's side.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub options2: Map<String, Value>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// The copy, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CopyCmdAnswer {
    /// What came to be; absent on failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_data: Option<DataTO>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Remove a template, volume or snapshot from its store; answered by a plain answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteCommand {
    /// What is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataTO>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}
