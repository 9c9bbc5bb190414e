//! The handshake with the hypervisor's VNC server, up to its description of the screen. Everything
//! that it says is taken as hostile: lengths are bounded, unknown things end the handshake.

use std::{io, sync::Arc};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{ServerInit, Version, des};
use crate::screen::{Duplex, secured};

const NONE: u8 = 1;
const VNC: u8 = 2;
const VENCRYPT: u8 = 19;
/// Kinds of VeNCrypt that check certificates: without and with a password inside.
const X509_NONE: u32 = 260;
const X509_VNC: u32 = 261;
/// Longest reason that is read, in bytes; the wire allows 4 GiB.
const REASON_LIMIT: u32 = 4 * 1024;
/// Longest name of a screen, in bytes.
const NAME_LIMIT: u32 = 64 * 1024;

/// Why the hypervisor's VNC server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It speaks something else.
    #[error("it does not speak RFB 3")]
    Version,
    /// It turned the connection away before authentication.
    #[error("it refused the connection: {0}")]
    Refused(String),
    /// It offers no security type that the proxy knows.
    #[error("it offers only security types {0:?}")]
    Security(Vec<u8>),
    /// It speaks an unknown version of VeNCrypt, or said no to its choice.
    #[error("it does not speak VeNCrypt 0.2")]
    VeNCrypt,
    /// It offers no kind of VeNCrypt whose certificates can be checked.
    #[error("it offers only kinds {0:?} of VeNCrypt, none with certificates")]
    Kinds(Vec<u32>),
    /// No TLS leads to it, and the operator wants that.
    #[error("it is reached without TLS, which the operator does not allow")]
    Unprotected,
    /// It wants certificates, and the proxy has none.
    #[error("it wants TLS, and the console proxy has no certificate of its own yet")]
    NoCertificate,
    /// TLS was not agreed on.
    #[error("TLS was not agreed on: {0}")]
    Tls(io::Error),
    /// XenServer did not open the screen.
    #[error("its interface did not open the screen: {0}")]
    Tunnel(String),
    /// VMware did not open the screen.
    #[error("its websocket was not opened: {0}")]
    Websocket(String),
    /// It did not take the password.
    #[error("it refused the password: {0}")]
    Password(String),
    /// It names a length that no honest server has.
    #[error("it announced a {what} of {length} bytes")]
    Length {
        /// Of what.
        what: &'static str,
        /// Bytes announced.
        length: u32,
    },
}

/// A VNC server that waits for the client's initialisation.
pub struct Ready {
    /// The connection, with TLS where that was agreed on.
    pub stream: Box<dyn Duplex>,
    /// Whether it was.
    pub tls: bool,
    /// Whether the server has asked for nothing: anybody who reaches it sees the screen.
    pub open: bool,
}

/// Speaks version and security. `tls`: for servers with certificates; `required`: nothing less will do. The caller
/// bounds the time.
///
/// # Errors
/// Why the server cannot be used.
pub async fn authenticate(
    mut stream: Box<dyn Duplex>,
    password: &str,
    tls: &Option<Arc<ClientConfig>>,
    required: bool,
) -> Result<Ready, Error> {
    let mut greeting = [0; Version::LENGTH];
    stream.read_exact(&mut greeting).await?;
    let version = Version::parse(&greeting).ok_or(Error::Version)?;
    stream.write_all(version.message()).await?;
    stream.flush().await?;
    let chosen = match version {
        Version::V3_3 if required => return Err(Error::Unprotected),
        Version::V3_3 => decided(&mut stream).await?,
        Version::V3_7 | Version::V3_8 => choose(&mut stream, tls.is_some(), required).await?,
    };
    let mut security = chosen;
    if chosen == VENCRYPT {
        security = if vencrypt(&mut stream).await? == X509_VNC { VNC } else { NONE };
        stream = secured(stream, tls).await?;
    }
    if security == VNC {
        let mut challenge = [0; des::LENGTH];
        stream.read_exact(&mut challenge).await?;
        stream.write_all(&des::response(password, challenge)).await?;
        stream.flush().await?;
    }
    let ready = |stream| Ready { stream, tls: chosen == VENCRYPT, open: chosen == NONE };
    // Before 3.8 a server says nothing about a connection without authentication.
    if security == NONE && version < Version::V3_8 {
        return Ok(ready(stream));
    }
    match stream.read_u32().await? {
        0 => Ok(ready(stream)),
        code => {
            let text = match (version, code) {
                (Version::V3_8, _) => reason(&mut stream).await?,
                (_, 2) => "too many attempts".to_owned(),
                _ => "authentication failed".to_owned(),
            };
            Err(Error::Password(text))
        }
    }
}

