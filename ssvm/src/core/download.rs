//! Download commands: what they mean as a job, and the job's way to its end.

use std::{sync::Arc, time::Duration};

use common::{
    channel::message::{AnswerBase, Message},
    command::{
        agent,
        storage::{
            DataStoreTO, DownloadAnswer, DownloadCommand, DownloadProgressCommand, DownloadStatus,
            ResourceType,
        },
    },
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Core,
    export::shown,
    jobs::{Job, Record, Stand},
    packages,
};
use crate::{
    layout::{StorePath, image_name, mount_name, name_from_url},
    order::{Failure, FailureKind, FetchTask, Label, Outcome, Task},
    source::{HttpOrder, Policy, ProxySpec},
    store::StoreSpec,
    transfer::Checksum,
};

/// The first answer waits so long for a quick end.
const FIRST: Duration = Duration::from_millis(1500);
/// Longest time for what a stopped job has left to be removed.
const TIDY: Duration = Duration::from_secs(10);
/// A stopped job must have ended by then.
const STOP: Duration = Duration::from_secs(30);
/// Largest file where the command names no limit: 50 GiB.
const LARGEST: u64 = 50 << 30;
/// Silence of a source before it is asked anew, in seconds.
const STALL: u64 = 30;
/// Most files of a snapshot beside the first.
const FILES: usize = 99;
/// Times that a job is taken up again after its worker was lost, and the pause before.
const RETRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(3);

/// An answer without a job.
fn without_job(status: DownloadStatus, text: String) -> DownloadAnswer {
    DownloadAnswer {
        download_status: status,
        error_string: Some(text.clone()),
        answer: AnswerBase { result: true, details: Some(text), ..AnswerBase::default() },
        ..DownloadAnswer::default()
    }
}

impl Core {
    /// Begins a download, or joins one that runs.
    pub(super) async fn download(self: &Arc<Self>, command: DownloadCommand) -> Message {
        if let Some(DataStoreTO::Other(_)) | None = command.store {
            let class = command.store.as_ref().map_or("none", DataStoreTO::class);
            return agent::failed(format!("Unsupported image data store: {class}"));
        }
        let kind = format!("{:?}", command.resource_type).to_uppercase();
        let missing = |text: &Option<String>| text.as_deref().is_none_or(|t| t.trim().is_empty());
        let refused = if missing(&command.url) {
            Some(format!("{kind} is corrupted on storage due to an invalid url , cannot download"))
        } else if missing(&command.name) {
            Some("Invalid Name".to_owned())
        } else {
            None
        };
        if let Some(text) = refused {
            return Message::wrap(&without_job(DownloadStatus::DownloadError, text));
        }
        let checksum = command.checksum.as_deref().filter(|c| !c.is_empty()).map(Checksum::parse);
        let stand = match checksum {
            Some(Err(error)) => Stand::Refused(error.to_string()),
            _ => Stand::Open,
        };
        match self.jobs.enter(command, stand) {
            Ok((job, fresh)) => {
                if fresh && job.record().stand == Stand::Open {
                    tokio::spawn(Arc::clone(self).drive(Arc::clone(&job)));
                }
                let _ = timeout(FIRST, job.ended()).await;
                Message::wrap(&self.answer(&job).await)
            }
            Err(text) => Message::wrap(&without_job(DownloadStatus::DownloadError, text)),
        }
    }

    /// Tells how far a download is, or changes its course.
    pub(super) async fn download_progress(self: &Arc<Self>, command: DownloadProgressCommand) -> Message {
        let id = command.job_id.clone().unwrap_or_default();
        let request = command.request.as_deref().unwrap_or("GET_STATUS");
        let Some(job) = self.jobs.get(&id) else {
            if request == "GET_OR_RESTART" {
                return self.download(command.download).await;
            }
            let mut answer = without_job(DownloadStatus::Unknown, "Cannot find job".into());
            answer.job_id = command.job_id;
            return Message::wrap(&answer);
        };
        match request {
            "ABORT" => stop(&job).await,
            "RESTART" => {
                stop(&job).await;
                if let Some(job) = self.jobs.renew(&id) {
                    tokio::spawn(Arc::clone(self).drive(Arc::clone(&job)));
                    return Message::wrap(&self.answer(&job).await);
                }
            }
            "PURGE" => {
                stop(&job).await;
                let mut answer = self.answer(&job).await;
                if let Stand::Installed(stored) = job.record().stand {
                    answer.ovf_information = stored.package;
                }
                self.jobs.purge(&id);
                return Message::wrap(&answer);
            }
            _ => {}
        }
        Message::wrap(&self.answer(&job).await)
    }

