//! Objects being written: one request where they are small, parts in parallel where they are not.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_sdk_s3::{
    error::ProvideErrorMetadata as _,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Expected, Found, S3Store, Sink, Store as _, StoreError, StoreResult, Stored, s3::error};
use crate::{
    layout::StorePath,
    transfer::budget::{self, Buffer},
};

/// Smallest part in bytes; objects up to this size are written by one request.
const SMALLEST_PART: u64 = 8 * 1024 * 1024;
/// Most parts of an object.
const MOST_PARTS: u64 = 10_000;
/// Parts on their way at once.
const PARALLEL: usize = 4;

/// The part size with which an object of at most `largest` bytes has no more than 10,000 parts.
fn part_size(largest: u64) -> u64 {
    SMALLEST_PART.max(largest.div_ceil(MOST_PARTS).next_multiple_of(1024 * 1024))
}

/// An object being written.
pub(super) struct Upload {
    store: S3Store,
    path: StorePath,
    part: u64,
    buffer: Option<Buffer>,
    written: u64,
    begun: Option<String>,
    parts: JoinSet<StoreResult<CompletedPart>>,
    done: Vec<CompletedPart>,
    count: i32,
    slots: Arc<Semaphore>,
    /// Of a part; the next call tells it.
    failure: Option<StoreError>,
}

impl Upload {
    pub(super) fn new(store: S3Store, path: StorePath, expected: Expected) -> Self {
        Self {
            store,
            path,
            part: part_size(expected.size.unwrap_or(expected.limit)),
            buffer: None,
            written: 0,
            begun: None,
            parts: JoinSet::new(),
            done: Vec::new(),
            count: 0,
            slots: Arc::new(Semaphore::new(PARALLEL)),
            failure: None,
        }
    }

    /// Goes on with the parts that the service has; `None` where it does not have them all.
    pub(super) async fn go_on(store: S3Store, path: StorePath, stored: &Stored) -> StoreResult<Option<Self>> {
        let list =
            store.client.list_parts().bucket(&store.bucket).key(path.as_str()).upload_id(&stored.upload);
        let mut pages = list.into_paginator().send();
        let mut done = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                Err(e) if e.code() == Some("NoSuchUpload") => return Ok(None),
                Err(e) => return Err(error(&path, &e)),
            };
            for part in page.parts.unwrap_or_default() {
                let number = part.part_number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                if number > stored.parts {
                    continue;
                }
                if part.size.and_then(|s| u64::try_from(s).ok()) != Some(stored.part) {
                    return Ok(None);
                }
                done.push(
                    CompletedPart::builder().set_part_number(part.part_number).set_e_tag(part.e_tag).build(),
                );
            }
        }
        let Ok(count) = i32::try_from(done.len()) else { return Ok(None) };
        if done.len() as u64 != stored.parts || stored.part < SMALLEST_PART {
            return Ok(None);
        }
        let expected = Expected { size: None, limit: 0, kept: 0, beside: false };
        let begun = Some(stored.upload.clone());
        Ok(Some(Self {
            part: stored.part,
            written: stored.bytes(),
            begun,
            done,
            count,
            ..Self::new(store, path, expected)
        }))
    }

    /// Takes note of the parts that have arrived.
    fn gather(&mut self) -> StoreResult<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        while let Some(part) = self.parts.try_join_next() {
            self.done.push(joined(part)?);
        }
        Ok(())
    }

    async fn take(&mut self, mut bytes: Bytes) -> StoreResult<()> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => budget::part(self.part).await,
            };
            buffer.take(&mut bytes);
            let full = buffer.room() == 0;
            self.buffer = Some(buffer);
            if full {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    async fn send_part(&mut self) -> StoreResult<()> {
        let id = self.begin().await?;
        self.gather()?;
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        self.count += 1;
        let (number, store, path) = (self.count, self.store.clone(), self.path.clone());
        let body = self.buffer.take().map(Buffer::freeze).unwrap_or_default();
        self.parts.spawn(async move {
            let request = store
                .client
                .upload_part()
                .bucket(&store.bucket)
                .key(path.as_str())
                .upload_id(id)
                .part_number(number)
                .body(ByteStream::from(body));
            let sent = if store.unsigned {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            drop(slot);
            let part = sent.map_err(|e| error(format_args!("part {number} of {path}"), &e))?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build())
        });
        Ok(())
    }

    async fn begin(&mut self) -> StoreResult<String> {
        if let Some(id) = &self.begun {
            return Ok(id.clone());
        }
        let S3Store { client, bucket, .. } = &self.store;
        let begun = client.create_multipart_upload().bucket(bucket).key(self.path.as_str()).send().await;
        let id = begun.map_err(|e| error(&self.path, &e))?.upload_id.ok_or_else(|| StoreError::Other {
            what: self.path.to_string(),
            reason: "the service began an upload without an id".into(),
        })?;
        self.begun = Some(id.clone());
        Ok(id)
    }

    async fn complete(&mut self) -> StoreResult<()> {
        self.gather()?;
        if self.begun.is_none() {
            let S3Store { client, bucket, .. } = &self.store;
            let body = ByteStream::from(self.buffer.take().map(Buffer::freeze).unwrap_or_default());
            client
                .put_object()
                .bucket(bucket)
                .key(self.path.as_str())
                .body(body)
                .send()
                .await
                .map_err(|e| error(&self.path, &e))?;
        } else {
            if self.buffer.is_some() {
                self.send_part().await?;
            }
            while let Some(part) = self.parts.join_next().await {
                self.done.push(joined(part)?);
            }
            self.done.sort_by_key(|p| p.part_number);
            let S3Store { client, bucket, .. } = &self.store;
            let all = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done)));
            client
                .complete_multipart_upload()
                .bucket(bucket)
                .key(self.path.as_str())
                .set_upload_id(self.begun.clone())
                .multipart_upload(all.build())
                .send()
                .await
                .map_err(|e| error(&self.path, &e))?;
            self.begun = None;
        }
        match self.store.find(&self.path).await? {
            Found::File(size) if size == self.written => Ok(()),
            found => Err(StoreError::Other {
                what: self.path.to_string(),
                reason: format!("{} bytes were written but the store holds {found:?}", self.written),
            }),
        }
    }
}

