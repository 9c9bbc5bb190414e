//! A browser's end of a console, byte by byte.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{LIMIT, PUBLIC};

/// A browser.
pub struct Viewer {
    /// Its websocket.
    pub socket: WebSocketStream<TcpStream>,
    /// The subprotocol that was agreed on.
    pub protocol: Option<String>,
    bytes: Vec<u8>,
}

impl Viewer {
    /// Opens the websocket from an address of the world.
    pub async fn open(query: &str, from: &str) -> Result<Self, String> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let stream = socket.connect(format!("{PUBLIC}:8080").parse().unwrap()).await.unwrap();
        let url = format!("ws://{PUBLIC}:8080/websockify/websockify?{query}");
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "binary".parse().unwrap());
        let opened = timeout(LIMIT, client_async(request, stream)).await.unwrap();
        let (socket, response) = opened.map_err(|error| error.to_string())?;
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().unwrap().to_owned());
        Ok(Self { socket, protocol, bytes: Vec::new() })
    }

    /// Opens a console with this token and goes on until the screen is described.
    pub async fn shown(token: &str) -> (Self, Vec<u8>) {
        let mut viewer = Self::open(&format!("token={token}"), "203.0.113.7").await.unwrap();
        assert_eq!(viewer.protocol.as_deref(), Some("binary"));
        viewer.greet().await;
        assert_eq!(viewer.read(2).await, [1, 1], "{}", viewer.rest().await);
        viewer.send(&[1]).await;
        assert_eq!(viewer.read(4).await, [0; 4]);
        viewer.send(&[1]).await;
        let mut init = viewer.read(24).await;
        let length = u32::from_be_bytes(init[20..].try_into().unwrap());
        init.extend(viewer.read(length as usize).await);
        (viewer, init)
    }

    /// Opens a console that has to be refused, and returns the reason.
    pub async fn refused(query: &str, from: &str) -> String {
        let mut viewer = Self::open(query, from).await.unwrap();
        viewer.greet().await;
        assert_eq!(viewer.read(1).await, [0], "no security type is offered");
        let length = u32::from_be_bytes(viewer.read(4).await.try_into().unwrap());
        let reason = viewer.read(length as usize).await;
        assert!(viewer.closed().await.is_some(), "closed with a frame");
        String::from_utf8(reason).unwrap()
    }

    /// Takes the proxy's version and says its own.
    pub async fn greet(&mut self) {
        assert_eq!(self.read(12).await, b"RFB 003.008\n");
        self.send(b"RFB 003.008\n").await;
    }

    /// Sends bytes as one message.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// Reads so many bytes, however they come.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.bytes.len() < count {
            match timeout(LIMIT, self.socket.next()).await.expect("bytes in time") {
                Some(Ok(Message::Binary(more))) => self.bytes.extend_from_slice(&more),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("wanted {count} bytes, have {:?}, got {other:?}", self.bytes),
            }
        }
        self.bytes.drain(..count).collect()
    }

    /// What else there is, as text for a message.
    async fn rest(&mut self) -> String {
        if let Ok(Some(Ok(Message::Binary(more)))) =
            timeout(Duration::from_millis(10), self.socket.next()).await
        {
            self.bytes.extend_from_slice(&more);
        }
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Reads until the end; the code and reason of the close frame where there was one.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        let mut close = None;
        loop {
            match timeout(LIMIT, self.socket.next()).await.expect("the end in time") {
                Some(Ok(Message::Close(frame))) => {
                    close = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return close,
            }
        }
    }

    /// Asks for the whole screen and reads it; its width and height.
    pub async fn picture(&mut self) -> (u16, u16) {
        // Raw only; then the whole screen.
        self.send(&[2, 0, 0, 1, 0, 0, 0, 0]).await;
        self.send(&[&[3, 0, 0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 0xff]].concat()).await;
        let head = self.read(4).await;
        assert_eq!(head[0], 0, "a frame buffer update");
        let mut size = (0, 0);
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let head = self.read(12).await;
            let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
            let (x, y, width, height) = (number(0), number(2), number(4), number(6));
            self.read(usize::from(width) * usize::from(height) * 4).await;
            size = (size.0.max(x + width), size.1.max(y + height));
        }
        size
    }
}
