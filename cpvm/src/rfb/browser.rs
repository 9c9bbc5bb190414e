//! The handshake with the browser. The proxy has done the hypervisor's authentication, so it offers
//! the browser none; a refusal is told in the protocol's own way, where the page can show it.
//!
//! Message boundaries carry no meaning: a browser may send everything at once or byte by byte.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Version, reason};
use crate::{
    end::End,
    websocket::{Decoder, Opcode, append},
};

/// Bytes that may come before the screen does; a handshake needs 14.
const EARLY_LIMIT: usize = 4 * 1024;
/// Bytes read at a time.
const PORTION: usize = 1024;

/// A browser's websocket with the bytes that have come but not been used.
#[derive(Debug)]
pub struct Browser<S> {
    stream: S,
    decoder: Decoder,
    early: BytesMut,
    /// How it has ended, once those bytes are used.
    end: Option<End>,
    /// Frames that go out before the next one.
    replies: Vec<u8>,
}

/// What is left of a [`Browser`] for the relay.
#[derive(Debug)]
pub struct Parts<S> {
    /// The connection.
    pub stream: S,
    /// The reader of its frames.
    pub decoder: Decoder,
    /// Bytes of the console that have come.
    pub early: Bytes,
    /// How it has ended, after those bytes.
    pub end: Option<End>,
    /// Frames that it is still to get.
    pub replies: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Browser<S> {
    /// From a connection whose upgrade has been answered; `first` came with the request.
    pub fn new(stream: S, first: &[u8]) -> Self {
        let (early, replies) = (BytesMut::new(), Vec::new());
        let mut browser = Self { stream, decoder: Decoder::default(), early, end: None, replies };
        browser.take(&mut first.to_vec());
        browser
    }

    /// Sends the proxy's version and reads the browser's.
    pub async fn greet(&mut self) -> Result<Version, End> {
        self.send(Version::V3_8.message()).await?;
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
        let mut frame = Vec::new();
        append(&mut frame, Opcode::Binary, bytes.as_ref());
        self.write(&frame).await
    }

    /// What the relay goes on with.
    pub fn into_parts(self) -> Parts<S> {
        let Self { stream, decoder, early, end, replies } = self;
        Parts { stream, decoder, early: early.freeze(), end, replies }
    }

    /// Ends the session towards the browser; see [`close`].
    pub async fn close(mut self, end: End) {
        close(&mut self.stream, &mut self.decoder, self.replies, end).await;
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let replies = std::mem::take(&mut self.replies);
        self.stream.write_all(&[&replies, bytes].concat()).await.map_err(|_| End::BrowserGone)?;
        self.stream.flush().await.map_err(|_| End::BrowserGone)
    }

    /// Takes bytes that have come.
    fn take(&mut self, bytes: &mut [u8]) {
        let decoded = self.decoder.decode(bytes, &mut self.replies);
        self.early.extend_from_slice(&bytes[..decoded.data]);
        let flood = self.early.len().max(self.replies.len()) > EARLY_LIMIT;
        self.end = if flood { Some(End::BrowserProtocol) } else { decoded.end };
    }

    async fn read<const N: usize>(&mut self) -> Result<[u8; N], End> {
        let mut bytes = [0; N];
        while self.early.len() < N || self.end == Some(End::BrowserProtocol) {
            if let Some(end) = self.end {
                return Err(end);
            }
            let mut portion = [0; PORTION];
            let count = self.stream.read(&mut portion).await.map_err(|_| End::BrowserGone)?;
            if count == 0 {
                return Err(End::BrowserGone);
            }
            self.take(&mut portion[..count]);
            if !self.replies.is_empty() {
                self.write(&[]).await?;
            }
        }
        self.early.copy_to_slice(&mut bytes);
        Ok(bytes)
    }
}

/// Sends what is left of earlier frames, says why the session ends, and waits for the browser to have read it; the
/// caller bounds the time.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    mut frames: Vec<u8>,
    end: End,
) {
    let (code, text) = end.close();
    append(&mut frames, Opcode::Close, &[&code.to_be_bytes(), text.as_bytes()].concat());
    let sent = async {
        stream.write_all(&frames).await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return;
    }
    // A connection that closes with bytes unread takes the close frame back: what breaks the protocol is read too.
    let broken = matches!(end, End::BrowserTooBig | End::BrowserProtocol | End::BrowserText);
    let mut unread = [0; PORTION];
    let mut done = end == End::BrowserClosed;
    while !done {
        let Ok(count @ 1..) = stream.read(&mut unread).await else { break };
        done = !broken && decoder.decode(&mut unread[..count], &mut Vec::new()).end.is_some();
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::*;
    use crate::websocket::FRAME_LIMIT;

    async fn pair() -> (Browser<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = duplex(1024 * 1024);
        (Browser::new(near, &[]), WebSocketStream::from_raw_socket(far, Role::Client, None).await)
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
                assert_eq!(&browser.read::<11>().await.unwrap(), b"early input");
            }
        }
    }

    #[tokio::test]
    async fn what_came_with_the_request_counts() {
        let (near, far) = duplex(1024);
        let mut first = vec![0x89, 0x80, 0, 0, 0, 0, 0x82, 0x8c, 0, 0, 0, 0];
        first.extend_from_slice(b"RFB 003.008\n");
        let mut browser = Browser::new(near, &first);
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        assert_eq!(browser.greet().await, Ok(Version::V3_8));
        assert!(client.next().await.unwrap().unwrap().is_pong());
        assert_eq!(received(&mut client).await, b"RFB 003.008\n");
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
                let mut browser = Browser::new(near, &[]);
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
