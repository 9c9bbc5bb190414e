//! The serve process itself: shut in first, then one connection to the core after the other.

use std::{io, time::Duration};

use common::{
    handover::Serve,
    paths::Paths,
    sandbox::{Sandbox, SandboxError, User},
};
use tokio::net::UnixStream;

use super::serve;
use crate::{core::mount, web::Web};

/// What serve asks the core for: the line for tasks. It says which uploads are under way.
pub(crate) const LINE: &str = "line";
/// Longest wait for the core's answer.
const ASK: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// What name resolution and https need to read.
const READ: [&str; 9] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl",
    "/usr",
    "/lib",
];

/// Why the serve process ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// It could not be shut in.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its account could not be looked up, or there is no runtime.
    #[error("Serve cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Serves until the service is stopped.
///
/// # Errors
/// Where it cannot be shut in; it does not serve then.
pub(crate) fn run(paths: &Paths) -> Result<(), ServeError> {
    let user = User::named(paths, User::SERVE)?;
    let mut write = vec![mount::parent(paths)];
    write.extend(mount::stand_ins(paths));
    let mut read: Vec<_> = READ.iter().map(std::path::PathBuf::from).collect();
    read.push(paths.run());
    std::fs::create_dir_all(mount::parent(paths)).ok();
    Sandbox { read, write, user, ..Sandbox::default() }.enter()?;
    // Folders and files are for all hosts, whatever user they come as.
    rustix::process::umask(rustix::fs::Mode::empty());
    tokio::runtime::Runtime::new()?.block_on(connections(paths));
    Ok(())
}

async fn connections(paths: &Paths) {
    let (core, mut updates) = Serve::connect(paths);
    let web = Web::new(core.clone());
    let served = web.clone();
    tokio::spawn(async move {
        while let Some(update) = updates.next().await {
            served.apply(update);
        }
    });
    loop {
        match core.ask_with_socket::<_, ()>(LINE, &web.running(), ASK).await {
            Ok(((), Some(socket))) => {
                let stream = std::os::unix::net::UnixStream::from(socket);
                let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
                let end = match stream {
                    Ok(stream) => serve(stream).await,
                    Err(error) => Err(error),
                };
                match end {
                    Ok(()) => tracing::info!("the core has closed the line"),
                    Err(error) => tracing::warn!(%error, "the line to the core broke"),
                }
            }
            Ok(((), None)) => tracing::warn!("the core gave no line"),
            Err(error) => tracing::debug!(%error, "no line yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