/// VeNCrypt 0.2 up to where TLS begins; the kind that was chosen.
async fn vencrypt<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<u32, Error> {
    let mut version = [0; 2];
    stream.read_exact(&mut version).await?;
    if version < [0, 2] {
        return Err(Error::VeNCrypt);
    }
    stream.write_all(&[0, 2]).await?;
    stream.flush().await?;
    if stream.read_u8().await? != 0 {
        return Err(Error::VeNCrypt);
    }
    let mut kinds = Vec::new();
    for _ in 0..stream.read_u8().await? {
        kinds.push(stream.read_u32().await?);
    }
    let Some(kind) = [X509_VNC, X509_NONE].into_iter().find(|kind| kinds.contains(kind)) else {
        return Err(Error::Kinds(kinds));
    };
    stream.write_u32(kind).await?;
    stream.flush().await?;
    if stream.read_u8().await? != 1 {
        return Err(Error::VeNCrypt);
    }
    Ok(kind)
}

/// Says whether others may stay connected, and reads the description of the screen.
pub async fn initialise<S>(stream: &mut S, shared: u8) -> Result<ServerInit, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&[shared]).await?;
    stream.flush().await?;
    let mut head = [0; ServerInit::HEAD];
    stream.read_exact(&mut head).await?;
    let length = stream.read_u32().await?;
    if length > NAME_LIMIT {
        return Err(Error::Length { what: "name", length });
    }
    let mut name = vec![0; length as usize];
    stream.read_exact(&mut name).await?;
    Ok(ServerInit::new(head))
}

/// Version 3.3: the server has chosen.
async fn decided<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u8, Error> {
    match stream.read_u32().await? {
        0 => Err(Error::Refused(reason(stream).await?)),
        1 => Ok(NONE),
        2 => Ok(VNC),
        other => Err(Error::Security(vec![u8::try_from(other).unwrap_or(u8::MAX)])),
    }
}

/// Versions 3.7 and 3.8: TLS is preferred to a password, that to nothing. Where the proxy has no certificates TLS
/// could not be checked, and is the last choice, which fails by its name.
async fn choose<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    tls: bool,
    required: bool,
) -> Result<u8, Error> {
    let count = stream.read_u8().await?;
    if count == 0 {
        return Err(Error::Refused(reason(stream).await?));
    }
    let mut offered = vec![0; usize::from(count)];
    stream.read_exact(&mut offered).await?;
    if required && !offered.contains(&VENCRYPT) {
        return Err(Error::Unprotected);
    }
    let order = if tls || required { [VENCRYPT, VNC, NONE] } else { [VNC, NONE, VENCRYPT] };
    let Some(choice) = order.into_iter().find(|known| offered.contains(known)) else {
        return Err(Error::Security(offered));
    };
    if choice == VENCRYPT && !tls {
        return Err(Error::NoCertificate);
    }
    stream.write_all(&[choice]).await?;
    stream.flush().await?;
    Ok(choice)
}