    async fn answer(&self, job: &Job) -> DownloadAnswer {
        let record = job.record();
        let folder = record.command.install_path.as_deref().unwrap_or_default().trim_matches('/');
        let temporary = match &record.command.store {
            Some(DataStoreTO::Nfs(nfs)) => {
                let url = shown(nfs.url.as_deref().unwrap_or_default());
                let known = self.state.get().exports.into_values().find(|e| e.url == url);
                let name = known.map(|e| mount_name(e.address, &e.path)).unwrap_or_default();
                format!("/mnt/SecStorage/{name}/{folder}/{}", crate::store::temporary_name(&record.id))
            }
            _ => folder.to_owned(),
        };
        job.answer(Some(temporary))
    }

    /// Takes up the jobs of an earlier life.
    pub(super) fn resume_jobs(self: &Arc<Self>) {
        for job in self.jobs.all().into_iter().filter(|j| j.record().stand == Stand::Open) {
            tokio::spawn(Arc::clone(self).drive(job));
        }
    }

    /// Leads a job to its end.
    pub(super) async fn drive(self: Arc<Self>, job: Arc<Job>) {
        let record = job.record();
        let result = self.attempts(&job).await;
        if let Err(failure) = &result
            && matches!(failure.kind, FailureKind::Aborted | FailureKind::Lost)
        {
            let left = match timeout(TIDY, self.discard(&record)).await {
                Ok(Ok(())) => None,
                Ok(Err(left)) => Some(left.text),
                Err(_) => Some(format!("the store did not answer within {} s", TIDY.as_secs())),
            };
            if let Some(reason) = left {
                tracing::warn!(job = record.id, reason, "what it has left stays for the sweep");
            }
        }
        let stand = match result {
            Ok(Outcome::Stored(stored)) => {
                tracing::info!(job = record.id, path = %stored.path, "downloaded");
                Stand::Installed(stored)
            }
            Ok(_) => Stand::Failed("The download has no result".into()),
            Err(failure) if failure.kind == FailureKind::Aborted => Stand::Aborted,
            Err(failure) => {
                tracing::warn!(job = record.id, reason = failure.text, "download failed");
                Stand::Failed(failure.text)
            }
        };
        job.end(stand);
    }

    /// Removes what earlier attempts have left: no worker knows of the job.
    async fn discard(&self, record: &Record) -> Result<(), Failure> {
        let command = &record.command;
        let store = command.store.as_ref().ok_or_else(|| Failure::end("no store"))?;
        let store = self.store(store, command.nfs_version.as_deref()).await?;
        let task = self.fetch_task(&record.id, command, store.clone())?;
        let path = task.folder.join(&task.file)?;
        self.short(Task::Discard { store, job: task.job, path }, Self::SHORT).await.map(|_| ())
    }

