//! Downloads, and what every image goes through that enters a store: the pipeline, then the
//! property file, and only then it counts as installed.

use bytes::Bytes;
use common::command::storage::ImageFormat;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{
    format::Refusal,
    layout::{Entry, PROPERTIES_LIMIT, Properties, StorePath},
    order::{Failure, FailureKind, FetchTask, Label, Stored},
    source::HttpSource,
    store::{Expected, Origin, Source, SourceError, Store},
    transfer::{Checksum, Meter, Plan, TransferError, run},
};

/// Downloads an image or snapshot; goes on with what is there of it where that is the beginning of the same file.
/// Nothing of it stays on failure.
pub(super) async fn fetch(
    task: &FetchTask,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let store = task.store.open(&task.job).await?;
    let path = task.folder.join(&task.file)?;
    let fetched = async {
        let (source, kept) = tokio::select! {
            opened = opened(task, &*store, &path) => opened?,
            () = abort.cancelled() => return Err(Failure::new(FailureKind::Aborted, "aborted")),
        };
        let arrival = Arrival {
            folder: &task.folder,
            file: &task.file,
            format: task.format,
            strict: true,
            decompress: task.format.is_some(),
            uploaded: false,
            checksum: task.checksum.clone(),
            limit: task.limit,
            label: task.label.as_ref(),
            kept,
        };
        arrive(&*store, source, &arrival, meter, abort).await
    };
    let result = fetched.await;
    // What was there from an earlier attempt goes too. An object store aborts its parts by itself.
    if result.is_err()
        && store.has_properties()
        && let Err(error) = store.discard(&path).await
    {
        tracing::warn!(%path, %error, "a part of a download stays behind for the sweep");
    }
    result
}

/// The source, and how many of its first bytes are in the store already.
async fn opened(
    task: &FetchTask,
    store: &dyn Store,
    path: &StorePath,
) -> Result<(Box<dyn Source>, u64), Failure> {
    if let Some(origin) = &task.kept
        && let Some(kept) = store.kept(path).await?
        && let Some(from) = kept.size()
        && let Some(rest) = HttpSource::go_on(&task.http, origin, from).await?
    {
        tracing::info!(job = task.job, from, "the download goes on");
        return Ok((Box::new(Continued { kept: Some(kept), rest }), from));
    }
    store.discard(path).await?;
    Ok((Box::new(HttpSource::open(&task.http, task.limit).await?), 0))
}

/// A file whose beginning is there.
struct Continued {
    kept: Option<Box<dyn Source>>,
    rest: HttpSource,
}

impl Source for Continued {
    fn size(&self) -> Option<u64> {
        self.rest.size()
    }

    fn origin(&self) -> Option<Origin> {
        self.rest.origin()
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            if let Some(kept) = &mut self.kept {
                if let Some(bytes) = kept.chunk().await? {
                    return Ok(Some(bytes));
                }
                self.kept = None;
            }
            self.rest.chunk().await
        })
    }
}

/// A file that enters a store.
pub(crate) struct Arrival<'a> {
    pub(crate) folder: &'a StorePath,
    pub(crate) file: &'a str,
    pub(crate) format: Option<ImageFormat>,
    pub(crate) strict: bool,
    pub(crate) decompress: bool,
    /// A user brings it, and is told so.
    pub(crate) uploaded: bool,
    pub(crate) checksum: Option<Checksum>,
    pub(crate) limit: u64,
    pub(crate) label: Option<&'a Label>,
    /// So many of the first bytes are in the store already.
    pub(crate) kept: u64,
}

