//! Uploads as the core knows them: each ticket is good once, its state outlives restarts, and the management
//! server is told how far it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use common::{
    channel::message::{AnswerBase, Message},
    command::storage::{
        DataStoreTO, ImageFormat, NfsTO, ResourceType, StoreRole, UploadStatus, UploadStatusAnswer,
        UploadStatusCommand,
    },
    handover::Event,
    paths::Paths,
    persist,
};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use super::{Core, jobs::new_id, packages, stores::OPENING, web::now};
use crate::{
    layout::{StorePath, image_name},
    order::{Label, Outcome, Stored, Task},
    store::{StoreSpec, temporaries},
    transfer::Checksum,
    web::{ADVANCE, Advance, BEGIN, Begin, END, End, Receive, Verdict},
};

/// Version of the files.
const VERSION: u32 = 1;
/// Uploads that are remembered at most.
const MOST: usize = 10_000;
/// Uploads that have ended are forgotten after this many seconds: 7 days, longer than any ticket is good.
const FORGET: u64 = 7 * 24 * 3600;
const GIB: u64 = 1 << 30;
/// What the management server calls a connection that broke.
const BROKEN: &str = "file receive failed or connection closed prematurely.";

/// Where an upload stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stand {
    /// It is being judged; never on the disk.
    Judged,
    Open(Box<Receive>),
    Completed(Stored),
    Failed(String),
}

