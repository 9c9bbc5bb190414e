//! The way to a screen of XenServer or XCP-ng: a request to its API, after whose answer the connection is VNC.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Duplex;
use crate::rfb::hypervisor::Error;

/// Longest answer, in bytes.
const ANSWER_LIMIT: usize = 8 * 1024;

/// Asks for the screen. The caller bounds the time.
///
/// # Errors
/// Where the server says no, or something that is no answer.
pub async fn connect(stream: &mut dyn Duplex, host: &str, path: &str, session: &str) -> Result<(), Error> {
    let request = format!("CONNECT {path} HTTP/1.0\r\nHost: {host}\r\nCookie: session_id={session}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Byte by byte: what follows the answer is VNC.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_LIMIT {
            return Err(Error::Tunnel("its answer is too long".to_owned()));
        }
        answer.push(stream.read_u8().await?);
    }
    let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line: String = String::from_utf8_lossy(first).chars().filter(|c| !c.is_control()).take(80).collect();
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/1.") => Ok(()),
        _ => Err(Error::Tunnel(line)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn asked(answer: &[u8]) -> (Result<(), Error>, String, Vec<u8>) {
        let (near, mut far) = duplex(64 * 1024);
        let mut near: Box<dyn Duplex> = Box::new(near);
        far.write_all(answer).await.unwrap();
        let connected = connect(&mut *near, "127.0.0.1", "/console?uuid=abc-def", "OpaqueRef:1234").await;
        let mut request = vec![0; 4096];
        let count = far.read(&mut request).await.unwrap();
        drop(far);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (connected, String::from_utf8(request[..count].to_vec()).unwrap(), rest)
    }

    #[tokio::test]
    async fn the_request_is_the_recorded_one_and_the_screen_follows() {
        let (connected, request, rest) = asked(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nRFB 003.003\n").await;
        assert!(connected.is_ok());
        assert_eq!(
            request,
            "CONNECT /console?uuid=abc-def HTTP/1.0\r\nHost: 127.0.0.1\r\nCookie: session_id=OpaqueRef:1234\r\n\r\n"
        );
        assert_eq!(rest, b"RFB 003.003\n");
    }

    #[tokio::test]
    async fn other_answers_are_refused() {
        for answer in
            ["HTTP/1.1 403 Forbidden\r\n\r\n", "RFB 003.003\n\r\n\r\n", "\r\n\r\n", "HTTP/1.0\r\n\r\n"]
        {
            assert!(matches!(asked(answer.as_bytes()).await.0, Err(Error::Tunnel(_))), "{answer}");
        }
        assert!(matches!(asked(&[b'x'; 10_000]).await.0, Err(Error::Tunnel(_))));
    }
}
