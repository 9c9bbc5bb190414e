//! Downloads as jobs: each has a number, outlives restarts of any process and of the VM, and is
//! kept with its result until the management server has taken note.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::channel::message::AnswerBase;
use common::{
    command::storage::{DownloadAnswer, DownloadCommand, DownloadStatus},
    paths::Paths,
    persist,
};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    order::{Progress, Stored},
    store::{Checkpoint, Origin},
};

/// Version of the job files.
const VERSION: u32 = 1;
/// Jobs that are kept at most.
const MOST: usize = 10_000;
/// Between two notes of how far a job is.
const KEEP: Duration = Duration::from_secs(2);
/// Ended jobs that nobody asks for are forgotten after this many seconds: 7 days.
const FORGET: u64 = 7 * 24 * 3600;

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stand {
    /// It runs, or will as soon as it can.
    Open,
    Installed(Stored),
    Failed(String),
    /// The checksum asked for cannot be computed; nothing was tried.
    Refused(String),
    Aborted,
}

/// What is kept on the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) command: DownloadCommand,
    pub(crate) stand: Stand,
    /// Seconds since 1970 of the last change of its stand.
    pub(crate) changed: u64,
    /// What there is of it comes from here.
    #[serde(default)]
    pub(crate) kept: Option<Kept>,
}

/// Where the bytes come from that an attempt has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) origin: Origin,
    /// The life of the machine in which they were stored: what a crash of it leaves of a file is not certain.
    pub(crate) boot: String,
    /// How far they were on their way into a bucket, which no crash here touches.
    #[serde(default)]
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// The present life of the machine.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// How fast bytes come.
#[derive(Debug, Default, Clone, Copy)]
struct Speed {
    seen: Option<(Instant, u64)>,
    rate: u64,
}

/// A job.
pub(crate) struct Job {
    record: Mutex<Record>,
    speed: Mutex<Speed>,
    /// How far the present attempt is.
    pub(crate) progress: watch::Sender<Progress>,
    /// Stops the present attempt.
    pub(crate) abort: CancellationToken,
    ended: watch::Sender<bool>,
    file: PathBuf,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A random UUID.
pub(crate) fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

impl Job {
    fn new(record: Record, folder: &std::path::Path) -> Self {
        let ended = record.stand != Stand::Open;
        Self {
            file: folder.join(format!("{}.json", record.id)),
            record: Mutex::new(record),
            speed: Mutex::default(),
            progress: watch::Sender::default(),
            abort: CancellationToken::new(),
            ended: watch::Sender::new(ended),
        }
    }

    /// What is kept of it.
    pub(crate) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, on the disk first.
    pub(crate) fn end(&self, stand: Stand) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.stand = stand;
        record.changed = now();
        if let Err(error) = persist::save(&self.file, VERSION, &*record) {
            tracing::error!(%error, "the end of a job is not on the disk: it would be done again");
        }
        drop(record);
        self.ended.send_replace(true);
    }

    /// Remembers where the bytes of the present attempt come from.
    pub(crate) async fn remember(&self) -> Infallible {
        let mut seen = self.progress.subscribe();
        loop {
            let known = seen.borrow_and_update().clone();
            if let Some(origin) = known.origin {
                self.keep(Some(Kept { origin, boot: boot(), checkpoint: known.checkpoint }));
                tokio::time::sleep(KEEP).await;
            }
            // The sender is this job's own.
            let _ = seen.changed().await;
        }
    }

    /// Where the bytes come from that earlier attempts have left, if they can be relied on. The next attempt
    /// remembers anew.
    pub(crate) fn take_kept(&self) -> Option<(Origin, Option<Checkpoint>)> {
        self.progress.send_modify(|progress| (progress.origin, progress.checkpoint) = (None, None));
        let kept = self.record().kept?;
        let lasts = kept.checkpoint.is_some() || (!kept.boot.is_empty() && kept.boot == boot());
        // What is in a bucket stays good if this attempt dies before it has brought more.
        if kept.checkpoint.is_none() {
            self.keep(None);
        }
        lasts.then_some((kept.origin, kept.checkpoint))
    }

