//! The sandboxed half of the router: answers guests from the snapshots that core hands over.
//!
//! It opens nothing itself but sockets towards upstream resolvers, and reads no file but those of a disk in the
//! drive. Core hands over the listening sockets and, as whole snapshots, what to answer. Nothing that a guest
//! asks waits for core, except the confirmation of a password. When core goes away, guests are served on.
//!
//! - [`sockets`]: how core opens the sockets.
//! - [`services`]: which socket and which snapshot belongs to which feature.
//! - [`networks`], [`crowd`], [`limit`]: who may ask, and how much.
//! - [`http`], [`tls`]: the HTTP server beneath metadata and passwords.
//! - [`counters`]: what is counted.

pub mod counters;
pub mod crowd;
pub mod http;
pub mod limit;
pub mod networks;
pub mod services;
pub mod sockets;
pub mod tls;

use std::{io, time::Duration};

use common::{
    handover::{Serve, Update},
    paths::Paths,
    sandbox::{Sandbox, SandboxError, User},
};
use rustix::process::{Resource, getrlimit, setrlimit};

use self::services::Services;
use crate::snapshot::COUNTERS;

/// Pause between two reports of counters.
const REPORT: Duration = Duration::from_secs(5);
/// Time for core to take a report; meanwhile no further one is sent.
const REPORT_LIMIT: Duration = Duration::from_secs(600);
/// Threads that answer guests, at most.
const THREADS: usize = 4;

/// Why serve could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No accounts to read, or no threads to run on.
    #[error("Cannot start: {0}")]
    Start(#[from] io::Error),
    /// It is not shut in, so it must not serve.
    #[error("Cannot give up privileges: {0}")]
    Sandbox(#[from] SandboxError),
    /// There is nobody to run as.
    #[error("There is no account {0} to run as")]
    Account(&'static str),
    /// The hand-over from core ended, which it does not do by itself.
    #[error("Nothing comes from the core any more")]
    Ended,
}

/// Runs until the service is stopped.
///
/// # Errors
/// Where it cannot start.
pub fn run(paths: &Paths) -> Result<(), Error> {
    common::log::init();
    raise_open_files()?;
    let user = User::named(paths, User::SERVE)?.ok_or(Error::Account(User::SERVE))?;
    // Disks in the drive appear below it later.
    std::fs::create_dir_all(paths.media())?;
    Sandbox { user: Some(user), read: vec![paths.media()], ..Sandbox::default() }.enter()?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve(paths))
}

async fn serve(paths: &Paths) -> Result<(), Error> {
    let (core, mut updates) = Serve::connect(paths);
    let mut services = Services::new(core.clone(), paths.media());
    let counters = services.counters();
    tokio::spawn(async move {
        let mut before = serde_json::Value::Null;
        loop {
            tokio::time::sleep(REPORT).await;
            let now = serde_json::to_value(&*counters).unwrap_or_default();
            if now == before {
                continue;
            }
            match core.ask::<_, serde::de::IgnoredAny>(COUNTERS, &now, REPORT_LIMIT).await {
                Ok(_) => before = now,
                Err(error) => tracing::debug!(%error, "counters not taken"),
            }
        }
    });
    while let Some(update) = updates.next().await {
        match update {
            Update::Socket { name, fd } => services.start(name, fd),
            Update::Withdrawn { name } => services.stop(&name),
            Update::Snapshot { kind, bytes } => services.take(&kind, &bytes),
        }
    }
    Err(Error::Ended)
}

/// Each guest's connection and each question to an upstream is an open file.
fn raise_open_files() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
