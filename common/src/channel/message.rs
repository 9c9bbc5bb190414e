//! The envelope of every command and answer: a JSON object with one key, the class name.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{lenient, redact};

/// A command or answer as it stands on the wire: `{"<class>": {<fields>}}`.
/// Its `Debug` output hides secrets (management channel 2.6), so it may be logged.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// Fully qualified class name, for instance `com.cloud.agent.api.ReadyCommand`.
    pub class: String,
    /// The fields of the object.
    pub body: Map<String, Value>,
}

/// A type that is one class of the wire.
pub trait Wire: Serialize + DeserializeOwned {
    /// Fully qualified class name.
    const CLASS: &'static str;
}

/// Why a message could not be read as the wanted type.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The element is not an object with a class name as its key.
    #[error("element {index} of the packet is not an object with a class name as its key")]
    NotTagged {
        /// Position in the packet's array.
        index: usize,
    },
    /// The class is another one than asked for.
    #[error("expected {expected}, got {got}")]
    Class {
        /// Wanted class name.
        expected: &'static str,
        /// Class name that came.
        got: String,
    },
    /// A field is missing or has the wrong type.
    #[error("{class}: {source}")]
    Fields {
        /// Class whose fields were read.
        class: String,
        /// What serde found wrong, with the name of the field.
        source: serde_json::Error,
    },
}

impl Message {
    /// Wraps a typed command or answer.
    pub fn of<T: Wire>(value: &T) -> Result<Self, MessageError> {
        let fail = |source| MessageError::Fields { class: T::CLASS.to_owned(), source };
        match serde_json::to_value(value).map_err(fail)? {
            Value::Object(body) => Ok(Self { class: T::CLASS.to_owned(), body }),
            _ => Err(fail(serde::ser::Error::custom("not an object"))),
        }
    }

    /// Wraps a typed command or answer whose members can all be written, as those of this project
    /// can. One that cannot becomes a failed plain answer that says so, so that a waiting peer
    /// hears of it.
    pub fn wrap<T: Wire>(value: &T) -> Self {
        Self::of(value).unwrap_or_else(|error| {
            let mut body = Map::new();
            body.insert("result".to_owned(), Value::Bool(false));
            body.insert("details".to_owned(), Value::String(error.to_string()));
            body.insert("contextMap".to_owned(), Value::Object(Map::new()));
            body.insert("wait".to_owned(), Value::from(0));
            body.insert("bypassHostMaintenance".to_owned(), Value::Bool(false));
            Self { class: "com.cloud.agent.api.Answer".to_owned(), body }
        })
    }

    /// True where the class is that of `T`.
    pub fn is<T: Wire>(&self) -> bool {
        self.class == T::CLASS
    }

    /// The member `result` of an answer; a missing one means success, as it does to the peer.
    pub fn result(&self) -> bool {
        match self.body.get("result") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(result)) => *result,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            Some(_) => false,
        }
    }

    /// The member `details` of an answer; empty where there is none.
    pub fn details(&self) -> &str {
        self.body.get("details").and_then(Value::as_str).unwrap_or_default()
    }

    /// The member `wait` of a command in seconds; 0 where there is none.
    pub fn wait(&self) -> u64 {
        self.body.get("wait").and_then(Value::as_u64).unwrap_or_default()
    }

    /// Reads the message as `T`, whose class must match. Explicit nulls count as absent.
    pub fn read<T: Wire>(&self) -> Result<T, MessageError> {
        if self.class != T::CLASS {
            return Err(MessageError::Class { expected: T::CLASS, got: self.class.clone() });
        }
        let mut body = Value::Object(self.body.clone());
        drop_nulls(&mut body);
        serde_json::from_value(body)
            .map_err(|source| MessageError::Fields { class: self.class.clone(), source })
    }

    /// The last part of the class name: `ReadyCommand`.
    pub fn simple_name(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or(&self.class)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&redact::message(self))
    }
}

/// Removes null members of objects at any depth; nulls inside arrays have a meaning and stay.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The members that every command carries (`contextMap`, `wait`, `bypassHostMaintenance`).
/// Flatten it into each command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Base {
    /// Log correlation: `logid`, `job`, `hypervisor`.
    pub context_map: Map<String, Value>,
    /// Seconds the sender intends to wait; 0 = default.
    #[serde(deserialize_with = "lenient::integer")]
    pub wait: i64,
    /// Sent on even while the host is in maintenance.
    #[serde(deserialize_with = "lenient::boolean")]
    pub bypass_host_maintenance: bool,
}

/// The members that every answer carries. Flatten it into each answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerBase {
    /// Whether the command succeeded; read as true where it is missing.
    #[serde(default = "succeeded", deserialize_with = "lenient::boolean")]
    pub result: bool,
    /// Text for the operator or the server; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

fn succeeded() -> bool {
    true
}

impl AnswerBase {
    /// A successful answer without text.
    pub fn ok() -> Self {
        Self { result: true, ..Self::default() }
    }

    /// A failed answer with its reason.
    pub fn failed(details: impl Into<String>) -> Self {
        Self { result: false, details: Some(details.into()), ..Self::default() }
    }
}