/// Takes a file in. On failure or abortion nothing of it stays.
pub(crate) async fn arrive(
    store: &dyn Store,
    source: Box<dyn Source>,
    arrival: &Arrival<'_>,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let path = arrival.folder.join(arrival.file)?;
    let before = match arrival.label {
        Some(label) if store.has_properties() => installed_before(store, arrival.folder, &label.file).await,
        _ => None,
    };
    let plan = Plan {
        checksum: arrival.checksum.clone(),
        decompress: arrival.decompress,
        format: arrival.format,
        strict: arrival.strict,
        limit: arrival.limit,
    };
    // Nobody knows how much a compressed file unpacks to.
    let size = source.size().filter(|_| !arrival.decompress);
    let mut sink = store.create(&path, Expected { size, limit: arrival.limit, kept: arrival.kept }).await?;
    let result = tokio::select! {
        result = run(source, &mut *sink, &plan, meter) => result,
        () = abort.cancelled() => {
            sink.abort().await;
            store.tidy(arrival.folder).await?;
            return Err(Failure::new(FailureKind::Aborted, "aborted"));
        }
    };
    let moved = match result {
        Ok(moved) => moved,
        Err(error) => {
            if let TransferError::Refused(refusal) = &error {
                tracing::warn!(path = %path, reason = %refusal.reason(), "an image is refused");
            }
            if let Err(left) = store.tidy(arrival.folder).await {
                tracing::warn!(folder = %arrival.folder, error = %left, "an empty folder stays behind");
            }
            let text = arrival.uploaded.then(|| of_upload(&error, arrival)).flatten();
            return Err(text.map_or_else(|| error.into(), Failure::end));
        }
    };
    let stored = Stored {
        path: path.clone(),
        virtual_size: moved.sizes.virtual_size,
        physical_size: moved.sizes.physical_size,
        checksum: Some(moved.checksum),
        format: arrival.format,
    };
    if let Some(label) = arrival.label
        && store.has_properties()
    {
        if let Err(failure) = describe(store, arrival.folder, label, &stored).await {
            store.remove_file(&path).await?;
            return Err(failure);
        }
        if let Some(old) = before.filter(|old| *old != path) {
            store.remove_file(&old).await?;
        }
    }
    Ok(stored)
}

/// What a user is told of an upload where that is not what is said of a download.
fn of_upload(error: &TransferError, arrival: &Arrival<'_>) -> Option<String> {
    match error {
        TransferError::Refused(Refusal::Mismatch { found }) => Some(format!(
            "File type mismatch between uploaded file and selected format. Selected file format: {}. Received: \
             {found}",
            arrival.format.map(|f| f.to_string()).unwrap_or_default()
        )),
        TransferError::Refused(refusal) => Some(refusal.to_string().replace("downloaded", "uploaded")),
        TransferError::TooLarge => Some(format!(
            "Maximum file upload size exceeded. Maximum allowed size: {}GB.",
            arrival.limit.div_ceil(1 << 30)
        )),
        _ => None,
    }
}

/// Writes the property file.
async fn describe(
    store: &dyn Store,
    folder: &StorePath,
    label: &Label,
    stored: &Stored,
) -> Result<(), Failure> {
    let Some(format) = stored.format else { return Ok(()) };
    let entry = Entry {
        filename: stored.path.name().to_owned(),
        description: label.description.clone(),
        unique_name: label.name.clone(),
        id: label.id,
        hvm: label.hvm,
        format,
        virtual_size: stored.virtual_size,
        physical_size: stored.physical_size,
        checksum: label.checksum.clone(),
    };
    let bytes = entry.properties().render();
    write(store, &folder.join(&label.file)?, bytes.into()).await
}

/// Writes a small file.
pub(super) async fn write(store: &dyn Store, path: &StorePath, bytes: Bytes) -> Result<(), Failure> {
    let size = bytes.len() as u64;
    let mut sink = store.create(path, Expected { size: Some(size), limit: size, kept: 0 }).await?;
    let written = async {
        sink.write(bytes).await?;
        sink.finish().await
    };
    let written = written.await;
    if written.is_err() {
        sink.abort().await;
    }
    Ok(written?)
}

/// The image that the folder's property file names, if there is one.
async fn installed_before(store: &dyn Store, folder: &StorePath, file: &str) -> Option<StorePath> {
    let properties = read_properties(store, &folder.join(file).ok()?).await.ok()?;
    folder.join(properties.get("filename")?).ok()
}

/// Reads a property file; of one that is too large only the start counts.
pub(super) async fn read_properties(store: &dyn Store, path: &StorePath) -> Result<Properties, Failure> {
    let mut source = store.open(path).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = source.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= PROPERTIES_LIMIT {
            bytes.truncate(PROPERTIES_LIMIT);
            break;
        }
    }
    Ok(Properties::parse(&bytes))
}
