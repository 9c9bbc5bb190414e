//! The failing twin of a store, for tests: passes everything on, and fails where it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Expected, Found, Listed, Node, Sink, Source, SourceError, Store, StoreError, StoreResult, Usage,
};
use crate::layout::StorePath;

/// Where a [`FailingStore`] fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// When so many bytes of a file have been written.
    WriteAfter(u64),
    /// When a file is to appear.
    Finish,
    /// When so many bytes of a file have been read.
    ReadAfter(u64),
    /// When a folder is listed.
    List,
}

/// A store with one fault.
pub(crate) struct FailingStore {
    pub(crate) inner: Box<dyn Store>,
    pub(crate) fault: Fault,
    /// Whether the last sink was told to drop what it had.
    pub(crate) aborted: Arc<AtomicBool>,
}

fn fault() -> StoreError {
    StoreError::Full("the store is made to fail".into())
}

impl Store for FailingStore {
    fn create<'a>(
        &'a self,
        path: &'a StorePath,
        expected: Expected,
    ) -> BoxFuture<'a, StoreResult<Box<dyn Sink>>> {
        Box::pin(async move {
            let inner = self.inner.create(path, expected).await?;
            let sink =
                FailingSink { inner, fault: self.fault, written: 0, aborted: Arc::clone(&self.aborted) };
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }

    fn kept<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Option<Box<dyn Source>>>> {
        self.inner.kept(path)
    }

    fn discard<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        self.inner.discard(path)
    }

    fn open<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Box<dyn Source>>> {
        Box::pin(async move {
            let inner = self.inner.open(path).await?;
            Ok(Box::new(FailingSource { inner, fault: self.fault, read: AtomicU64::new(0) })
                as Box<dyn Source>)
        })
    }

    fn find<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Found>> {
        self.inner.find(path)
    }

    fn list<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<Vec<Listed>>> {
        if self.fault == Fault::List {
            return Box::pin(async { Err(fault()) });
        }
        self.inner.list(folder)
    }

    fn remove_file<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<bool>> {
        self.inner.remove_file(path)
    }

    fn remove_folder<'a>(
        &'a self,
        path: &'a StorePath,
        expendable: &'a [&'a str],
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.inner.remove_folder(path, expendable)
    }

    fn tidy<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        self.inner.tidy(folder)
    }

    fn rename<'a>(&'a self, from: &'a StorePath, to: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        self.inner.rename(from, to)
    }

    fn browse<'a>(&'a self, path: Option<&'a StorePath>) -> BoxFuture<'a, StoreResult<Option<Vec<Node>>>> {
        self.inner.browse(path)
    }

    fn usage(&self) -> BoxFuture<'_, StoreResult<Usage>> {
        self.inner.usage()
    }

    fn sweep<'a>(&'a self, age: u64, live: &'a [String]) -> BoxFuture<'a, StoreResult<u64>> {
        self.inner.sweep(age, live)
    }

    fn has_properties(&self) -> bool {
        self.inner.has_properties()
    }
}

struct FailingSink {
    inner: Box<dyn Sink>,
    fault: Fault,
    written: u64,
    aborted: Arc<AtomicBool>,
}

impl Sink for FailingSink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, StoreResult<()>> {
        self.written += bytes.len() as u64;
        match self.fault {
            Fault::WriteAfter(limit) if self.written > limit => Box::pin(async { Err(fault()) }),
            _ => self.inner.write(bytes),
        }
    }

    fn finish(&mut self) -> BoxFuture<'_, StoreResult<()>> {
        if self.fault == Fault::Finish {
            return Box::pin(async { Err(fault()) });
        }
        self.inner.finish()
    }

    fn abort(&mut self) -> BoxFuture<'_, ()> {
        self.aborted.store(true, Ordering::Relaxed);
        self.inner.abort()
    }
}

struct FailingSource {
    inner: Box<dyn Source>,
    fault: Fault,
    read: AtomicU64,
}

impl Source for FailingSource {
    fn size(&self) -> Option<u64> {
        self.inner.size()
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            let chunk = self.inner.chunk().await?;
            let read = self.read.fetch_add(chunk.as_ref().map_or(0, |c| c.len() as u64), Ordering::Relaxed);
            match self.fault {
                Fault::ReadAfter(limit) if read >= limit => Err(fault().into()),
                _ => Ok(chunk),
            }
        })
    }
}
