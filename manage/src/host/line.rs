//! Lines of JSON from somebody who is not trusted: a guest's agent, QEMU's monitor.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

/// Longest line that is read.
const LIMIT: u64 = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other end closed.
    #[error("closed by the other end")]
    Closed,
    /// It sends a line without end.
    #[error("a line longer than {LIMIT} bytes")]
    Long,
    /// It sends something that is not JSON.
    #[error("not a line of JSON: {0:?}")]
    Text(String),
    /// It answered with an error.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// A connection that carries one JSON object a line.
pub(crate) struct Lines {
    stream: BufReader<UnixStream>,
    /// A line that has begun to arrive.
    partial: Vec<u8>,
}

impl Lines {
    /// Takes over a connection.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), partial: Vec::new() }
    }

    /// Sends an object.
    pub(crate) async fn send(&mut self, value: &Value) -> Result<(), LineError> {
        let mut text = value.to_string().into_bytes();
        text.push(b'\n');
        Ok(self.stream.get_mut().write_all(&text).await?)
    }

    /// The next object. May be cancelled: what has arrived of a line is kept.
    pub(crate) async fn receive(&mut self) -> Result<Value, LineError> {
        loop {
            let room = LIMIT.saturating_sub(self.partial.len() as u64);
            if room == 0 {
                return Err(LineError::Long);
            }
            let read = (&mut self.stream).take(room).read_until(b'\n', &mut self.partial).await?;
            if self.partial.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.partial);
                // A guest's agent marks a new beginning with this byte.
                let text: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
                if text.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&text).map_err(|_| {
                    let shown: String = String::from_utf8_lossy(&text).chars().take(80).collect();
                    LineError::Text(shown)
                });
            }
            if read == 0 {
                return Err(LineError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn first(bytes: Vec<u8>) -> Result<Value, LineError> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let writer = tokio::spawn(async move {
            let _ = ours.write_all(&bytes).await;
        });
        let received = Lines::new(theirs).receive().await;
        writer.await.unwrap();
        received
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        assert!(matches!(first(vec![b'x'; 80_000]).await, Err(LineError::Long)));
        assert!(matches!(first(b"{\"return\":".to_vec()).await, Err(LineError::Closed)));
        assert!(matches!(first(b"hello\n".to_vec()).await, Err(LineError::Text(_))));
        assert_eq!(
            first(b"\xff\r\n{\"return\":{}}\n".to_vec()).await.unwrap()["return"],
            serde_json::json!({})
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = runtime.block_on(first(bytes));
        }
    }
}
