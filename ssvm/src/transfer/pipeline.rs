//! Moves one file from a source to a sink.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use common::command::storage::ImageFormat;
use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    sync::mpsc,
    time::timeout,
};
use tokio_util::io::StreamReader;

use super::{
    Algorithm, Checksum, Meter,
    budget::{self, Lane},
    decode::{self, Compression},
    digest::Hasher,
    marks::{Marks, Resumed},
};
use crate::{
    format::{Inspector, Refusal, Sizes},
    store::{Sink, Source, SourceError, StoreError},
};

/// Longest time between two looks at what a sink has stored.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be done with the bytes on their way.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The checksum that the bytes must have as they come; `None` computes SHA-512.
    pub(crate) checksum: Option<Checksum>,
    /// Undo a compression that the first bytes tell.
    pub(crate) decompress: bool,
    /// The format that the plain bytes must have; `None` takes anything.
    pub(crate) format: Option<ImageFormat>,
    /// Refuse what is not of that format; else only its size is taken from it.
    pub(crate) strict: bool,
    /// Most bytes that are written.
    pub(crate) limit: u64,
    /// The bytes before that are in the sink already.
    pub(crate) resumed: Option<Resumed>,
}

/// What passed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Over the bytes as they came.
    pub(crate) checksum: Checksum,
    /// Of what was written.
    pub(crate) sizes: Sizes,
}

/// Why a file did not arrive. The sink has been aborted: nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The bytes did not come.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The bytes could not be stored.
    #[error(transparent)]
    Sink(#[from] StoreError),
    /// The image is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The compressed stream is broken.
    #[error("failed to uncompress: {0}")]
    Compressed(String),
    /// More bytes than allowed.
    #[error("Download file size is too large")]
    TooLarge,
    /// Another checksum than asked for.
    #[error("Failed post download script: checksum \"{computed}\" didn't match the given value, \"{given}\"")]
    Checksum {
        /// Over what came.
        computed: Checksum,
        /// What was asked for.
        given: Checksum,
    },
}

/// Moves everything from `source` to `sink` and makes it appear there. On failure, or when the
/// future is dropped and [`Sink::abort`] called, nothing appears.
pub(crate) async fn run(
    source: Box<dyn Source>,
    sink: &mut dyn Sink,
    plan: &Plan,
    meter: &Meter,
) -> Result<Moved, TransferError> {
    let result = move_all(source, sink, plan, meter).await;
    if result.is_err() {
        sink.abort().await;
    }
    result
}

async fn move_all(
    source: Box<dyn Source>,
    sink: &mut dyn Sink,
    plan: &Plan,
    meter: &Meter,
) -> Result<Moved, TransferError> {
    if let Some(size) = source.size() {
        meter.expect(size);
        if size > plan.limit {
            return Err(TransferError::TooLarge);
        }
    }
    let lane = budget::lane().await;
    let algorithm = plan.checksum.as_ref().map_or(Algorithm::Sha512, |c| c.algorithm);
    let lasting = source.origin().is_some() && plan.format.is_some();
    let marks = Arc::new(Marks::new(sink.part().filter(|_| lasting), algorithm));
    let (sender, mut chunks) = mpsc::channel::<Bytes>(1);
    let drain = async {
        loop {
            match timeout(LOOK, chunks.recv()).await {
                Ok(Some(chunk)) => sink.write(chunk).await?,
                Ok(None) => break,
                // Nothing comes, but parts may have arrived in the meantime.
                Err(_) => {}
            }
            // Only bytes that are stored as they come have an origin.
            if lasting
                && meter.origin().is_some()
                && let Some(checkpoint) = sink.stored().and_then(|stored| marks.reached(stored))
            {
                meter.keep(checkpoint);
            }
        }
        Ok(())
    };
    let (moved, ()) = tokio::try_join!(fill(source, sender, plan, meter, &lane, &marks), drain)?;
    meter.installing();
    if let Some(given) = plan.checksum.as_ref().filter(|given| **given != moved.checksum) {
        return Err(TransferError::Checksum { computed: moved.checksum, given: given.clone() });
    }
    sink.finish().await?;
    Ok(moved)
}