fn joined(part: Result<StoreResult<CompletedPart>, tokio::task::JoinError>) -> StoreResult<CompletedPart> {
    part.unwrap_or_else(|e| Err(StoreError::Other { what: "upload".into(), reason: e.to_string() }))
}

impl Sink for Upload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.take(bytes))
    }

    fn stored(&mut self) -> Option<Stored> {
        self.failure = self.gather().err();
        let upload = self.begun.clone()?;
        self.done.sort_by_key(|part| part.part_number);
        let whole = (1..).zip(&self.done).take_while(|(n, part)| part.part_number == Some(*n)).count() as u64;
        (whole > 0).then_some(Stored { upload, part: self.part, parts: whole })
    }

    fn part(&self) -> Option<u64> {
        Some(self.part)
    }

    fn finish(&mut self) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.complete())
    }

    fn abort(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.parts.shutdown().await;
            let Some(id) = self.begun.take() else { return };
            let S3Store { client, bucket, .. } = &self.store;
            let gone =
                client.abort_multipart_upload().bucket(bucket).key(self.path.as_str()).upload_id(id).send();
            if let Err(e) = gone.await {
                let error = error(&self.path, &e);
                tracing::warn!(%error, "a broken upload stays behind for the sweep");
            }
        })
    }
}

/// Aborts uploads that were begun longer than `age` seconds ago below the folders of a store.
pub(super) async fn abort_old(store: &S3Store, age: u64) -> StoreResult<u64> {
    // One page at a time: what is left over is for the next sweep.
    let page = store.client.list_multipart_uploads().bucket(&store.bucket).send().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut aborted = 0;
    for upload in page.map_err(|e| error("broken uploads", &e))?.uploads.unwrap_or_default() {
        let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
        let ours = ["template/", "volumes/", "snapshots/"].iter().any(|kind| key.starts_with(kind));
        let begun = upload.initiated.map_or(0, |t| u64::try_from(t.secs()).unwrap_or(0));
        if ours && now.saturating_sub(begun) >= age {
            abort_upload(store, &key, id).await?;
            aborted += 1;
        }
    }
    Ok(aborted)
}

/// Aborts the uploads of one key.
pub(super) async fn abort_of(store: &S3Store, path: &StorePath) -> StoreResult<()> {
    let page = store.client.list_multipart_uploads().bucket(&store.bucket).prefix(path.as_str()).send().await;
    for upload in page.map_err(|e| error("broken uploads", &e))?.uploads.unwrap_or_default() {
        let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
        if key == path.as_str() {
            abort_upload(store, &key, id).await?;
        }
    }
    Ok(())
}

async fn abort_upload(store: &S3Store, key: &str, id: String) -> StoreResult<()> {
    let gone = store.client.abort_multipart_upload().bucket(&store.bucket).key(key).upload_id(id).send();
    gone.await.map_err(|e| error(key, &e))?;
    tracing::info!(key, "aborted what a broken transfer left behind");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_too_many_parts() {
        for largest in [0, 1, SMALLEST_PART, 50 << 30, 500 << 30, 5 << 40] {
            let size = part_size(largest);
            assert!(size >= SMALLEST_PART && largest.div_ceil(size) <= MOST_PARTS, "{largest}");
        }
    }
}
