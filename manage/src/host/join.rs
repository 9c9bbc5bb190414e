//! How a host becomes a member of its zone: it shows a one-time token to the manager and gets a
//! certificate for a key that never leaves the host.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::channel::tls::{self, AgentFiles, Issue};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{HostError, record::write_private};

/// Longest exchange.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// Where a host belongs. The manager writes it, with the token, into the file that
/// `manage host --join` takes; the host keeps it without the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinFile {
    /// Name of the host in the zone file.
    pub(crate) host: String,
    /// Its management address.
    pub(crate) address: String,
    /// Zone on the wire.
    pub(crate) zone: u64,
    /// Pod on the wire.
    pub(crate) pod: u64,
    /// Kernel with which the host finds out whether KVM works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,
    /// Address of the manager.
    pub(crate) manager: String,
    /// Port of the channel.
    pub(crate) port: u16,
    /// Port on which the token is good.
    pub(crate) join_port: u16,
    /// Certificate of the zone's authority, PEM: how the host knows the manager.
    pub(crate) authority: String,
    /// The token; empty once it was used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) token: String,
    /// SHA-256 of the token that was used, by which a new one is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) joined: String,
}

/// What a host asks for; one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinRequest {
    /// Name of the host.
    pub(crate) host: String,
    /// Its token.
    pub(crate) token: String,
    /// Certificate request, PEM.
    pub(crate) request: String,
}

/// What it gets; one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JoinAnswer {
    /// It is a member.
    Joined {
        /// Its certificate, PEM.
        certificate: String,
    },
    /// It is not, and why.
    Refused(String),
}

/// Folder of a host's certificate.
pub(super) fn certificates(state: &Path) -> PathBuf {
    state.join("agent")
}

/// The membership of this host; joins with `join_file` where it has none yet, or where the file has a new token: then
/// the host had to join again.
pub(super) async fn membership(state: &Path, join_file: Option<&Path>) -> Result<JoinFile, HostError> {
    let kept = state.join("host.json");
    if let Ok(text) = std::fs::read(&kept) {
        let membership = read(&kept, &text)?;
        let Some(path) = join_file.filter(|path| is_new(path, &membership)) else { return Ok(membership) };
        return join(state, path, &kept).await.or_else(|error| {
            tracing::error!("{}: {error}; this host goes on as it was", path.display());
            Ok(membership)
        });
    }
    let path = join_file.ok_or_else(|| {
        HostError::Join(
            "This host has not joined a zone. Copy the file that `manage serve` wrote for it \
             (STATE/join/NAME.json, or `manage host-token NAME`) here and give it with --join"
                .to_owned(),
        )
    })?;
    join(state, path, &kept).await
}

/// Whether a file has a token that this host has not used.
fn is_new(path: &Path, membership: &JoinFile) -> bool {
    let file = std::fs::read(path).ok().and_then(|text| read(path, &text).ok());
    file.is_some_and(|file| !file.token.is_empty() && sum(&file.token) != membership.joined)
}

fn sum(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// Joins with the token of a file, and keeps the membership.
async fn join(state: &Path, path: &Path, kept: &Path) -> Result<JoinFile, HostError> {
    let text = std::fs::read(path).map_err(HostError::file(path))?;
    let mut membership = read(path, &text)?;
    tokio::time::timeout(LIMIT, exchange(state, &membership)).await.unwrap_or_else(|_| {
        let at = format!("{}:{}", membership.manager, membership.join_port);
        Err(HostError::Join(format!("The manager at {at} did not answer within {LIMIT:?}")))
    })?;
    membership.joined = sum(&std::mem::take(&mut membership.token));
    let text = serde_json::to_vec_pretty(&membership).map_err(|error| HostError::Join(error.to_string()))?;
    write_private(kept, &text)?;
    tracing::info!("{} has joined the zone of {}", membership.host, membership.manager);
    Ok(membership)
}

fn read(path: &Path, text: &[u8]) -> Result<JoinFile, HostError> {
    serde_json::from_slice(text).map_err(|error| HostError::Join(format!("{}: {error}", path.display())))
}

async fn exchange(state: &Path, join: &JoinFile) -> Result<(), HostError> {
    let folder = certificates(state);
    std::fs::create_dir_all(&folder).map_err(HostError::file(&folder))?;
    let files = AgentFiles::new(folder);
    let address: IpAddr =
        join.address.parse().map_err(|_| HostError::Join(format!("{:?} is no address", join.address)))?;
    let request =
        files.request(&Issue { names: vec![join.host.clone()], addresses: vec![address], days: 0 })?;

    let at = format!("{}:{}", join.manager, join.join_port);
    let fail = |error: &dyn std::fmt::Display| HostError::Join(format!("The manager at {at}: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in tls::certificates("the zone's authority", &join.authority)? {
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(join.manager.clone()).map_err(|error| fail(&error))?;
    let stream = TcpStream::connect(&at).await.map_err(|error| fail(&error))?;
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| fail(&error))?;
    let request = JoinRequest { host: join.host.clone(), token: join.token.clone(), request };
    let mut line = serde_json::to_vec(&request).map_err(|error| fail(&error))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|error| fail(&error))?;
    let mut answer = Vec::new();
    (&mut stream).take(ANSWER_LIMIT).read_to_end(&mut answer).await.map_err(|error| fail(&error))?;
    match serde_json::from_slice(&answer).map_err(|error| fail(&error))? {
        JoinAnswer::Joined { certificate } => Ok(files.install(&certificate, &join.authority, "")?),
        JoinAnswer::Refused(reason) => Err(fail(&reason)),
    }
}