impl Stand {
    fn status(&self) -> UploadStatus {
        match self {
            Self::Judged | Self::Open(_) => UploadStatus::InProgress,
            Self::Completed(_) => UploadStatus::Completed,
            Self::Failed(_) => UploadStatus::Error,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Judged | Self::Open(_) => "IN_PROGRESS",
            Self::Completed(_) => "COMPLETED",
            Self::Failed(_) => "ERROR",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    uuid: String,
    stand: Stand,
    /// Bytes of the request.
    length: u64,
    /// Seconds since 1970 of the last change of its stand.
    changed: u64,
}

/// All uploads.
pub(super) struct Uploads {
    folder: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
    received: Mutex<HashMap<String, u64>>,
}

/// Whether a text may name an upload, and a file.
fn is_uuid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

impl Uploads {
    /// Loads the uploads of an earlier life.
    pub(super) fn load(paths: &Paths) -> Self {
        let folder = paths.state("ssvm").join("uploads");
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match persist::load::<Record>(&path, VERSION) {
                Ok(loaded) => {
                    if let Some(record) = loaded.value {
                        records.insert(record.uuid.clone(), record);
                    }
                }
                Err(error) => tracing::error!(%error, "an upload is forgotten"),
            }
        }
        Self { folder, records: Mutex::new(records), received: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, uuid: &str) -> PathBuf {
        self.folder.join(format!("{uuid}.json"))
    }

    /// Takes the one chance of a ticket, or says why it has gone.
    fn reserve(&self, uuid: &str, length: u64) -> Result<(), String> {
        let mut records = self.lock();
        if let Some(before) = records.get(uuid) {
            let state = before.stand.name();
            return Err(format!("The one time post url is already used and the upload is in {state} state."));
        }
        let now = now();
        let old: Vec<String> = records
            .values()
            .filter(|r| {
                r.stand.status() != UploadStatus::InProgress && now.saturating_sub(r.changed) > FORGET
            })
            .map(|r| r.uuid.clone())
            .collect();
        for uuid in old {
            records.remove(&uuid);
            // A file that stays is forgotten the next time.
            let _ = persist::remove(&self.file(&uuid));
        }
        if records.len() >= MOST {
            return Err(format!("{MOST} uploads are known already"));
        }
        let record = Record { uuid: uuid.to_owned(), stand: Stand::Judged, length, changed: now };
        records.insert(uuid.to_owned(), record);
        Ok(())
    }

    /// Gives the chance back: nothing has begun.
    fn release(&self, uuid: &str) {
        self.lock().remove(uuid);
    }

    /// Changes the stand of an upload, on the disk first.
    fn set(&self, uuid: &str, stand: Stand) -> Result<(), String> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(uuid) else { return Err(format!("there is no upload {uuid}")) };
        let next = Record { stand, changed: now(), ..record.clone() };
        persist::save(&self.file(uuid), VERSION, &next).map_err(|e| e.to_string())?;
        *record = next;
        drop(records);
        self.received.lock().unwrap_or_else(PoisonError::into_inner).remove(uuid);
        Ok(())
    }

    /// Uploads that are not among those that serve works on: they have failed. What they have left behind.
    fn lose(&self, running: &BTreeSet<String>) -> Vec<Receive> {
        let open = |record: &Record| match &record.stand {
            Stand::Open(task) if !running.contains(&record.uuid) => {
                Some((record.uuid.clone(), (**task).clone()))
            }
            _ => None,
        };
        let lost: Vec<(String, Receive)> = self.lock().values().filter_map(open).collect();
        let failed = |(uuid, task): (String, Receive)| match self.set(&uuid, Stand::Failed(BROKEN.into())) {
            Ok(()) => Some(task),
            Err(error) => {
                tracing::error!(uuid, error, "the end of an upload is not on the disk");
                None
            }
        };
        lost.into_iter().filter_map(failed).collect()
    }

    /// What the management server is told.
    fn answer(&self, uuid: &str) -> UploadStatusAnswer {
        let answer = UploadStatusAnswer { answer: AnswerBase::ok(), ..UploadStatusAnswer::default() };
        let Some(record) = self.lock().get(uuid).cloned() else { return answer };
        let answer = UploadStatusAnswer { status: record.stand.status(), ..answer };
        match record.stand {
            Stand::Judged | Stand::Open(_) => {
                let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
                let received = u128::from(received.get(uuid).copied().unwrap_or(0));
                let percent = (received * 100 / u128::from(record.length.max(1))).min(100);
                UploadStatusAnswer { download_percent: u8::try_from(percent).unwrap_or(100), ..answer }
            }
            Stand::Completed(stored) => {
                let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                UploadStatusAnswer {
                    virtual_size: bytes(stored.virtual_size),
                    physical_size: bytes(stored.physical_size),
                    install_path: Some(stored.path.to_string()),
                    download_percent: 100,
                    ovf_information: stored.package,
                    ..answer
                }
            }
            Stand::Failed(text) => UploadStatusAnswer { answer: AnswerBase::failed(text), ..answer },
        }
    }

    /// A line each for an operator.
    pub(super) fn text(&self) -> String {
        self.lock().values().map(|r| format!("upload: {} {}\n", r.uuid, r.stand.name())).collect()
    }
}

/// Status and text of a refusal, and whether the upload has failed with it.
struct Refusal(u16, String, bool);

impl Core {
    /// Tells how far an upload is.
    pub(super) fn upload_status(&self, command: &UploadStatusCommand) -> Message {
        let uuid = command.entity_uuid.as_deref().unwrap_or_default().to_ascii_lowercase();
        Message::wrap(&self.uploads.answer(&uuid))
    }

    /// Takes what serve says of uploads.
    pub(super) async fn upload_event(self: Arc<Self>, event: Event) {
        match event.kind.as_str() {
            BEGIN => match event.parse::<Begin>() {
                Ok(begin) => event.answer(&self.begin_upload(begin).await),
                Err(error) => event.refuse(error.to_string()),
            },
            ADVANCE => {
                if let Ok(advance) = event.parse::<Advance>() {
                    let mut received = self.uploads.received.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.uploads.lock().contains_key(&advance.uuid) {
                        received.insert(advance.uuid, advance.received);
                    }
                }
            }
            END => match event.parse::<End>() {
                Ok(End { uuid, result }) => {
                    let uuid = uuid.to_ascii_lowercase();
                    let open = self.uploads.lock().get(&uuid).map(|record| record.stand.clone());
                    let stand = match result {
                        Ok(mut stored) => {
                            if let Some(Stand::Open(task)) = open {
                                packages::place(&mut stored, &task.store);
                            }
                            Stand::Completed(stored)
                        }
                        Err(text) => Stand::Failed(text),
                    };
                    tracing::info!(uuid, state = stand.name(), "an upload has ended");
                    match self.uploads.set(&uuid, stand) {
                        Ok(()) => event.answer(&()),
                        Err(error) => event.refuse(error),
                    }
                }
                Err(error) => event.refuse(error.to_string()),
            },
            _ => event.refuse("unknown"),
        }
    }