    fn keep(&self, kept: Option<Kept>) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.kept != kept && record.stand == Stand::Open {
            record.kept = kept;
            if let Err(error) = persist::save(&self.file, VERSION, &*record) {
                tracing::warn!(%error, "after a crash this download begins anew");
            }
        }
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // Ends too where the job itself is gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Bytes a second, from one look to the next.
    pub(crate) fn rate(&self) -> u64 {
        let received = self.progress.borrow().received;
        let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, before)) = speed.seen
            && at.elapsed().as_millis() >= 200
        {
            let millis = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            speed.rate = received.saturating_sub(before).saturating_mul(1000) / millis.max(1);
            speed.seen = Some((Instant::now(), received));
        } else if speed.seen.is_none() {
            speed.seen = Some((Instant::now(), received));
        }
        speed.rate
    }

    /// 0 to 100.
    pub(crate) fn percent(&self) -> u8 {
        let progress = self.progress.borrow().clone();
        let total = progress.total.unwrap_or_else(|| {
            let limit = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            limit.command.max_download_size_in_bytes.and_then(|l| u64::try_from(l).ok()).unwrap_or(0)
        });
        match (progress.installing, total) {
            (true, _) => 100,
            (false, 0) => 0,
            (false, total) => {
                u8::try_from(u128::from(progress.received) * 100 / u128::from(total)).unwrap_or(100).min(100)
            }
        }
    }

    /// Its state for the management server. `temporary`: absolute path of the temporary file.
    pub(crate) fn answer(&self, temporary: Option<String>) -> DownloadAnswer {
        let record = self.record();
        let folder = record.command.install_path.as_deref().unwrap_or_default();
        let folder = folder.strip_prefix('/').unwrap_or(folder);
        let folder = folder.strip_suffix('/').unwrap_or(folder);
        let mut answer = DownloadAnswer {
            job_id: Some(record.id),
            download_path: temporary,
            install_path: Some(folder.to_owned()),
            ..DownloadAnswer::default()
        };
        let text;
        (answer.download_status, text) = match record.stand {
            Stand::Open => {
                let progress = self.progress.borrow().clone();
                answer.download_pct = self.percent();
                match (progress.running, progress.installing) {
                    (true, true) => {
                        (DownloadStatus::DownloadInProgress, "Download success, starting install ".into())
                    }
                    (true, false) => (DownloadStatus::DownloadInProgress, " ".to_owned()),
                    (false, _) => (DownloadStatus::NotDownloaded, " ".to_owned()),
                }
            }
            Stand::Installed(stored) => {
                let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                answer.download_pct = 100;
                answer.install_path = Some(stored.path.to_string());
                let snapshot = stored.format.is_none();
                answer.template_size = if snapshot { 0 } else { bytes(stored.virtual_size) };
                answer.template_physical_size = bytes(stored.physical_size);
                answer.checksum = stored.checksum.map(|c| c.to_string());
                (DownloadStatus::Downloaded, "Install completed successfully".to_owned())
            }
            Stand::Failed(text) => (DownloadStatus::DownloadError, text),
            Stand::Refused(text) => (DownloadStatus::NotDownloaded, text),
            Stand::Aborted => (DownloadStatus::NotDownloaded, "aborted".to_owned()),
        };
        answer.error_string = Some(text.clone());
        answer.answer = AnswerBase { result: true, details: Some(text), ..AnswerBase::default() };
        answer
    }
}

/// All jobs.
pub(crate) struct Jobs {
    folder: PathBuf,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
}

impl Jobs {
    /// Loads the jobs of an earlier life. One whose file cannot be used is reported and left out.
    pub(crate) fn load(paths: &Paths) -> Self {
        let folder = paths.state("ssvm").join("jobs");
        let mut jobs = BTreeMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match persist::load::<Record>(&path, VERSION) {
                Ok(loaded) => {
                    if let Some(record) = loaded.value {
                        jobs.insert(record.id.to_ascii_lowercase(), Arc::new(Job::new(record, &folder)));
                    }
                }
                Err(error) => tracing::error!(%error, "a job is lost"),
            }
        }
        Self { folder, jobs: Mutex::new(jobs) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of a number, in any case.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().get(&id.to_ascii_lowercase()).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().values().cloned().collect()
    }

    /// The job of a command, and whether it is a new one that must be driven: a command that is repeated
    /// while its job runs joins that job.
    pub(crate) fn enter(&self, command: DownloadCommand, stand: Stand) -> Result<(Arc<Job>, bool), String> {
        let mut jobs = self.lock();
        let same = |job: &&Arc<Job>| {
            let record = job.record();
            record.stand == Stand::Open
                && record.command.url == command.url
                && record.command.install_path == command.install_path
                && record.command.store == command.store
                && record.command.id == command.id
        };
        if let Some(job) = jobs.values().find(same) {
            return Ok((Arc::clone(job), false));
        }
        self.forget_old(&mut jobs);
        if jobs.len() >= MOST {
            return Err(format!("{MOST} downloads are known already"));
        }
        let record = Record { id: new_id(), command, stand, changed: now(), kept: None };
        let job = Arc::new(Job::new(record.clone(), &self.folder));
        persist::save(&job.file, VERSION, &record).map_err(|e| e.to_string())?;
        jobs.insert(record.id, Arc::clone(&job));
        Ok((job, true))
    }

    /// Takes a job up again under its number, as if it had just come.
    pub(crate) fn renew(&self, id: &str) -> Option<Arc<Job>> {
        let mut jobs = self.lock();
        let mut record = jobs.get(&id.to_ascii_lowercase())?.record();
        record.stand = Stand::Open;
        record.changed = now();
        let job = Arc::new(Job::new(record.clone(), &self.folder));
        if let Err(error) = persist::save(&job.file, VERSION, &record) {
            tracing::error!(%error, "a job is not on the disk");
        }
        jobs.insert(id.to_ascii_lowercase(), Arc::clone(&job));
        Some(job)
    }

    /// Forgets a job.
    pub(crate) fn purge(&self, id: &str) {
        if let Some(job) = self.lock().remove(&id.to_ascii_lowercase())
            && let Err(error) = persist::remove(&job.file)
        {
            tracing::warn!(%error, "a job stays on the disk");
        }
    }

    fn forget_old(&self, jobs: &mut BTreeMap<String, Arc<Job>>) {
        let old: Vec<String> = jobs
            .iter()
            .filter(|(_, job)| {
                let record = job.record();
                record.stand != Stand::Open && now().saturating_sub(record.changed) > FORGET
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            if let Some(job) = jobs.remove(&id) {
                // A file that stays is forgotten the next time.
                let _ = persist::remove(&job.file);
            }
        }
    }
}

#[cfg(test)]
mod tests;
