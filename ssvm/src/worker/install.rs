//! Downloads, and what every image goes through that enters a store: the pipeline, then the
//! property file, and only then it counts as installed.

use bytes::Bytes;
use common::command::storage::ImageFormat;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{spread::Spread, unpack::unpack};
use crate::{
    format::{HEAD, Inspector, Kind, Refusal},
    layout::{Entry, PROPERTIES_LIMIT, Properties, StorePath},
    order::{Failure, FailureKind, FetchTask, Label, Stored},
    source::{HttpOrder, HttpSource, is_metalink, open_metalink},
    store::{Expected, Gate, Origin, Sink, Source, SourceError, Store, StoreResult},
    transfer::{Algorithm, Checksum, Meter, Plan, Resumed, TransferError, run, sum_of_head},
};

/// What a user is told whose file is not what its name says.
pub(crate) const NOT_AS_NAMED: &str = "File type mismatch between the sent file and the actual content.";
/// Key of a property file: the image that it named before.
const REPLACED: &str = "replaced";

/// Downloads an image or snapshot; goes on with what is there of it where that is the beginning of the same file.
/// Nothing of it stays on failure.
pub(super) async fn fetch(
    task: &FetchTask,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let store = task.store.open(&task.job).await?;
    let mut stored = one(task, &*store, &task.http, &task.file, meter, abort).await?;
    let mut made = vec![stored.path.clone()];
    for (http, file) in &task.others {
        match one(task, &*store, http, file, meter, abort).await {
            Ok(other) => {
                stored.physical_size += other.physical_size;
                made.push(other.path);
            }
            Err(failure) => {
                for path in made {
                    store.remove_file(&path).await?;
                }
                store.tidy(&task.folder).await?;
                return Err(failure);
            }
        }
    }
    // Several files are named after the one that describes the others.
    if let Some(name) = made.iter().find_map(|p| p.name().strip_suffix(".ovf")).filter(|_| made.len() > 1) {
        stored.path = task.folder.join(name)?;
    }
    Ok(stored)
}

/// Downloads one file.
async fn one(
    task: &FetchTask,
    store: &dyn Store,
    http: &HttpOrder,
    file: &str,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let path = task.folder.join(file)?;
    let fetched = async {
        let opened = tokio::select! {
            opened = opened(task, store, http, &path) => opened?,
            () = abort.cancelled() => return Err(Failure::new(FailureKind::Aborted, "aborted")),
        };
        let arrival = Arrival {
            folder: &task.folder,
            file,
            format: task.format,
            strict: true,
            decompress: task.format.is_some(),
            uploaded: None,
            checksum: task.checksum.clone().or(opened.checksum),
            limit: task.limit,
            label: task.label.as_ref(),
            kept: opened.kept,
        };
        into_sink(store, opened.source, &arrival, opened.begun, meter, abort).await
    };
    let result = fetched.await;
    // What was there from an earlier attempt goes too. An object store aborts its parts by itself; but one that an
    // attempt had asked for when it died may have been begun after this one looked for such.
    if result.is_err() == store.has_properties()
        && let Err(error) = store.discard(&path).await
    {
        tracing::warn!(%path, %error, "a part of a download stays behind for the sweep");
    }
    result
}

/// A source, ready to be read.
struct Opened {
    source: Box<dyn Source>,
    /// So many of its first bytes are in the store already.
    kept: u64,
    /// What its bytes must have.
    checksum: Option<Checksum>,
    /// An object that is gone on with.
    begun: Option<(Box<dyn Sink>, Resumed)>,
}

async fn opened(
    task: &FetchTask,
    store: &dyn Store,
    http: &HttpOrder,
    path: &StorePath,
) -> Result<Opened, Failure> {
    if let Some(opened) = gone_on(task, store, http, path).await? {
        return Ok(opened);
    }
    // Of several files nobody knows which one was on its way.
    if let Some(origin) = task.kept.as_ref().filter(|_| task.others.is_empty())
        && let Some(kept) = store.kept(path).await?
        && let Some(from) = kept.size()
        && let Some(rest) = HttpSource::go_on(http, origin, from).await?
    {
        tracing::info!(job = task.job, from, "the download goes on");
        let rest = Spread::new(rest, http.host());
        let source = Box::new(Continued { kept: Some(kept), rest });
        return Ok(Opened { source, kept: from, checksum: None, begun: None });
    }
    store.discard(path).await?;
    let (source, host, checksum) = if is_metalink(http.url.expose()) {
        let (source, mirror, checksum) = open_metalink(http, task.limit).await?;
        (source, mirror.host(), checksum)
    } else {
        (HttpSource::open(http, task.limit).await?, http.host(), None)
    };
    Ok(Opened { source: Box::new(Spread::new(source, host)), kept: 0, checksum, begun: None })
}

