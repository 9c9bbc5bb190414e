//! The handshake with the hypervisor's VNC server, up to its description of the screen. Everything
//! that it says is taken as hostile: lengths are bounded, unknown things end the handshake.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{ServerInit, Version, des};

const NONE: u8 = 1;
const VNC: u8 = 2;
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

/// Speaks version and security; afterwards the server waits for the client's initialisation.
/// The caller bounds the time.
pub async fn authenticate<S>(stream: &mut S, password: &str) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut greeting = [0; Version::LENGTH];
    stream.read_exact(&mut greeting).await?;
    let version = Version::parse(&greeting).ok_or(Error::Version)?;
    stream.write_all(version.message()).await?;
    let security = match version {
        Version::V3_3 => decided(stream).await?,
        Version::V3_7 | Version::V3_8 => choose(stream).await?,
    };
    if security == VNC {
        let mut challenge = [0; des::LENGTH];
        stream.read_exact(&mut challenge).await?;
        stream.write_all(&des::response(password, challenge)).await?;
    }
    // Before 3.8 a server says nothing about a connection without authentication.
    if security == NONE && version < Version::V3_8 {
        return Ok(());
    }
    match stream.read_u32().await? {
        0 => Ok(()),
        code => {
            let text = match (version, code) {
                (Version::V3_8, _) => reason(stream).await?,
                (_, 2) => "too many attempts".to_owned(),
                _ => "authentication failed".to_owned(),
            };
            Err(Error::Password(text))
        }
    }
}

/// Says whether others may stay connected, and reads the description of the screen.
pub async fn initialise<S>(stream: &mut S, shared: u8) -> Result<ServerInit, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&[shared]).await?;
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

/// Versions 3.7 and 3.8: authentication is preferred to none.
async fn choose<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<u8, Error> {
    let count = stream.read_u8().await?;
    if count == 0 {
        return Err(Error::Refused(reason(stream).await?));
    }
    let mut offered = vec![0; usize::from(count)];
    stream.read_exact(&mut offered).await?;
    let Some(choice) = [VNC, NONE].into_iter().find(|known| offered.contains(known)) else {
        return Err(Error::Security(offered));
    };
    stream.write_all(&[choice]).await?;
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
        let (mut near, mut far) = duplex(64 * 1024);
        far.write_all(server).await.unwrap();
        let result = tokio::select! {
            result = authenticate(&mut near, password) => result,
            // All was read and more is wanted.
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        drop(near);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
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
                let (mut near, mut far) = duplex(1024);
                far.write_all(&[greeting, &tail].concat()).await.unwrap();
                far.shutdown().await.unwrap();
                let _ = authenticate(&mut near, "password").await;
                let _ = initialise(&mut near, 1).await;
            });
        }
    }
}
