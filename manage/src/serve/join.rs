//! The small door beside the channel: a host shows its one-time token and gets its certificate.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use common::channel::tls::{self, Authority, Issue, KeyKind, TlsError};
use rustls::{ServerConfig, pki_types::CertificateDer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::{
    ServeError, Zoned,
    renew::{self, DAYS},
};
use crate::{
    db::{self, random_word},
    host::{JoinAnswer, JoinFile, JoinRequest},
    zone::Host,
};

/// Longest exchange.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest request.
const REQUEST_LIMIT: u64 = 16 * 1024;
/// Hosts that may be at the door at once.
const AT_ONCE: usize = 8;
/// Seconds that a token is good.
const TOKEN_LIFE: i64 = 24 * 3600;
/// Days that the certificate of this door is good; each start of the manager makes one.
const DOOR_DAYS: u32 = 3650;

/// Makes a new token for a host and writes the file with which it joins. The token before is void.
pub(super) fn write_join_file(zoned: &Zoned, host: &Host) -> Result<std::path::PathBuf, ServeError> {
    let token = random_word(40);
    zoned.db.put_join_token(&host.name, &Sha256::digest(&token), db::now() + TOKEN_LIFE)?;
    let zone = zoned.zone();
    let file = JoinFile {
        host: host.name.clone(),
        address: host.address.to_string(),
        zone: zone.id,
        pod: zone.pod,
        kernel: zone.system.kernel.clone(),
        manager: zone.management.address.to_string(),
        port: zone.management.port,
        join_port: zone.management.join_port,
        authority: zoned.authority.certificate_pem().to_owned(),
        token,
        joined: String::new(),
    };
    let folder = zoned.state.join("join");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(ServeError::file(&folder))?;
    let path = folder.join(format!("{}.json", host.name));
    let text = serde_json::to_vec_pretty(&file).map_err(|error| ServeError::Internal(error.to_string()))?;
    crate::host::write_private(&path, &text)?;
    Ok(path)
}

/// The TLS of the door.
fn acceptor(authority: &Authority, address: IpAddr) -> Result<TlsAcceptor, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let wish = Issue { names: vec!["manage".to_owned()], addresses: vec![address], days: DOOR_DAYS };
    let issued = authority.issue(&wish, KeyKind::P256)?;
    let chain: Vec<CertificateDer<'static>> =
        tls::certificates("the door's certificate", &issued.certificate)?;
    let key = tls::private_key("the door's key", &issued.private_key)?;
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(setup)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Opens the door; it stays open until the task is cancelled.
pub(super) async fn open(zoned: Arc<Zoned>) -> Result<(), ServeError> {
    let management = zoned.zone().management.clone();
    let address = SocketAddr::from((management.address, management.join_port));
    let acceptor = acceptor(&zoned.authority, management.address.into())?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address: address.to_string(), source })?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    tokio::spawn(async move {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("{address}: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let (zoned, acceptor) = (zoned.clone(), acceptor.clone());
            tokio::spawn(async move {
                let served = tokio::time::timeout(LIMIT, serve(&zoned, &acceptor, stream)).await;
                if let Ok(Err(error)) = served {
                    tracing::info!("{peer} at the door: {error}");
                }
                drop(slot);
            });
        }
    });
    Ok(())
}

async fn serve(zoned: &Zoned, acceptor: &TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut line = Vec::new();
    BufReader::new((&mut stream).take(REQUEST_LIMIT)).read_until(b'\n', &mut line).await?;
    let answer = match decide(zoned, &line) {
        Ok(certificate) => JoinAnswer::Joined { certificate },
        Err(reason) => JoinAnswer::Refused(reason),
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

/// The certificate, or why there is none. What a stranger learns is always the same.
fn decide(zoned: &Zoned, line: &[u8]) -> Result<String, String> {
    let request: JoinRequest =
        serde_json::from_slice(line).map_err(|_| "not a request to join".to_owned())?;
    let stranger = || {
        "unknown host, or its token was used, or has expired; make a new one with \
                       `manage host-token NAME`"
            .to_owned()
    };
    let internal = |error: &dyn std::fmt::Display| {
        tracing::error!("{}: {error}", request.host);
        "internal error, see the manager's log".to_owned()
    };
    let zone = zoned.zone();
    let host = zone.hosts.iter().find(|h| h.name == request.host).ok_or_else(stranger)?;
    let wanted = zoned.db.join_token(&host.name).map_err(|error| internal(&error))?.ok_or_else(stranger)?;
    let given = Sha256::digest(&request.token);
    if !bool::from(given.as_slice().ct_eq(&wanted)) {
        return Err(stranger());
    }
    // Names and addresses are ours to say, so the request is only asked for its key.
    let wish = Issue { names: vec![host.name.clone()], addresses: vec![host.address.into()], days: DAYS };
    let issued =
        zoned.authority.issue_on_request(&request.request, &wish).map_err(|error| error.to_string())?;
    if !zoned.db.use_join_token(&host.name).map_err(|error| internal(&error))? {
        return Err(stranger());
    }
    renew::issued(zoned, &issued, &host.name).map_err(|error| internal(&error))?;
    let _ = std::fs::remove_file(join_file(&zoned.state, &host.name));
    zoned.event(&host.name, "has joined the zone");
    Ok(issued.certificate)
}

/// Where the file for a host lies.
pub(super) fn join_file(state: &Path, host: &str) -> std::path::PathBuf {
    state.join("join").join(format!("{host}.json"))
}
