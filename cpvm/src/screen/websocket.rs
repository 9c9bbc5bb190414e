//! The way to a screen of VMware: a websocket with a ticket in its URL, read and written as a stream of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message, client::IntoClientRequest as _, http::HeaderValue, protocol::WebSocketConfig,
    },
};

use super::Duplex;
use crate::rfb::hypervisor::Error;

/// Longest message of the hypervisor, in bytes.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The bytes of the binary messages.
pub struct Remote {
    socket: WebSocketStream<Box<dyn Duplex>>,
    rest: Bytes,
}

/// Opens the websocket. The caller bounds the time.
///
/// # Errors
/// Where the server does not take it.
pub async fn connect(stream: Box<dyn Duplex>, url: &str) -> Result<Remote, Error> {
    let refused = |error: tungstenite::Error| match error {
        tungstenite::Error::Http(answer) => Error::Websocket(answer.status().to_string()),
        tungstenite::Error::Io(error) => Error::Io(error),
        _ => Error::Websocket("not a websocket".to_owned()),
    };
    let mut request = url.into_client_request().map_err(refused)?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("binary"));
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(refused)?;
    Ok(Remote { socket, rest: Bytes::new() })
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl Duplex for Remote {}

impl AsyncRead for Remote {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                // Text is no part of a screen, pings are answered below.
                Some(Ok(_)) => {}
                Some(Err(tungstenite::Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Remote {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::handshake::server::{Request, Response},
    };

    use super::*;

    #[tokio::test]
    async fn messages_are_a_stream_and_the_far_end_ends_it() {
        let (near, far) = duplex(64 * 1024);
        let serving = tokio::spawn(async move {
            #[expect(clippy::result_large_err, reason = "the library's own type")]
            let agree = |_: &Request, mut response: Response| {
                response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("binary"));
                Ok(response)
            };
            let mut server = accept_hdr_async(far, agree).await.unwrap();
            for message in
                [Message::binary(&b"RFB "[..]), Message::text("no"), Message::binary(&b"003.008\n"[..])]
            {
                server.send(message).await.unwrap();
            }
            let answer = server.next().await.unwrap().unwrap();
            server.close(None).await.unwrap();
            answer
        });
        let mut remote = connect(Box::new(near), "ws://esx.example/ticket/1").await.ok().unwrap();
        remote.write_all(b"RFB 003.008\n").await.unwrap();
        remote.flush().await.unwrap();
        let mut all = Vec::new();
        remote.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"RFB 003.008\n");
        assert_eq!(serving.await.unwrap(), Message::binary(&b"RFB 003.008\n"[..]));
    }

    #[tokio::test]
    async fn what_is_no_websocket_is_refused() {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let refused = connect(Box::new(near), "ws://esx.example/ticket/1").await;
        assert!(matches!(refused, Err(Error::Websocket(status)) if status.contains("404")));
    }
}
