//! VNC servers of few words, for figures and for many sessions.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::WORLD;

/// Bytes of a flood.
pub const BULK: usize = 1 << 30;
/// Bytes of one write.
const WRITE: usize = 64 * 1024;

/// What a VNC server does once it is asked for the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Sends [`BULK`] bytes as fast as they are taken.
    Flood,
    /// Sends 1 MB/s.
    Paced,
    /// Sends one picture of 100 by 100 pixels and closes.
    Brief,
    /// Answers each message of 8 or 10 bytes with one of 16.
    Answer,
}

/// A VNC server of the world; its port.
///
/// # Panics
/// Where no port is free.
pub async fn screen(act: Act) -> u16 {
    let listener = TcpListener::bind((WORLD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A viewer that goes away ends it.
            tokio::spawn(async move { drop(serve(stream, act).await) });
        }
    });
    port
}

async fn serve(mut stream: TcpStream, act: Act) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"RFB 003.008\n").await?;
    stream.read_exact(&mut [0; 12]).await?;
    stream.write_all(&[1, 1]).await?;
    stream.read_exact(&mut [0]).await?;
    stream.write_all(&[0; 4]).await?;
    stream.read_exact(&mut [0]).await?;
    let format = [2, 0x80, 1, 0x90, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    stream.write_all(&[&format[..], &[0, 0, 0, 1], b"x"].concat()).await?;
    let mut message = [0; 10];
    loop {
        stream.read_exact(&mut message[..1]).await?;
        let length = if message[0] == 3 { 10 } else { 8 };
        stream.read_exact(&mut message[1..length]).await?;
        match act {
            Act::Answer => stream.write_all(&[0; 16]).await?,
            Act::Flood => {
                let bytes = vec![0x5a; WRITE];
                for _ in 0..BULK / WRITE {
                    stream.write_all(&bytes).await?;
                }
            }
            Act::Brief => {
                let pixels = 4 * 100 * 100;
                let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 100, 0, 100, 0, 0, 0, 0];
                stream.write_all(&[&head[..], &vec![0x5a; pixels]].concat()).await?;
                return stream.shutdown().await;
            }
            Act::Paced => {
                let (bytes, mut ticks) =
                    (vec![0x5a; 20_000], tokio::time::interval(Duration::from_millis(20)));
                loop {
                    ticks.tick().await;
                    stream.write_all(&bytes).await?;
                }
            }
        }
    }
}
