//! Keys and certificates, handled by the agent itself or carried on to a system VM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::channel::lenient;
use crate::channel::message::{AnswerBase, Base};
use crate::command::{Secret, wire};

/// Make a new key and ask for a certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetupKeyStoreCommand {
    /// Days that the certificate shall be valid.
    #[serde(deserialize_with = "lenient::integer")]
    pub validity_days: i64,
    /// Pass-phrase of the key store.
    pub keystore_password: Secret,
    /// True: for this agent. False: for the system VM that `accessDetails` names.
    #[serde(deserialize_with = "lenient::boolean")]
    pub handle_by_agent: bool,
    /// How to reach the system VM: `router.name`, `router.ip` …
    pub access_details: BTreeMap<String, String>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// The certificate request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetupKeystoreAnswer {
    /// PEM.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub csr: Secret,
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Here is a certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetupCertificateCommand {
    /// The certificate, PEM.
    pub certificate: Secret,
    /// Its key, PEM; empty where the agent made the key itself.
    pub private_key: Secret,
    /// The authorities, PEM.
    pub ca_certificates: Secret,
    /// True: for this agent. False: for the system VM that `accessDetails` names.
    #[serde(deserialize_with = "lenient::boolean")]
    pub handle_by_agent: bool,
    /// How to reach the system VM: `router.name`, `router.ip` …
    pub access_details: BTreeMap<String, String>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// The certificate is in place (or why not).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetupCertificateAnswer {
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

wire! {
    SetupKeyStoreCommand = "org.apache.cloudstack.ca.SetupKeyStoreCommand",
    SetupKeystoreAnswer = "org.apache.cloudstack.ca.SetupKeystoreAnswer",
    SetupCertificateCommand = "org.apache.cloudstack.ca.SetupCertificateCommand",
    SetupCertificateAnswer = "org.apache.cloudstack.ca.SetupCertificateAnswer",
}
