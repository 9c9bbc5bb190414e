//! Takes a package apart, beside itself: hypervisors read its members. Files that come in pieces or compressed lie there
//! whole and plain, and the descriptor says so: hypervisors take no others.

use std::io::Write as _;

use bytes::Bytes;
use common::command::storage::ImageFormat;
use flate2::write::MultiGzDecoder;
use tokio_util::sync::CancellationToken;

use super::install::write;
use crate::{
    format::{Archive, Event, File, Inspector, LONGEST_DESCRIPTOR, plain_descriptor, read_descriptor},
    layout::StorePath,
    order::{Failure, FailureKind},
    store::{Expected, Sink, Store},
};

/// Names that are the store's own.
const OWN: [&str; 2] = ["template.properties", "volume.properties"];
/// Compressed bytes that are looked at at once; they become a thousand times as many at most.
const SLICE: usize = 1024;
/// What vouches for the descriptor as it came.
const SIGNATURES: [&str; 2] = [".mf", ".cert"];

/// Unpacks `package` into its folder; files that are compressed may have `limit` bytes together. Nothing of it stays on
/// failure.
pub(super) async fn unpack(
    store: &dyn Store,
    package: &StorePath,
    limit: u64,
    abort: &CancellationToken,
) -> Result<(), Failure> {
    let mut unpacking = Unpacking {
        store,
        package,
        left: limit,
        made: Vec::new(),
        target: Target::Nothing,
        packed: Vec::new(),
        plain: Vec::new(),
        descriptor: None,
    };
    let result = unpacking.all(abort).await;
    if result.is_err() {
        unpacking.undo().await;
    }
    result
}

struct Unpacking<'a> {
    store: &'a dyn Store,
    package: &'a StorePath,
    /// Bytes that compressed files may still have.
    left: u64,
    made: Vec<StorePath>,
    target: Target,
    /// Files of the descriptor that are not plain.
    packed: Vec<File>,
    /// What they are called, what they have become, and bytes.
    plain: Vec<(String, String, u64)>,
    /// A descriptor that is written when all else is there.
    descriptor: Option<(StorePath, Vec<u8>)>,
}

/// Where the bytes of the member go that passes.
enum Target {
    Nothing,
    /// A file of its own.
    Member(Box<dyn Sink>),
    Descriptor {
        path: StorePath,
        text: Vec<u8>,
    },
    /// A file that is made plain.
    Packed(Box<Packed>),
}

/// A file that is made plain.
struct Packed {
    sink: Box<dyn Sink>,
    /// Which one it is.
    file: File,
    /// The piece that passes.
    piece: usize,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    inspector: Inspector,
    bytes: u64,
}

