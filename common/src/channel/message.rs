//! The envelope of every command and answer: a JSON object with one key, the class name.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A command or answer as it stands on the wire: `{"<class>": {<fields>}}`.
#[derive(Debug, Clone, PartialEq)]
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

    /// Reads the message as `T`, whose class must match.
    pub fn read<T: Wire>(&self) -> Result<T, MessageError> {
        if self.class != T::CLASS {
            return Err(MessageError::Class { expected: T::CLASS, got: self.class.clone() });
        }
        serde_json::from_value(Value::Object(self.body.clone()))
            .map_err(|source| MessageError::Fields { class: self.class.clone(), source })
    }

    /// The last part of the class name: `ReadyCommand`.
    pub fn simple_name(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or(&self.class)
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
    pub wait: i64,
    /// Sent on even while the host is in maintenance.
    pub bypass_host_maintenance: bool,
}

/// The members that every answer carries. Flatten it into each answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerBase {
    /// Whether the command succeeded.
    pub result: bool,
    /// Text for the operator or the server; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
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
