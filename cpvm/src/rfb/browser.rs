//! The handshake with the browser. The proxy has done the hypervisor's authentication, so it offers
//! the browser none; a refusal is told in the protocol's own way, where the page can show it.
//!
//! Message boundaries carry no meaning: a browser may send everything at once or byte by byte.

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{Version, reason};
use crate::end::End;

/// Largest frame from a browser, in bytes.
pub const FRAME_LIMIT: usize = 64 * 1024;
/// Largest message from a browser, all of its frames, in bytes.
const MESSAGE_LIMIT: usize = 256 * 1024;
/// Bytes that may come before the screen does; a handshake needs 14.
const EARLY_LIMIT: usize = 4 * 1024;

/// A browser's websocket with the bytes that have come but not been used.
#[derive(Debug)]
pub struct Browser<S> {
    socket: WebSocketStream<S>,
    early: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Browser<S> {
    /// From a connection whose upgrade has been answered.
    pub async fn new(stream: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .write_buffer_size(64 * 1024)
            .max_write_buffer_size(512 * 1024)
            .max_frame_size(Some(FRAME_LIMIT))
            .max_message_size(Some(MESSAGE_LIMIT));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { socket, early: BytesMut::new() }
    }

    /// Sends the proxy's version and reads the browser's.
    pub async fn greet(&mut self) -> Result<Version, End> {
        self.send(Version::V3_8.message().as_slice()).await?;
        let greeting: [u8; Version::LENGTH] = self.read().await?;
        Version::parse(&greeting).ok_or(End::BrowserProtocol)
    }

    /// Tells, in place of the security types, why there is no console.
    pub async fn refuse(&mut self, version: Version, text: &str) -> Result<(), End> {
        let none: &[u8] = if version == Version::V3_3 { &[0, 0, 0, 0] } else { &[0] };
        self.send([none, &reason(text)].concat()).await
    }

    /// Offers no authentication, and reads whether others may stay connected.
    pub async fn admit(&mut self, version: Version) -> Result<u8, End> {
        if version == Version::V3_3 {
            self.send(&[0, 0, 0, 1][..]).await?;
        } else {
            self.send(&[1, 1][..]).await?;
            if self.read::<1>().await? != [1] {
                return Err(End::BrowserProtocol);
            }
        }
        if version == Version::V3_8 {
            self.send(&[0, 0, 0, 0][..]).await?;
        }
        let [shared] = self.read().await?;
        Ok(shared)
    }

    /// Sends bytes as one message.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), End> {
        self.socket
            .send(Message::Binary(Bytes::copy_from_slice(bytes.as_ref())))
            .await
            .map_err(|e| broken(&e))
    }

    /// The websocket and what it has already delivered.
    pub fn into_parts(self) -> (WebSocketStream<S>, Bytes) {
        (self.socket, self.early.freeze())
    }

    /// Ends the session towards the browser; see [`close`].
    pub async fn close(mut self, end: &End) {
        close(&mut self.socket, end).await;
    }

    async fn read<const N: usize>(&mut self) -> Result<[u8; N], End> {
        let mut bytes = [0; N];
        while self.early.len() < N {
            let message = self.socket.next().await.ok_or(End::BrowserGone)?;
            if let Some(more) = payload(message)? {
                if self.early.len() + more.len() > EARLY_LIMIT {
                    return Err(End::BrowserProtocol);
                }
                self.early.extend_from_slice(&more);
            }
        }
        self.early.copy_to_slice(&mut bytes);
        Ok(bytes)
    }
}

/// The bytes of a message; `None` for one that only says that the browser is there.
pub fn payload(message: Result<Message, tungstenite::Error>) -> Result<Option<Bytes>, End> {
    match message.map_err(|error| broken(&error))? {
        Message::Binary(bytes) => Ok(Some(bytes)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        Message::Text(_) => Err(End::BrowserText),
        Message::Close(_) => Err(End::BrowserClosed),
    }
}

/// How a broken websocket ended the session.
pub fn broken(error: &tungstenite::Error) -> End {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => End::BrowserClosed,
        tungstenite::Error::Capacity(_) => End::BrowserTooBig,
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
        | tungstenite::Error::Io(_) => End::BrowserGone,
        _ => End::BrowserProtocol,
    }
}