    /// Serve works on these uploads and no others; what is left of others is removed.
    pub(super) async fn uploads_running(&self, running: BTreeSet<String>) {
        let running = running.into_iter().map(|uuid| uuid.to_ascii_lowercase()).collect();
        for task in self.uploads.lose(&running) {
            for name in temporaries(&task.job) {
                let Ok(path) = task.folder.join(&name) else { continue };
                let remove = Task::RemoveFile { store: task.store.clone(), path };
                if let Err(failure) = self.short(remove, Self::SHORT).await {
                    tracing::warn!(reason = failure.text, "a part of an upload stays for the sweep");
                }
            }
        }
    }

    async fn begin_upload(&self, begin: Begin) -> Verdict {
        let uuid = begin.uuid.to_ascii_lowercase();
        if !is_uuid(&uuid) {
            return Verdict::Refuse(400, "unable decode and deserialize metadata.".into());
        }
        if let Err(text) = self.uploads.reserve(&uuid, begin.length) {
            return Verdict::Refuse(400, text);
        }
        match self.judge(&uuid, &begin).await {
            Ok(task) => match self.uploads.set(&uuid, Stand::Open(Box::new(task.clone()))) {
                Ok(()) => Verdict::Receive(Box::new(task)),
                Err(error) => {
                    self.uploads.release(&uuid);
                    Verdict::Refuse(500, error)
                }
            },
            Err(Refusal(status, text, failed)) => {
                if !failed {
                    self.uploads.release(&uuid);
                } else if let Err(error) = self.uploads.set(&uuid, Stand::Failed(text.clone())) {
                    tracing::error!(uuid, error, "the end of an upload is not on the disk");
                }
                Verdict::Refuse(status, text)
            }
        }
    }

    async fn judge(&self, uuid: &str, begin: &Begin) -> Result<Receive, Refusal> {
        let Begin { ticket, length, .. } = begin;
        let metadata = |_| Refusal(400, "unable decode and deserialize metadata.".into(), true);
        let internal = |text: String| Refusal(500, text, true);
        let folder =
            StorePath::parse(ticket.absolute_path.as_deref().unwrap_or_default()).map_err(metadata)?;
        folder.removable().map_err(metadata)?;
        let store = DataStoreTO::Nfs(NfsTO {
            url: ticket.data_to.clone(),
            role: Some(StoreRole::Image),
            ..NfsTO::default()
        });
        let store = self.store(&store, ticket.nfs_version.as_deref()).await;
        let store = store.map_err(|failure| internal(failure.text))?;
        let look = Task::Browse { store: store.clone(), path: Some(folder.clone()), start: 0, most: 0 };
        match self.short(look, Self::SHORT).await {
            Ok(Outcome::Browsed(page)) if page.exists => {
                return Err(Refusal(400, "The one time post url is already used".into(), false));
            }
            Ok(_) => {}
            Err(failure) => return Err(internal(failure.text)),
        }
        let (most, arriving) = (limit(ticket.max_upload_size.as_deref()), length.div_ceil(GIB));
        if arriving > most {
            let text = format!(
                "Maximum file upload size exceeded. Content Length received: {arriving}GB. Maximum allowed size: \
                 {most}GB."
            );
            return Err(Refusal(400, text, true));
        }
        if let Some(allowed) = ticket.account_limit.and_then(account_limit) {
            let held = self.held(&store, ticket.account_id).await.map_err(internal)?;
            if held.div_ceil(GIB) + arriving > allowed {
                let text =
                    "Maximum number of resources of type secondary_storage for account/project has exceeded";
                return Err(Refusal(400, text.into(), true));
            }
        }
        let checksum = ticket.checksum.as_deref().filter(|c| !c.is_empty()).map(Checksum::parse);
        let checksum = checksum.transpose().map_err(|e| internal(e.to_string()))?;
        let format = ticket.image_format.unwrap_or(ImageFormat::Other);
        if let (StoreSpec::Folder(root), folder) = (store.clone(), folder.clone()) {
            // The folders on the way may be a host's; this VM's own user must be able to write there.
            let _ = timeout(OPENING, spawn_blocking(move || crate::store::open_up(&root, &folder))).await;
        }
        let (job, volume) = (new_id(), ticket.kind == ResourceType::Volume);
        Ok(Receive {
            file: image_name(uuid, &job, format),
            job,
            store,
            folder,
            format,
            checksum,
            limit: most.saturating_mul(GIB),
            label: Label {
                name: ticket.name.clone().unwrap_or_default(),
                id: ticket.entity_id,
                description: ticket.description.clone().unwrap_or_default(),
                hvm: ticket.requires_hvm,
                checksum: volume.then(|| ticket.checksum.clone().unwrap_or_default()),
                file: if volume { "volume.properties".into() } else { "template.properties".into() },
            },
        })
    }

