//! Takes a package apart, beside itself: hypervisors read its members.

use tokio_util::sync::CancellationToken;

use crate::{
    format::{Archive, Event},
    layout::StorePath,
    order::{Failure, FailureKind},
    store::{Expected, Sink, Store},
};

/// Names that are the store's own.
const OWN: [&str; 2] = ["template.properties", "volume.properties"];

/// Unpacks `package`, which has been inspected, into its folder. Nothing of it stays on failure.
pub(super) async fn unpack(
    store: &dyn Store,
    package: &StorePath,
    abort: &CancellationToken,
) -> Result<(), Failure> {
    let mut unpacking = Unpacking { store, package, made: Vec::new(), sink: None };
    let result = unpacking.all(abort).await;
    if result.is_err() {
        unpacking.undo().await;
    }
    result
}

struct Unpacking<'a> {
    store: &'a dyn Store,
    package: &'a StorePath,
    made: Vec<StorePath>,
    sink: Option<Box<dyn Sink>>,
}

impl Unpacking<'_> {
    async fn all(&mut self, abort: &CancellationToken) -> Result<(), Failure> {
        let mut source = self.store.open(self.package).await?;
        let mut archive = Archive::default();
        while let Some(chunk) = source.chunk().await? {
            if abort.is_cancelled() {
                return Err(Failure::new(FailureKind::Aborted, "aborted"));
            }
            let mut bytes = &chunk[..];
            while let Some(event) = archive.next(&mut bytes).map_err(Failure::end)? {
                match event {
                    Event::Member { name, size } => self.begin(&name, size).await?,
                    Event::Data(data) => {
                        if let Some(sink) = &mut self.sink {
                            sink.write(chunk.slice_ref(data)).await?;
                        }
                    }
                    Event::End => self.end().await?,
                }
            }
        }
        self.end().await
    }

    async fn begin(&mut self, name: &str, size: u64) -> Result<(), Failure> {
        if name == self.package.name() || OWN.contains(&name) {
            return Err(Failure::end(format!(
                "The package has a member {name:?}, which would replace another file"
            )));
        }
        let folder = self.package.parent().ok_or_else(|| Failure::end("a package without a folder"))?;
        let path = folder.join(name)?;
        let expected = Expected { size: Some(size), limit: size, kept: 0, beside: true };
        self.sink = Some(self.store.create(&path, expected).await?);
        self.made.push(path);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Failure> {
        match &mut self.sink {
            Some(sink) => sink.finish().await?,
            None => return Ok(()),
        }
        self.sink = None;
        Ok(())
    }

    async fn undo(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            sink.abort().await;
        }
        for path in &self.made {
            if let Err(error) = self.store.remove_file(path).await {
                tracing::warn!(%path, %error, "a member of a broken package stays behind");
            }
        }
    }
}