/// Says why the session ends and waits a moment for the browser to have read it; the caller bounds the time.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, end: &End) {
    let (code, text) = end.close();
    let frame = CloseFrame { code: code.into(), reason: text.into() };
    if socket.close(Some(frame)).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
    // A connection that closes with bytes unread takes the close frame back.
    if matches!(end, End::BrowserTooBig | End::BrowserProtocol) {
        let mut unread = [0; 4096];
        while let Ok(1..) = socket.get_mut().read(&mut unread).await {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn pair() -> (Browser<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = duplex(1024 * 1024);
        (Browser::new(near).await, WebSocketStream::from_raw_socket(far, Role::Client, None).await)
    }

    async fn received(client: &mut WebSocketStream<DuplexStream>) -> Vec<u8> {
        client.next().await.unwrap().unwrap().into_data().to_vec()
    }

    #[tokio::test]
    async fn everything_at_once_or_byte_by_byte() {
        for version in [Version::V3_3, Version::V3_7, Version::V3_8] {
            let choice: &[u8] = if version == Version::V3_3 { &[] } else { &[1] };
            let all = [version.message().as_slice(), choice, &[1], b"early input"].concat();
            for pieces in [vec![all.clone()], all.iter().map(|byte| vec![*byte]).collect()] {
                let (mut browser, mut client) = pair().await;
                for piece in pieces {
                    client.send(Message::binary(piece)).await.unwrap();
                }
                assert_eq!(browser.greet().await, Ok(version));
                assert_eq!(browser.admit(version).await, Ok(1));
                assert_eq!(received(&mut client).await, b"RFB 003.008\n");
                match version {
                    Version::V3_3 => assert_eq!(received(&mut client).await, [0, 0, 0, 1]),
                    Version::V3_7 => assert_eq!(received(&mut client).await, [1, 1]),
                    Version::V3_8 => {
                        assert_eq!(received(&mut client).await, [1, 1]);
                        assert_eq!(received(&mut client).await, [0; 4]);
                    }
                }
                let (mut socket, early) = browser.into_parts();
                let mut rest = early.to_vec();
                while rest.len() < 11 {
                    rest.extend(payload(socket.next().await.unwrap()).unwrap().unwrap());
                }
                assert_eq!(rest, b"early input");
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_reads_as_the_page_expects() {
        for (version, wanted) in
            [(Version::V3_8, &b"\0\0\0\0\x02no"[..]), (Version::V3_3, b"\0\0\0\0\0\0\0\x02no")]
        {
            let (mut browser, mut client) = pair().await;
            browser.refuse(version, "no").await.unwrap();
            assert_eq!(received(&mut client).await, wanted);
        }
    }

    #[tokio::test]
    async fn what_no_browser_sends_ends_the_handshake() {
        for (message, wanted) in [
            (Message::text("RFB 003.008\n"), End::BrowserText),
            (Message::binary(&b"RFB 002.000\n"[..]), End::BrowserProtocol),
            (Message::binary(vec![0; EARLY_LIMIT + 1]), End::BrowserProtocol),
            (Message::binary(vec![0; FRAME_LIMIT + 1]), End::BrowserTooBig),
            (Message::Close(None), End::BrowserClosed),
        ] {
            let (mut browser, mut client) = pair().await;
            client.send(message).await.unwrap();
            assert_eq!(browser.greet().await, Err(wanted));
        }
    }

    #[tokio::test]
    async fn a_ping_comes_back_with_its_payload() {
        let (mut browser, mut client) = pair().await;
        client.send(Message::Ping(Bytes::from_static(b"are you there"))).await.unwrap();
        client.send(Message::binary(&b"RFB 003.008\n"[..])).await.unwrap();
        assert_eq!(browser.greet().await, Ok(Version::V3_8));
        browser.send([1]).await.unwrap();
        let first = client.next().await.unwrap().unwrap();
        let second = client.next().await.unwrap().unwrap();
        assert!([first, second].contains(&Message::Pong(Bytes::from_static(b"are you there"))));
    }

    proptest! {
        #[test]
        fn any_bytes_on_the_wire_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = duplex(64 * 1024);
                let mut browser = Browser::new(near).await;
                far.write_all(&bytes).await.unwrap();
                far.shutdown().await.unwrap();
                while browser.read::<1>().await.is_ok() {}
                drop(browser);
                let mut rest = Vec::new();
                far.read_to_end(&mut rest).await.unwrap();
                assert!(rest.len() < 64 * 1024);
            });
        }
    }
}