/// An object on its way into a bucket that can be gone on with: its parts are there, and the source has the same file.
async fn gone_on(
    task: &FetchTask,
    store: &dyn Store,
    http: &HttpOrder,
    path: &StorePath,
) -> Result<Option<Opened>, Failure> {
    let (Some(origin), Some(checkpoint)) = (&task.kept, &task.checkpoint) else { return Ok(None) };
    let algorithm = task.checksum.as_ref().map_or(Algorithm::Sha512, |c| c.algorithm);
    let from = checkpoint.stored.bytes();
    let inspector = Inspector::new(task.format);
    // The inspection wants to see the end.
    let enough = from >= HEAD as u64 && from.saturating_add(HEAD as u64) <= origin.size;
    if !inspector.can_skip() || !enough || algorithm != checkpoint.algorithm {
        return Ok(None);
    }
    let Some(rest) = HttpSource::go_on(http, origin, from).await? else { return Ok(None) };
    let mut part = rest.part(0, HEAD as u64);
    let mut head = Vec::with_capacity(HEAD);
    while let Some(bytes) = part.chunk().await? {
        head.extend_from_slice(&bytes);
    }
    if sum_of_head(&head) != checkpoint.head {
        return Ok(None);
    }
    let Some(sink) = store.go_on(path, &checkpoint.stored).await? else { return Ok(None) };
    tracing::info!(job = task.job, from, "the download goes on");
    let resumed = Resumed { checkpoint: checkpoint.clone(), head };
    let source = Box::new(Spread::new(rest, http.host()));
    Ok(Some(Opened { source, kept: 0, checksum: None, begun: Some((sink, resumed)) }))
}

/// A file whose beginning is there.
struct Continued {
    kept: Option<Box<dyn Source>>,
    rest: Spread,
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
    /// A user brings it, with this name, and is told so.
    pub(crate) uploaded: Option<&'a str>,
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
    into_sink(store, source, arrival, None, meter, abort).await
}

/// The same, into an object that is there in part.
async fn into_sink(
    store: &dyn Store,
    source: Box<dyn Source>,
    arrival: &Arrival<'_>,
    begun: Option<(Box<dyn Sink>, Resumed)>,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let path = arrival.folder.join(arrival.file)?;
    let before = match arrival.label {
        Some(label) if store.has_properties() => installed_before(store, &path, &label.file).await,
        _ => None,
    };
    let (begun, resumed) = begun.unzip();
    let plan = Plan {
        checksum: arrival.checksum.clone(),
        decompress: arrival.decompress,
        format: arrival.format,
        strict: arrival.strict,
        limit: arrival.limit,
        resumed,
    };
    // Nobody knows how much a compressed file unpacks to.
    let size = source.size().filter(|_| !arrival.decompress);
    let expected = Expected { size, limit: arrival.limit, kept: arrival.kept, beside: false };
    let mut sink = match begun {
        Some(sink) => sink,
        None => store.create(&path, expected).await?,
    };
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
            in_time("an empty folder stays behind", store.tidy(arrival.folder)).await;
            let text = arrival.uploaded.and_then(|name| of_upload(&error, arrival, name));
            return Err(text.map_or_else(|| error.into(), Failure::end));
        }
    };
    let stored = Stored {
        path: path.clone(),
        virtual_size: moved.sizes.virtual_size,
        physical_size: moved.sizes.physical_size,
        checksum: Some(moved.checksum),
        format: arrival.format,
        package: moved.sizes.package,
    };
    if let Some(label) = arrival.label
        && store.has_properties()
    {
        let described = async {
            if arrival.format == Some(ImageFormat::Ova) {
                unpack(store, &path, arrival.limit, abort).await?;
            }
            describe(store, arrival.folder, label, &stored, before.as_ref()).await
        };
        if let Err(failure) = described.await {
            in_time("an image without its properties stays behind", async {
                store.remove_file(&path).await?;
                store.tidy(arrival.folder).await
            })
            .await;
            return Err(failure);
        }
        if let Some(old) = before {
            store.remove_file(&old).await?;
        }
    }
    Ok(stored)
}

/// Tidies up after a failure. Whoever waits for the failure has waited long if its store is silent: what takes longer
/// than a while is left for the sweep.
pub(super) async fn in_time(left: &str, tidying: impl Future<Output = StoreResult<()>>) {
    match timeout(Gate::TIDY, tidying).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{left}"),
        Err(_) => tracing::warn!("{left}: the store did not answer within {} s", Gate::TIDY.as_secs()),
    }
}

/// What a user is told whose file is not what its name says, or not what was declared.
pub(crate) fn mismatch(found: Kind, declared: Option<ImageFormat>, name: &str) -> String {
    if !found.fits(name) {
        return format!("{NOT_AS_NAMED} Received: {found}");
    }
    format!(
        "File type mismatch between uploaded file and selected format. Selected file format: {}. Received: {found}",
        declared.map(|f| f.to_string()).unwrap_or_default()
    )
}

/// What a user is told of an upload where that is not what is said of a download.
fn of_upload(error: &TransferError, arrival: &Arrival<'_>, name: &str) -> Option<String> {
    match error {
        TransferError::Refused(Refusal::Mismatch { found }) => Some(mismatch(*found, arrival.format, name)),
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
    before: Option<&StorePath>,
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
    let mut properties = entry.properties();
    if let Some(before) = before {
        properties = properties.with(REPLACED, before.name());
    }
    write(store, &folder.join(&label.file)?, properties.render().into()).await
}

/// Writes a small file.
pub(super) async fn write(store: &dyn Store, path: &StorePath, bytes: Bytes) -> Result<(), Failure> {
    let size = bytes.len() as u64;
    let mut sink =
        store.create(path, Expected { size: Some(size), limit: size, kept: 0, beside: true }).await?;
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

/// The image that goes when `path` is there: the one that the folder's property file names. Where that is `path`, an
/// attempt has died before it had removed the other one.
async fn installed_before(store: &dyn Store, path: &StorePath, file: &str) -> Option<StorePath> {
    let folder = path.parent()?;
    let properties = read_properties(store, &folder.join(file).ok()?).await.ok()?;
    let named = |key: &str| folder.join(properties.get(key)?).ok().filter(|named| named != path);
    named("filename").or_else(|| named(REPLACED))
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
