//! HAProxy's sockets for commands. A conversation with a worker keeps that worker alive, so that what it
//! counted can be read after its last connection.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

/// Longest time for one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER: usize = 32 * 1024 * 1024;
/// What ends each answer of a conversation.
const PROMPT: &[u8] = b"\n> ";

/// A conversation with a worker.
#[derive(Debug)]
pub(super) struct Conversation {
    stream: UnixStream,
}

impl Conversation {
    /// Begins one.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let stream = limited(UnixStream::connect(path)).await?;
        let mut conversation = Self { stream };
        conversation.ask("prompt").await?;
        Ok(conversation)
    }

    /// Gives a command and takes the answer.
    pub(super) async fn ask(&mut self, command: &str) -> io::Result<String> {
        limited(async {
            self.stream.write_all(format!("{command}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(PROMPT) {
                if answer.len() > ANSWER {
                    return Err(io::Error::other("an answer without end"));
                }
                if self.stream.read_buf(&mut answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            answer.truncate(answer.len() - PROMPT.len());
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
        .await
    }
}

/// Gives one command and takes the answer.
pub(super) async fn once(path: &Path, command: &str) -> io::Result<String> {
    limited(async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER as u64).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
    .await
}

async fn limited<T>(task: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LIMIT, task).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
