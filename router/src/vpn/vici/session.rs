//! A conversation with charon over its local socket: one command after the other, and what it tells by itself.

use std::{collections::VecDeque, io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::message::{LIMIT, Message, MessageError};

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Most events that wait to be heard; the oldest go.
const EVENTS: usize = 4096;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const UNKNOWN: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

/// Why charon did not do as asked, or what it does is not known.
#[derive(Debug, thiserror::Error)]
pub enum ViciError {
    /// It is not there, or has gone.
    #[error("the IKE daemon does not answer: {0}")]
    Io(#[from] io::Error),
    /// It answers in a way that cannot be understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It says something that is no answer to the question.
    #[error("the IKE daemon answers {command} with a packet of type {kind}")]
    Answer {
        /// The question.
        command: String,
        /// The packet's type.
        kind: u8,
    },
    /// It says no.
    #[error("the IKE daemon refuses {command}: {reason}")]
    Refused {
        /// What was asked of it.
        command: String,
        /// What it said.
        reason: String,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    events: VecDeque<(String, Message)>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens.
    pub async fn open(socket: &Path) -> Result<Self, ViciError> {
        let stream = within(async { Ok(UnixStream::connect(socket).await?) }).await?;
        Ok(Self { stream, events: VecDeque::new() })
    }

    /// Asks for something and returns the answer, at most 5 s later. An answer that says that it failed is an error.
    ///
    /// # Errors
    /// Where charon is not there, or refuses.
    pub async fn ask(&mut self, command: &str, message: &Message) -> Result<Message, ViciError> {
        self.send(REQUEST, command, &message.write()?).await?;
        let answer = within(async {
            loop {
                match self.packet().await? {
                    (RESPONSE, _, body) => return Ok(Message::read(&body)?),
                    (EVENT, name, body) => self.keep(name, &body)?,
                    (kind, ..) => return Err(ViciError::Answer { command: command.to_owned(), kind }),
                }
            }
        })
        .await?;
        if answer.str("success") == Some("no") {
            let reason = answer.str("errmsg").unwrap_or("it does not say why").to_owned();
            return Err(ViciError::Refused { command: command.to_owned(), reason });
        }
        Ok(answer)
    }

    /// Asks for a list that comes as events.
    ///
    /// # Errors
    /// Where charon is not there, or refuses.
    pub async fn list(&mut self, command: &str, event: &str) -> Result<Vec<Message>, ViciError> {
        self.listen(event, REGISTER).await?;
        let outcome = self.ask(command, &Message::default()).await;
        let (mut found, mut others) = (Vec::new(), VecDeque::new());
        for (name, message) in self.events.drain(..) {
            if name == event { found.push(message) } else { others.push_back((name, message)) }
        }
        self.events = others;
        self.listen(event, UNREGISTER).await?;
        outcome.map(|_| found)
    }

    /// Wants to hear of something.
    ///
    /// # Errors
    /// Where charon is not there, or does not know of such events.
    pub async fn register(&mut self, event: &str) -> Result<(), ViciError> {
        self.listen(event, REGISTER).await
    }

    async fn listen(&mut self, event: &str, order: u8) -> Result<(), ViciError> {
        self.send(order, event, &[]).await?;
        within(async {
            loop {
                match self.packet().await? {
                    (CONFIRM, ..) => return Ok(()),
                    (EVENT, name, body) => self.keep(name, &body)?,
                    (kind, ..) => return Err(ViciError::Answer { command: event.to_owned(), kind }),
                }
            }
        })
        .await
    }

    /// The next thing that charon tells by itself; waits for it without end. A call that is given up loses nothing
    /// only between events: such a session is for listening alone.
    ///
    /// # Errors
    /// Where charon has gone.
    pub async fn event(&mut self) -> Result<(String, Message), ViciError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let (EVENT, name, body) = self.packet().await? {
                self.keep(name, &body)?;
            }
        }
    }

    fn keep(&mut self, name: String, body: &[u8]) -> Result<(), ViciError> {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((name, Message::read(body)?));
        Ok(())
    }

    async fn send(&mut self, kind: u8, name: &str, body: &[u8]) -> Result<(), ViciError> {
        let length = u8::try_from(name.len()).map_err(|_| MessageError::Long)?;
        let total = u32::try_from(2 + name.len() + body.len()).map_err(|_| MessageError::Long)?;
        let mut bytes = total.to_be_bytes().to_vec();
        bytes.extend([kind, length]);
        bytes.extend(name.as_bytes());
        bytes.extend(body);
        within(async { Ok(self.stream.write_all(&bytes).await?) }).await
    }

    /// One packet: type, name where the type has one, and the rest.
    async fn packet(&mut self) -> Result<(u8, String, Vec<u8>), ViciError> {
        let length = usize::try_from(self.stream.read_u32().await?).unwrap_or(usize::MAX);
        if length > LIMIT {
            return Err(MessageError::Long.into());
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await?;
        let (kind, rest) = bytes.split_first().ok_or(MessageError::Short)?;
        match *kind {
            EVENT => {
                let (length, rest) = rest.split_first().ok_or(MessageError::Short)?;
                let (name, body) = rest.split_at_checked(usize::from(*length)).ok_or(MessageError::Short)?;
                Ok((EVENT, String::from_utf8_lossy(name).into_owned(), body.to_vec()))
            }
            kind @ (RESPONSE | UNKNOWN | CONFIRM | EVENT_UNKNOWN) => Ok((kind, String::new(), rest.to_vec())),
            other => Err(MessageError::Element(other).into()),
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, ViciError>>) -> Result<T, ViciError> {
    timeout(ANSWER, work).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}