/// The half before the sink: checksum, decompression, inspection.
async fn fill(
    source: Box<dyn Source>,
    sender: mpsc::Sender<Bytes>,
    plan: &Plan,
    meter: &Meter,
    lane: &Lane,
    marks: &Arc<Marks>,
) -> Result<Moved, TransferError> {
    let algorithm = plan.checksum.as_ref().map_or(Algorithm::Sha512, |c| c.algorithm);
    let origin = source.origin();
    let resumed = plan.resumed.as_ref();
    let before = resumed.map_or(0, |resumed| resumed.checkpoint.stored.bytes());
    let hasher = match resumed {
        Some(resumed) => algorithm
            .restored(&resumed.checkpoint.state)
            .ok_or_else(|| SourceError::Remote("what was kept of the checksum cannot be used".into()))?,
        None => algorithm.hasher(),
    };
    let (mut raw, sum) = tapped(source, hasher, before, meter, marks);
    let mut start = Vec::new();
    decode::peek(&mut raw, &mut start).await.map_err(from_source)?;
    let compression = Compression::of(&start).filter(|_| plan.decompress && resumed.is_none());
    if let Some(origin) = origin.filter(|_| compression.is_none()) {
        meter.comes_from(origin);
    }
    let mut inspector =
        if plan.strict { Inspector::new(plan.format) } else { Inspector::lenient(plan.format) };
    if let Some(resumed) = resumed {
        inspector.skip(&resumed.head, before)?;
        meter.keep(resumed.checkpoint.clone());
        marks.judged(inspector.head());
        meter.add(before);
    }
    let mut written = before;
    {
        let whole = BufReader::with_capacity(64 * 1024, io::Cursor::new(start).chain(&mut raw));
        let mut plain: Box<dyn AsyncRead + Send + Unpin> = match compression {
            Some(compression) => compression.decoder(whole),
            None => Box::new(whole),
        };
        loop {
            let chunk = read_chunk(&mut plain, lane).await.map_err(|e| match compression {
                Some(_) => from_decoder(e),
                None => from_source(e),
            })?;
            if chunk.is_empty() {
                break;
            }
            written += chunk.len() as u64;
            if written > plan.limit {
                return Err(TransferError::TooLarge);
            }
            inspector.feed(&chunk)?;
            marks.judged(inspector.head());
            if sender.send(chunk).await.is_err() {
                // The sink has failed; its own error is the one that counts.
                return std::future::pending().await;
            }
        }
    }
    // What follows a compressed stream still belongs to the file as it was served.
    loop {
        let rest = raw.fill_buf().await.map_err(from_source)?.len();
        if rest == 0 {
            break;
        }
        raw.consume(rest);
    }
    let sizes = inspector.finish()?;
    let hasher = sum.lock().unwrap_or_else(PoisonError::into_inner).take();
    let checksum = hasher.unwrap_or_else(|| algorithm.hasher()).finish();
    Ok(Moved { checksum, sizes })
}

/// A full chunk, shorter only at the end.
async fn read_chunk(mut source: impl AsyncRead + Send + Unpin, lane: &Lane) -> io::Result<Bytes> {
    let mut chunk = lane.chunk();
    while chunk.room() > 0 {
        let room = chunk.room();
        if source.read_buf(&mut chunk.target().limit(room)).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

/// The checksum of everything that a source has.
pub(crate) async fn checksum_of(
    mut source: Box<dyn Source>,
    algorithm: Algorithm,
) -> Result<Checksum, SourceError> {
    let mut hasher = algorithm.hasher();
    while let Some(chunk) = source.chunk().await? {
        hasher.update(&chunk);
    }
    Ok(hasher.finish())
}

fn from_source(error: io::Error) -> TransferError {
    match error.downcast::<SourceError>() {
        Ok(source) => TransferError::Source(source),
        Err(other) => TransferError::Source(SourceError::Remote(other.to_string())),
    }
}

/// A decoder passes on what its source said, and has complaints of its own.
fn from_decoder(error: io::Error) -> TransferError {
    match error.downcast::<SourceError>() {
        Ok(source) => TransferError::Source(source),
        Err(other) => TransferError::Compressed(other.to_string()),
    }
}

type Shared = Arc<Mutex<Option<Hasher>>>;
type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>> + Send>>;

/// A source as a reader that counts and hashes what passes.
fn tapped(
    source: Box<dyn Source>,
    hasher: Hasher,
    before: u64,
    meter: &Meter,
    marks: &Arc<Marks>,
) -> (StreamReader<Chunks, Bytes>, Shared) {
    let sum: Shared = Arc::new(Mutex::new(Some(hasher)));
    let state = (source, Arc::clone(&sum), before, meter.clone(), Arc::clone(marks));
    let chunks = stream::try_unfold(state, |(mut source, sum, offset, meter, marks)| async move {
        let Some(chunk) = source.chunk().await.map_err(io::Error::other)? else { return Ok(None) };
        if let Some(hasher) = sum.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            marks.hash(hasher, &chunk, offset);
        }
        let length = chunk.len() as u64;
        meter.add(length);
        Ok(Some((chunk, (source, sum, offset + length, meter, marks))))
    });
    (StreamReader::new(Box::pin(chunks)), sum)
}

#[cfg(test)]
mod tests;
