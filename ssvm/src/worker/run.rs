//! Takes orders, runs their tasks side by side, reports.

use std::{collections::HashMap, io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    net::UnixStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::interval,
};
use tokio_util::sync::CancellationToken;

use super::{copy, disks, install, limits, list, remove};
use crate::{
    layout::StorePath,
    order::{self, Failure, FailureKind, Order, Outcome, Progress, Report, Task},
    store::{Store, StoreSpec, temporary_name},
    transfer::{Algorithm, Meter, Phase, checksum_of},
};

/// Between two reports of progress.
const TICK: Duration = Duration::from_millis(500);
/// Time for tasks to tidy up after the core has gone.
const TIDY: Duration = Duration::from_secs(60);
/// Time for a task to tidy up after it was aborted: whoever stopped it waits for that.
const STOP: Duration = Duration::from_secs(10);

/// A task that runs.
struct Running {
    meter: Meter,
    started: CancellationToken,
    abort: CancellationToken,
    /// Ends it as the end of the process would, where it can be gone on with.
    suspend: Option<AbortHandle>,
    told: Progress,
}

/// Serves the core until it closes the socket. Running tasks end then: downloads so that they can be gone on with, all
/// others in good order.
pub(crate) async fn serve(stream: UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (orders, mut inbox) = mpsc::channel::<Order>(64);
    let reading = tokio::spawn(async move {
        while let Some(order) = order::receive(&mut reader).await? {
            if orders.send(order).await.is_err() {
                break;
            }
        }
        Ok::<(), io::Error>(())
    });
    let mut running: HashMap<u64, Running> = HashMap::new();
    let mut tasks: JoinSet<(u64, Result<Outcome, Failure>)> = JoinSet::new();
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Start { id, task }) => {
                    let (meter, started, abort) =
                        (Meter::default(), CancellationToken::new(), CancellationToken::new());
                    let lasts = matches!(&task, Task::Fetch(_));
                    let work = tokio::spawn(supervised(task, meter.clone(), started.clone(), abort.clone()));
                    let suspend = lasts.then(|| work.abort_handle());
                    running.insert(id, Running { meter, started, abort, suspend, told: Progress::default() });
                    tasks.spawn(async move {
                        let failed = |_| Err(Failure::end("the task failed inside, see the log"));
                        (id, work.await.unwrap_or_else(failed))
                    });
                }
                Some(Order::Abort { id }) => {
                    if let Some(job) = running.get(&id) {
                        job.abort.cancel();
                    }
                }
                None => break,
            },
            Some(done) = tasks.join_next() => {
                if let Ok((id, result)) = done {
                    running.remove(&id);
                    order::send(&mut writer, &Report::Done { id, result }).await?;
                }
            }
            _ = tick.tick() => for (id, job) in &mut running {
                let progress = Progress {
                    running: job.started.is_cancelled(),
                    received: job.meter.received(),
                    total: job.meter.total(),
                    installing: job.meter.phase() == Phase::Install,
                    origin: job.meter.origin(),
                    checkpoint: job.meter.checkpoint(),
                };
                if progress != job.told {
                    job.told = progress.clone();
                    order::send(&mut writer, &Report::Progress { id: *id, progress }).await?;
                }
            },
        }
    }
    for job in running.values() {
        match &job.suspend {
            Some(suspend) => suspend.abort(),
            None => job.abort.cancel(),
        }
    }
    let _ = tokio::time::timeout(TIDY, async { while tasks.join_next().await.is_some() {} }).await;
    reading.await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Runs a task until its end or its abortion.
async fn supervised(
    task: Task,
    meter: Meter,
    started: CancellationToken,
    abort: CancellationToken,
) -> Result<Outcome, Failure> {
    let aborted = || Failure::new(FailureKind::Aborted, "aborted");
    let slot = match &task {
        Task::Fetch(fetch) => {
            let host = fetch.http.host();
            tokio::select! {
                slot = limits::enter(&host) => Some(slot),
                () = abort.cancelled() => return Err(aborted()),
            }
        }
        _ => None,
    };
    started.cancel();
    let overdue = async {
        abort.cancelled().await;
        tokio::time::sleep(STOP).await;
    };
    let result = tokio::select! {
        result = perform(task, &meter, &abort) => result,
        () = overdue => {
            tracing::warn!("a store is slow: what was stopped stays behind for the sweep");
            Err(aborted())
        }
    };
    drop(slot);
    match result {
        Err(_) if abort.is_cancelled() => Err(aborted()),
        other => other,
    }
}

