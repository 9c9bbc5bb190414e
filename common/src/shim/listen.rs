//! The core's side of the socket to the shim.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::wire::{self, Reply, Request, WireError};
use crate::paths::Paths;

/// Commands that are answered side by side; more wait in the socket's queue.
pub const AT_ONCE: usize = 64;

/// A request must be whole, and its reply taken, within this time.
pub const TRANSFER_LIMIT: Duration = Duration::from_secs(30);

/// Longest time a command may take: a little under the ten minutes after which hosts give up.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(590);

/// Makes the socket [`Paths::core_socket`] (mode 0600); what is returned answers the shim there until it is
/// dropped. `handler` runs once for each command, commands side by side; one that lasts longer than [`COMMAND_LIMIT`], or that
/// panics, is answered with exit code 1. A command goes on where its caller hangs up.
///
/// # Errors
/// Where the socket cannot be made.
pub fn listen<H, F>(paths: &Paths, handler: H) -> io::Result<impl Future<Output = ()> + use<H, F>>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let listener = bind(&paths.core_socket(), 0o600)?;
    Ok(accept(listener, Arc::new(handler)))
}

async fn accept<H, F>(listener: UnixListener, handler: Arc<H>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory: others must end first.
                tracing::warn!(%error, "cannot accept a command");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &*handler).await {
                tracing::warn!(%error, "a command was not answered");
            }
            drop(place);
        });
    }
}

/// Makes a listening socket in place of what lies there, with this mode.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Under another name until its mode is right, then renamed: nobody meets it half made.
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

async fn answer<H, F>(mut stream: UnixStream, handler: &H) -> Result<(), WireError>
where
    H: Fn(Request) -> F,
    F: Future<Output = Reply> + Send + 'static,
{
    let request: Request = timeout(TRANSFER_LIMIT, read(&mut stream)).await.map_err(io::Error::from)??;
    let command = request.words.first().cloned().unwrap_or_default();
    let started = std::time::Instant::now();
    let task = tokio::spawn(handler(request));
    let abort = task.abort_handle();
    let reply = match timeout(COMMAND_LIMIT, task).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Reply::fail(1, format_args!("{command}: failed inside, see the log")),
        Err(_) => {
            abort.abort();
            Reply::fail(1, format_args!("{command}: took longer than {} s", COMMAND_LIMIT.as_secs()))
        }
    };
    tracing::info!(%command, code = reply.code, ms = started.elapsed().as_millis() as u64, "command");
    let bytes = match wire::encode(&reply) {
        Err(WireError::TooLong(length)) => {
            wire::encode(&Reply::fail(1, format_args!("{command}: an answer of {length} bytes is too long")))?
        }
        other => other?,
    };
    timeout(TRANSFER_LIMIT, stream.write_all(&bytes)).await.map_err(io::Error::from)??;
    Ok(())
}

async fn read(stream: &mut UnixStream) -> Result<Request, WireError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    // Grows as bytes arrive: a length alone takes no memory.
    let mut body = Vec::new();
    let length = wire::length(head)?;
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn echo(request: Request) -> Reply {
        match request.words[0].as_str() {
            "panic" => panic!("as asked"),
            "fail" => Reply::fail(3, "no"),
            _ => Reply::ok(request.words.join(" ")),
        }
    }

    async fn call(paths: &Paths, words: &[&str]) -> Result<Reply, WireError> {
        let (paths, request) = (paths.clone(), Request::new(words.iter().copied()));
        tokio::task::spawn_blocking(move || wire::call(&paths, &request, Duration::from_secs(5)))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn commands_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        assert!(call(&paths, &["status"]).await.is_err());
        // A socket that a dead core left behind is in nobody's way.
        fs::create_dir_all(paths.run()).unwrap();
        fs::write(paths.core_socket(), "").unwrap();
        let server = listen(&paths, echo).unwrap();
        let client = async {
            let mode = fs::metadata(paths.core_socket()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(call(&paths, &["status", "a b"]).await.unwrap(), Reply::ok("status a b"));
            assert_eq!(call(&paths, &["fail"]).await.unwrap().code, 3);
            assert!(call(&paths, &["panic"]).await.unwrap().stderr.contains("failed inside"));
            // Garbage ends one connection only.
            let mut stream = std::os::unix::net::UnixStream::connect(paths.core_socket()).unwrap();
            stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
            assert_eq!(call(&paths, &["status"]).await.unwrap(), Reply::ok("status"));
        };
        tokio::select! {
            _ = server => unreachable!(),
            () = client => {}
        }
    }
}