impl Unpacking<'_> {
    async fn all(&mut self, abort: &CancellationToken) -> Result<(), Failure> {
        let mut source = self.store.open(self.package).await?;
        let mut archive = Archive::default();
        while let Some(chunk) = source.chunk().await? {
            let mut bytes = &chunk[..];
            while let Some(event) = archive.next(&mut bytes).map_err(Failure::end)? {
                if abort.is_cancelled() {
                    return Err(Failure::new(FailureKind::Aborted, "aborted"));
                }
                match event {
                    Event::Member { name, size } => self.begin(&name, size).await?,
                    Event::Data(data) => self.data(chunk.slice_ref(data)).await?,
                    Event::End => self.end().await?,
                }
            }
        }
        self.end().await?;
        self.end_packed().await?;
        if let Some((path, text)) = self.descriptor.take() {
            let text = plain_descriptor(&text, &self.plain).map_err(Failure::end)?;
            self.made.push(path.clone());
            write(self.store, &path, text.into()).await?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Result<StorePath, Failure> {
        if name == self.package.name() || OWN.contains(&name) {
            return Err(Failure::end(format!(
                "The package has a member {name:?}, which would replace another file"
            )));
        }
        let folder = self.package.parent().ok_or_else(|| Failure::end("a package without a folder"))?;
        Ok(folder.join(name)?)
    }

    async fn create(&mut self, name: &str, size: Option<u64>, limit: u64) -> Result<Box<dyn Sink>, Failure> {
        let path = self.path(name)?;
        let sink = self.store.create(&path, Expected { size, limit, kept: 0, beside: true }).await?;
        self.made.push(path);
        Ok(sink)
    }

    async fn begin(&mut self, name: &str, size: u64) -> Result<(), Failure> {
        if let Target::Packed(packed) = &mut self.target {
            packed.piece += 1;
            if packed.file.member(packed.piece).as_deref() == Some(name) {
                return Ok(());
            }
            self.end_packed().await?;
        }
        if name.to_ascii_lowercase().ends_with(".ovf") {
            if size > LONGEST_DESCRIPTOR {
                return Err(Failure::end(format!("a descriptor of {size} bytes")));
            }
            self.target = Target::Descriptor { path: self.path(name)?, text: Vec::new() };
            return Ok(());
        }
        let first = self.packed.iter().find(|file| file.member(0).as_deref() == Some(name)).cloned();
        if let Some(file) = first {
            let plain = file.plain().to_owned();
            let sink = self.create(&plain, None, self.left).await?;
            let is_disk = plain.to_ascii_lowercase().ends_with(".vmdk");
            self.target = Target::Packed(Box::new(Packed {
                sink,
                piece: 0,
                gzip: file.compressed.then(|| MultiGzDecoder::new(Vec::new())),
                inspector: Inspector::new(is_disk.then_some(ImageFormat::Vmdk)),
                bytes: 0,
                file,
            }));
            return Ok(());
        }
        // The order of pieces is that of the members.
        if self.packed.iter().any(|file| file.piece.is_some() && is_piece(name, &file.href)) {
            return Err(Failure::end(format!("The package has piece {name:?} out of its order")));
        }
        if !self.packed.is_empty() && SIGNATURES.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
            return Ok(());
        }
        self.target = Target::Member(self.create(name, Some(size), size).await?);
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Failure> {
        match &mut self.target {
            Target::Nothing => {}
            Target::Member(sink) => sink.write(data).await?,
            Target::Descriptor { text, .. } => text.extend_from_slice(&data),
            Target::Packed(packed) => {
                let Some(mut gzip) = packed.gzip.take() else {
                    return packed.take(data, &mut self.left).await;
                };
                for slice in data.chunks(SLICE) {
                    gzip.write_all(slice).map_err(|e| packed.broken(&e))?;
                    if gzip.get_ref().len() >= SLICE * SLICE {
                        packed.take(std::mem::take(gzip.get_mut()).into(), &mut self.left).await?;
                    }
                }
                packed.take(std::mem::take(gzip.get_mut()).into(), &mut self.left).await?;
                packed.gzip = Some(gzip);
            }
        }
        Ok(())
    }

    /// The end of a member.
    async fn end(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.target, Target::Nothing) {
            Target::Nothing => {}
            Target::Member(mut sink) => match sink.finish().await {
                Ok(()) => {}
                Err(error) => {
                    sink.abort().await;
                    return Err(error.into());
                }
            },
            Target::Descriptor { path, text } => {
                let descriptor = read_descriptor(&text).map_err(Failure::end)?;
                self.packed = descriptor.files.into_iter().filter(|file| !file.is_plain()).collect();
                if self.packed.is_empty() {
                    self.made.push(path.clone());
                    write(self.store, &path, text.into()).await?;
                } else {
                    self.descriptor = Some((path, text));
                }
            }
            // Another piece may come.
            packed @ Target::Packed(_) => self.target = packed,
        }
        Ok(())
    }

    /// The end of a file that is made plain.
    async fn end_packed(&mut self) -> Result<(), Failure> {
        let mut packed = match std::mem::replace(&mut self.target, Target::Nothing) {
            Target::Packed(packed) => packed,
            other => {
                self.target = other;
                return Ok(());
            }
        };
        let ended = packed.end(&mut self.left).await;
        match ended {
            Ok(()) => {
                self.plain.push((packed.file.href.clone(), packed.file.plain().to_owned(), packed.bytes));
                Ok(())
            }
            Err(failure) => {
                packed.sink.abort().await;
                Err(failure)
            }
        }
    }

    async fn undo(&mut self) {
        match &mut self.target {
            Target::Member(sink) => sink.abort().await,
            Target::Packed(packed) => packed.sink.abort().await,
            Target::Nothing | Target::Descriptor { .. } => {}
        }
        for path in &self.made {
            if let Err(error) = self.store.remove_file(path).await {
                tracing::warn!(%path, %error, "a member of a broken package stays behind");
            }
        }
    }
}

/// Whether a member is called as the pieces of a file are.
fn is_piece(member: &str, file: &str) -> bool {
    let number = member.strip_prefix(file).and_then(|rest| rest.strip_prefix('.'));
    number.is_some_and(|number| number.len() == 9 && number.bytes().all(|b| b.is_ascii_digit()))
}

impl Packed {
    fn broken(&self, error: &std::io::Error) -> Failure {
        Failure::end(format!("failed to uncompress {:?} of the package: {error}", self.file.href))
    }

    /// Takes plain bytes.
    async fn take(&mut self, bytes: Bytes, left: &mut u64) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        *left = left.checked_sub(length).ok_or_else(|| {
            Failure::end(format!("file {:?} of the package is too large when it is unpacked", self.file.href))
        })?;
        self.bytes += length;
        self.inspector.feed(&bytes).map_err(|refusal| self.refused(&refusal.reason()))?;
        Ok(self.sink.write(bytes).await?)
    }

    fn refused(&self, reason: &str) -> Failure {
        Failure::end(format!("file {:?} of the package is refused: {reason}", self.file.href))
    }

    async fn end(&mut self, left: &mut u64) -> Result<(), Failure> {
        if let Some(gzip) = self.gzip.take() {
            let rest = gzip.finish().map_err(|e| self.broken(&e))?;
            self.take(rest.into(), left).await?;
        }
        let inspector = std::mem::replace(&mut self.inspector, Inspector::new(None));
        inspector.finish().map_err(|refusal| self.refused(&refusal.reason()))?;
        Ok(self.sink.finish().await?)
    }
}