async fn perform(task: Task, meter: &Meter, abort: &CancellationToken) -> Result<Outcome, Failure> {
    match task {
        Task::Fetch(task) => install::fetch(&task, meter, abort).await.map(Outcome::Stored),
        Task::Copy(task) => copy::copy(&task, meter, abort).await.map(Outcome::Stored),
        Task::RemoveImage { store, path, id } => {
            remove::image(&*store.open("none").await?, &path, id).await.map(Outcome::Removed)
        }
        Task::RemoveSnapshot { store, path, checkpoint } => {
            let store = store.open("none").await?;
            remove::snapshot(&*store, &path, checkpoint.as_ref()).await.map(Outcome::Removed)
        }
        Task::List { store, what } => {
            list::images(&*store.open("none").await?, what).await.map(Outcome::Images)
        }
        Task::Usage { store } => usage(&*store.open("none").await?).await,
        Task::Probe { store, job } => {
            let store = store.open(&job).await?;
            if store.has_properties() {
                // Should this process die in between, the sweep knows the file by its name.
                let path = StorePath::parse(&format!("volumes/{}", temporary_name(&job)))?;
                install::write(&*store, &path, bytes::Bytes::from_static(b"can this be written?\n")).await?;
                store.remove_file(&path).await?;
            }
            usage(&*store).await
        }
        Task::Sum { store, path, algorithm } => sum(&store, &path, &algorithm, abort).await,
        Task::RemoveTree { store, path } => {
            remove::tree(&*store.open("none").await?, &path).await.map(Outcome::Removed)
        }
        Task::RemoveFile { store, path } => {
            remove::file(&*store.open("none").await?, &path).await.map(Outcome::Removed)
        }
        Task::Move { store, from, to } => {
            store.open("none").await?.rename(&from, &to).await?;
            Ok(Outcome::Done)
        }
        Task::Browse { store, path, start, most } => {
            let store = store.open("none").await?;
            list::page(&*store, path.as_ref(), start, most).await.map(Outcome::Browsed)
        }
        Task::Check { store, path } => {
            store.open("none").await?.open(&path).await?;
            Ok(Outcome::Done)
        }
        Task::Weigh { store, folders } => {
            let store = store.open("none").await?;
            let mut bytes = 0_u64;
            for folder in folders {
                bytes += store.list(&folder).await?.iter().map(|file| file.size).sum::<u64>();
            }
            Ok(Outcome::Weight(bytes))
        }
        Task::Parts { store, path } => {
            list::parts(&*store.open("none").await?, &path).await.map(Outcome::Parts)
        }
        Task::Disks { store, job, package, configuration } => {
            let store = store.open(&job).await?;
            disks::list(&*store, &package, configuration.as_deref(), abort).await.map(Outcome::Disks)
        }
        Task::Disk(task) => {
            disks::template(&*task.store.open(&task.job).await?, &task).await.map(Outcome::Stored)
        }
        Task::Write { store, path, data } => {
            let bytes = STANDARD.decode(data.expose()).map_err(|e| Failure::end(e.to_string()))?;
            let store = store.open(path.name()).await?;
            install::write(&*store, &path, bytes.into()).await.map(|()| Outcome::Done)
        }
        Task::Discard { store, job, path } => {
            store.open(&job).await?.discard(&path).await?;
            Ok(Outcome::Done)
        }
        Task::Sweep { store, age, live } => {
            Ok(Outcome::Swept(store.open("none").await?.sweep(age, &live).await?))
        }
    }
}

async fn usage(store: &dyn Store) -> Result<Outcome, Failure> {
    let usage = store.usage().await?;
    Ok(Outcome::Usage { capacity: usage.capacity, used: usage.used })
}

async fn sum(
    store: &StoreSpec,
    path: &StorePath,
    algorithm: &str,
    abort: &CancellationToken,
) -> Result<Outcome, Failure> {
    let algorithm = Algorithm::named(algorithm)
        .ok_or_else(|| Failure::end(format!("checksum algorithm not recognised: {algorithm}")))?;
    let source = store.open("none").await?.open(path).await?;
    tokio::select! {
        sum = checksum_of(source, algorithm) => Ok(Outcome::Sum(sum?.to_string())),
        () = abort.cancelled() => Err(Failure::new(FailureKind::Aborted, "aborted")),
    }
}