    async fn attempts(&self, job: &Job) -> Result<Outcome, Failure> {
        let (mut lost, mut helped) = (0, 0);
        loop {
            let attempt = async {
                let record = job.record();
                let store = record.command.store.as_ref().ok_or_else(|| Failure::end("no store"))?;
                let store = self.store(store, record.command.nfs_version.as_deref()).await?;
                let mut task = self.fetch_task(&record.id, &record.command, store)?;
                if let Some((origin, checkpoint)) = job.take_kept() {
                    (task.kept, task.checkpoint) = (Some(origin), checkpoint);
                }
                let task = Task::Fetch(Box::new(task));
                let stores = super::stores::stores_of(&task);
                let result = tokio::select! {
                    result = self.workshop.work(task, Some(job.progress.clone()), &job.abort) => result,
                    never = job.remember() => match never {},
                };
                Ok::<_, Failure>((stores, result))
            };
            let (stores, result) = tokio::select! {
                attempt = attempt => attempt?,
                () = given_up(&job.abort) => return Err(Failure::new(FailureKind::Aborted, "aborted")),
            };
            match result {
                Err(failure) if failure.kind == FailureKind::Lost && lost < RETRIES => {
                    lost += 1;
                    tracing::warn!(reason = failure.text, "the download begins anew");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = job.abort.cancelled() => {}
                    }
                }
                Err(failure) if helped < 2 && self.helped(&failure, &stores).await => helped += 1,
                Ok(Outcome::Stored(mut stored)) => {
                    for (store, _) in &stores {
                        packages::place(&mut stored, store);
                    }
                    return Ok(Outcome::Stored(stored));
                }
                other => return other,
            }
        }
    }

    /// What the worker is to do.
    fn fetch_task(
        &self,
        id: &str,
        command: &DownloadCommand,
        store: StoreSpec,
    ) -> Result<FetchTask, Failure> {
        let snapshot = command.resource_type == ResourceType::Snapshot;
        let mut urls = command.url.as_deref().unwrap_or_default().split('\n').map(str::trim);
        let url = urls.next().unwrap_or_default().to_owned();
        let others: Vec<&str> = urls.filter(|url| snapshot && !url.is_empty()).collect();
        if others.len() > FILES {
            return Err(Failure::end(format!("a snapshot of more than {FILES} files")));
        }
        let mut folder = StorePath::parse(command.install_path.as_deref().unwrap_or_default())?;
        folder.removable()?;
        let name = command.name.clone().unwrap_or_default();
        let format = if snapshot { None } else { command.format };
        let from_url = || name_from_url(&url).unwrap_or_else(|| id.to_owned());
        if let Some(inner) = snapshot.then(|| snapshot_folder(&url, !others.is_empty())).flatten() {
            folder = folder.join(&inner)?;
        }
        let named =
            |url: &str| name_from_url(url).map(|name| (self.http_order(command, url.to_owned()), name));
        let others = others
            .into_iter()
            .map(|url| named(url).ok_or_else(|| Failure::end(format!("Invalid URL: {url}"))));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        let file = match (&store, format) {
            (_, None) => from_url().replace("_temp", ""),
            (StoreSpec::Bucket(_), Some(_)) => plain_name(&from_url()).to_owned(),
            (StoreSpec::Folder(_), Some(format)) => image_name(&name, id, format),
        };
        let volume = command.resource_type == ResourceType::Volume;
        let label = Label {
            name,
            id: command.id,
            description: command.description.clone().unwrap_or_default(),
            hvm: command.hvm,
            checksum: volume.then(|| command.checksum.clone().unwrap_or_default()),
            file: if volume { "volume.properties".into() } else { "template.properties".into() },
        };
        let checksum = command.checksum.as_deref().filter(|c| !c.is_empty()).map(Checksum::parse);
        let checksum = checksum.transpose().map_err(|e| Failure::end(e.to_string()))?;
        let limit = command.max_download_size_in_bytes.and_then(|l| u64::try_from(l).ok());
        Ok(FetchTask {
            job: id.to_owned(),
            http: self.http_order(command, url),
            others,
            store,
            folder,
            file,
            format,
            checksum: checksum.filter(|_| !snapshot),
            limit: limit.filter(|l| *l > 0).unwrap_or(LARGEST),
            label: (!snapshot).then_some(label),
            kept: None,
            checkpoint: None,
        })
    }

    fn http_order(&self, command: &DownloadCommand, url: String) -> HttpOrder {
        let login = |user: &Option<String>, password: &Option<common::command::Secret>| {
            let user = user.clone().filter(|u| !u.is_empty())?;
            Some((user, password.clone().unwrap_or_default()))
        };
        HttpOrder {
            url: common::command::Secret::new(url),
            user: command.auth.as_ref().and_then(|a| login(&a.user_name, &a.password)),
            proxy: command.proxy.as_ref().and_then(|p| {
                let host = p.host.clone().filter(|h| !h.is_empty())?;
                Some(ProxySpec { host, port: p.port, user: login(&p.user_name, &p.password) })
            }),
            follow_redirects: command.follow_redirects,
            policy: self.policy(),
            trust: self.trust(),
            stall: STALL,
        }
    }

    /// What tenants' URLs may lead to: not to this VM, nor to the management servers and their network.
    fn policy(&self) -> Policy {
        let identity = &self.identity;
        let mut internal: Vec<ipnet::Ipv4Net> = identity
            .nics
            .iter()
            .filter_map(|n| if n.index == 2 { n.address.map(ipnet::Ipv4Net::from) } else { n.ipv4() })
            .collect();
        internal.extend(
            identity
                .list("host")
                .iter()
                .filter_map(|h| h.parse::<std::net::Ipv4Addr>().ok())
                .map(ipnet::Ipv4Net::from),
        );
        internal.extend(identity.cidrs("mgmtcidr").into_iter().filter_map(|n| match n {
            ipnet::IpNet::V4(v4) => Some(v4),
            ipnet::IpNet::V6(_) => None,
        }));
        Policy::new(internal, self.state.get().sites)
    }
}

/// A file name without the endings of what is undone on the way.
fn plain_name(name: &str) -> &str {
    let name = name.strip_suffix(".metalink").filter(|n| !n.is_empty()).unwrap_or(name);
    ["gz", "bz2", "xz", "zst"]
        .iter()
        .find_map(|e| name.strip_suffix(&format!(".{e}")))
        .filter(|n| !n.is_empty())
        .unwrap_or(name)
}

/// The folder of its own that a snapshot has, if there is one: several files have, and one file whose name begins as
/// its folder does.
fn snapshot_folder(url: &str, several: bool) -> Option<String> {
    let (parent, file) = url.split(['?', '#']).next()?.rsplit_once('/')?;
    let folder = name_from_url(parent)?;
    let own = several || (file.starts_with(&folder) && folder.bytes().any(|b| !b.is_ascii_digit()));
    own.then_some(folder)
}

/// The task itself ends in good order when it is aborted; this comes after that.
async fn given_up(abort: &CancellationToken) {
    abort.cancelled().await;
    tokio::time::sleep(STOP).await;
}

/// Stops a job that runs and waits until it has.
async fn stop(job: &Job) {
    job.abort.cancel();
    let _ = timeout(STOP, job.ended()).await;
}