    /// Bytes that an account holds in a store.
    async fn held(&self, store: &StoreSpec, account: i64) -> Result<u64, String> {
        let folders = ["template/tmpl", "volumes", "snapshots"]
            .iter()
            .map(|kind| StorePath::parse(&format!("{kind}/{account}")))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())?;
        match self.short(Task::Weigh { store: store.clone(), folders }, Self::SHORT).await {
            Ok(Outcome::Weight(bytes)) => Ok(bytes),
            Ok(_) => Err("no result".to_owned()),
            Err(failure) => Err(failure.text),
        }
    }
}

/// GiB of one upload; 50 where nothing usable is said.
fn limit(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).filter(|gib| *gib > 0).unwrap_or(50)
}

/// GiB that an account may hold. Large numbers are bytes; negative ones mean that there is no limit.
fn account_limit(given: i64) -> Option<u64> {
    let given = u64::try_from(given).ok()?;
    Some(if given >= GIB { given / GIB } else { given })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    fn task() -> Receive {
        Receive {
            job: "j".into(),
            store: StoreSpec::Folder("/x".into()),
            folder: StorePath::parse("template/tmpl/2/7").unwrap(),
            file: "j.qcow2".into(),
            format: ImageFormat::Qcow2,
            checksum: None,
            limit: GIB,
            label: Label {
                name: "n".into(),
                id: 7,
                description: String::new(),
                hvm: false,
                checksum: None,
                file: "template.properties".into(),
            },
        }
    }

    #[test]
    fn a_ticket_is_good_once_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let uploads = Uploads::load(&paths);
        assert_eq!(uploads.answer(UUID).status, UploadStatus::Unknown);
        uploads.reserve(UUID, 200).unwrap();
        assert!(uploads.reserve(UUID, 200).unwrap_err().ends_with("the upload is in IN_PROGRESS state."));
        uploads.release(UUID);
        uploads.reserve(UUID, 200).unwrap();
        uploads.set(UUID, Stand::Open(Box::new(task()))).unwrap();
        uploads.received.lock().unwrap().insert(UUID.into(), 50);
        assert_eq!(uploads.answer(UUID).download_percent, 25);

        let uploads = Uploads::load(&paths);
        assert_eq!(uploads.answer(UUID).status, UploadStatus::InProgress);
        assert!(uploads.lose(&BTreeSet::from([UUID.to_owned()])).is_empty(), "serve still works on it");
        assert_eq!(uploads.lose(&BTreeSet::new()), [task()]);
        let uploads = Uploads::load(&paths);
        let answer = uploads.answer(UUID);
        assert_eq!((answer.status, answer.answer.details.as_deref()), (UploadStatus::Error, Some(BROKEN)));
        assert!(uploads.reserve(UUID, 200).unwrap_err().ends_with("the upload is in ERROR state."));
        assert!(uploads.set("other", Stand::Judged).is_err());
    }

    #[test]
    fn limits() {
        assert_eq!((limit(Some("5")), limit(Some("x")), limit(None), limit(Some("0"))), (5, 50, 50, 50));
        assert_eq!(
            (account_limit(-1), account_limit(400), account_limit(400 << 30)),
            (None, Some(400), Some(400))
        );
        assert!(is_uuid(UUID) && !is_uuid("../x") && !is_uuid("") && !is_uuid(&"a".repeat(65)));
    }
}