async fn reason<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String, Error> {
    let length = stream.read_u32().await?;
    if length > REASON_LIMIT {
        return Err(Error::Length { what: "reason", length });
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.chars().filter(|character| !character.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// Plays a recorded server and returns what the proxy sent.
    async fn play(server: &[u8], password: &str) -> (Result<(), Error>, Vec<u8>) {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(server).await.unwrap();
        let tls = Some(common::channel::tls::peer_config(&[], None).unwrap());
        let result = tokio::select! {
            result = authenticate(Box::new(near), password, &tls, false) => result.map(drop),
            // All was read and more is wanted.
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[tokio::test]
    async fn where_tls_is_required_nothing_less_will_do() {
        let tls = Some(common::channel::tls::peer_config(&[], None).unwrap());
        for server in
            [&b"RFB 003.003\n\0\0\0\x01"[..], b"RFB 003.007\n\x01\x01", b"RFB 003.008\n\x02\x01\x02"]
        {
            let (near, mut far) = duplex(1024);
            far.write_all(server).await.unwrap();
            let refused = authenticate(Box::new(near), "password", &tls, true).await.err().unwrap();
            assert!(matches!(refused, Error::Unprotected), "{refused}");
            let mut sent = Vec::new();
            far.read_to_end(&mut sent).await.unwrap();
            assert_eq!(sent.len(), Version::LENGTH, "nothing is chosen");
        }
        // Where there is TLS, but no certificate to check it by, there is no console either.
        let (near, mut far) = duplex(1024);
        far.write_all(b"RFB 003.008\n\x02\x13\x02").await.unwrap();
        let refused = authenticate(Box::new(near), "password", &None, true).await.err().unwrap();
        assert!(matches!(refused, Error::NoCertificate), "{refused}");
    }

    #[tokio::test]
    async fn servers_of_all_versions() {
        let challenge = hex::decode("000102030405060708090a0b0c0d0e0f").unwrap();
        let answer = hex::decode("607d56941a7709640ad780be30c5a6af").unwrap();
        let ok = [0, 0, 0, 0];
        for (name, server, sent) in [
            ("3.8 none", bytes(&[b"RFB 003.008\n", &[1, 1], &ok]), bytes(&[b"RFB 003.008\n", &[1]])),
            (
                "3.8 password",
                bytes(&[b"RFB 003.008\n", &[1, 2], &challenge, &ok]),
                bytes(&[b"RFB 003.008\n", &[2], &answer]),
            ),
            (
                "3.8 both offered",
                bytes(&[b"RFB 003.008\n", &[3, 1, 16, 2], &challenge, &ok]),
                bytes(&[b"RFB 003.008\n", &[2], &answer]),
            ),
            ("3.7 none", bytes(&[b"RFB 003.007\n", &[1, 1]]), bytes(&[b"RFB 003.007\n", &[1]])),
            (
                "3.7 password",
                bytes(&[b"RFB 003.007\n", &[1, 2], &challenge, &ok]),
                bytes(&[b"RFB 003.007\n", &[2], &answer]),
            ),
            ("3.3 none", bytes(&[b"RFB 003.003\n", &[0, 0, 0, 1]]), bytes(&[b"RFB 003.003\n"])),
            (
                "3.3 password",
                bytes(&[b"RFB 003.003\n", &[0, 0, 0, 2], &challenge, &ok]),
                bytes(&[b"RFB 003.003\n", &answer]),
            ),
        ] {
            let (result, got) = play(&server, "Secr3tPw").await;
            assert!(result.is_ok(), "{name}: {result:?}");
            assert_eq!(got, sent, "{name}");
        }
    }

    #[tokio::test]
    async fn refusals_carry_their_reason() {
        let challenge = [0; 16];
        for (name, server, wanted) in [
            ("not RFB", bytes(&[b"SSH-2.0-OpenSSH"]), "does not speak RFB"),
            (
                "3.8 turned away",
                bytes(&[b"RFB 003.008\n", &[0], &super::super::reason("too\nbusy")]),
                "refused the connection: toobusy",
            ),
            (
                "3.3 turned away",
                bytes(&[b"RFB 003.003\n", &[0; 4], &super::super::reason("busy")]),
                "refused the connection: busy",
            ),
            (
                "only anonymous TLS",
                bytes(&[
                    b"RFB 003.008\n",
                    &[1, 19, 0, 2, 0, 2],
                    &258_u32.to_be_bytes(),
                    &257_u32.to_be_bytes(),
                ]),
                "only kinds [258, 257]",
            ),
            ("an old VeNCrypt", bytes(&[b"RFB 003.008\n", &[1, 19, 0, 1]]), "VeNCrypt 0.2"),
            (
                "certificates that are none",
                bytes(&[b"RFB 003.008\n", &[2, 1, 19, 0, 2, 0, 1], &261_u32.to_be_bytes(), &[1], b"not TLS"]),
                "TLS was not agreed on",
            ),
            ("unknown types", bytes(&[b"RFB 003.008\n", &[2, 16, 30]]), "[16, 30]"),
            ("3.3 unknown type", bytes(&[b"RFB 003.003\n", &[0, 0, 4, 0]]), "[255]"),
            (
                "wrong password",
                bytes(&[b"RFB 003.008\n", &[1, 2], &challenge, &[0, 0, 0, 1], &super::super::reason("no")]),
                "refused the password: no",
            ),
            ("too many", bytes(&[b"RFB 003.007\n", &[1, 2], &challenge, &[0, 0, 0, 2]]), "too many attempts"),
            (
                "a reason of 4 GiB",
                bytes(&[b"RFB 003.008\n", &[0], &[0xff; 4]]),
                "announced a reason of 4294967295 bytes",
            ),
        ] {
            let (result, _) = play(&server, "x").await;
            let error = result.unwrap_err().to_string();
            assert!(error.contains(wanted), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_name_of_any_length_takes_no_memory() {
        let (mut near, mut far) = duplex(1024);
        far.write_all(&[&[0; 20][..], &[0xff; 4]].concat()).await.unwrap();
        let error = initialise(&mut near, 1).await.unwrap_err();
        assert!(matches!(error, Error::Length { what: "name", length: u32::MAX }), "{error}");
        let (mut near, mut far) = duplex(1024);
        far.write_all(&[&[7; 20][..], &[0, 0, 0, 4], b"QEMU"].concat()).await.unwrap();
        assert_eq!(initialise(&mut near, 1).await.unwrap().named("a")[..2], [7, 7]);
        assert_eq!(far.read_u8().await.unwrap(), 1);
    }

    proptest! {
        #[test]
        fn any_server_is_survived(tail in proptest::collection::vec(any::<u8>(), 0..64), version in 0_usize..4) {
            let greeting = [&b"RFB 003.003\n"[..], b"RFB 003.007\n", b"RFB 003.008\n", b""][version];
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = duplex(1024);
                far.write_all(&[greeting, &tail].concat()).await.unwrap();
                far.shutdown().await.unwrap();
                let tls = Some(common::channel::tls::peer_config(&[], None).unwrap());
                if let Ok(mut ready) = authenticate(Box::new(near), "password", &tls, false).await {
                    let _ = initialise(&mut ready.stream, 1).await;
                }
            });
        }
    }
}
