//! Copies from one store to another.

use common::command::storage::ImageFormat;
use tokio_util::sync::CancellationToken;

use super::{
    flatten::Flattened,
    install::{Arrival, arrive, in_time, read_properties},
};
use crate::{
    layout::{StorePath, entry_of},
    order::{CopyHow, CopyTask, Failure, Label, Stored},
    store::{FolderStore, Found, Store, StoreSpec, job_of_temporary},
    transfer::Meter,
};

/// Extensions that a path may come without.
const EXTENSIONS: [&str; 4] = ["qcow2", "vhd", "ova", "vmdk"];
/// Marks a flattened copy that only lives for one transfer.
const FLATTENED: &str = "_temp";

/// Makes the copy; nothing stays of one that fails.
pub(super) async fn copy(
    task: &CopyTask,
    meter: &Meter,
    abort: &CancellationToken,
) -> Result<Stored, Failure> {
    let (source, destination) =
        tokio::try_join!(task.source.open(&task.job), task.destination.open(&task.job))?;
    let copy = Copy { task, source, destination, meter, abort };
    match &task.how {
        CopyHow::File => {
            let from = copy.locate().await?;
            copy.file(&from, &task.folder).await
        }
        CopyHow::Folder => copy.folder().await,
        CopyHow::Install { label, format } => copy.install(label, *format).await,
        CopyHow::Template { label, format } => copy.template(label, *format).await,
        CopyHow::Flatten { label } => copy.flatten(label).await,
        CopyHow::Snapshot => copy.snapshot().await,
    }
}

struct Copy<'a> {
    task: &'a CopyTask,
    source: Box<dyn Store>,
    destination: Box<dyn Store>,
    meter: &'a Meter,
    abort: &'a CancellationToken,
}

impl Copy<'_> {
    /// The file that is meant: the path itself, with an extension, or the image of a folder.
    async fn locate(&self) -> Result<StorePath, Failure> {
        let from = &self.task.from;
        let found = self.source.find(from).await?;
        if let Found::File(_) = found {
            return Ok(from.clone());
        }
        if self.source.has_properties() {
            for extension in EXTENSIONS {
                let path = StorePath::parse(&format!("{from}.{extension}"))?;
                if let Found::File(_) = self.source.find(&path).await? {
                    return Ok(path);
                }
            }
            if found == Found::Folder
                && let Some(image) = self.image_of(from).await
            {
                return Ok(image);
            }
        }
        Err(Failure::end(format!("Can't find src file:{from}")))
    }

    /// The image that a folder's property file names.
    async fn image_of(&self, folder: &StorePath) -> Option<StorePath> {
        for name in ["template.properties", "volume.properties"] {
            let Ok(path) = folder.join(name) else { continue };
            if let Ok(properties) = read_properties(&*self.source, &path).await {
                return folder.join(properties.get("filename")?).ok();
            }
        }
        None
    }

    /// One file as it is, into `folder`.
    async fn file(&self, from: &StorePath, folder: &StorePath) -> Result<Stored, Failure> {
        let format = ImageFormat::of_name(from.name());
        let arrival = Arrival {
            folder,
            file: from.name(),
            format,
            strict: false,
            decompress: false,
            uploaded: None,
            checksum: None,
            limit: self.task.limit,
            label: None,
            kept: 0,
        };
        let source = self.source.open(from).await?;
        let stored = arrive(&*self.destination, source, &arrival, self.meter, self.abort).await?;
        Ok(Stored { format: format.filter(|f| *f != ImageFormat::Iso), ..stored })
    }

    /// A snapshot: its file, or the folder of its own that one of several files has.
    async fn snapshot(&self) -> Result<Stored, Failure> {
        let (from, folder) = (&self.task.from, &self.task.folder);
        let several = StorePath::parse(&format!("{from}.ovf"))?;
        let is_file = matches!(self.source.find(from).await?, Found::File(_));
        if is_file || !matches!(self.source.find(&several).await?, Found::File(_)) {
            return self.file(&self.locate().await?, folder).await;
        }
        let root = from.parent().ok_or_else(|| Failure::end(format!("Can't find src file:{from}")))?;
        let folder = folder.join(from.name())?;
        let path = folder.join(from.name())?;
        let files = self.tree(&root, &folder).await?;
        Ok(whole(path, &files))
    }

    /// All files of a template or volume.
    async fn folder(&self) -> Result<Stored, Failure> {
        let from = &self.task.from;
        let missing = || Failure::end(format!("Can't find src file:{from}"));
        let is_folder = self.source.find(from).await? == Found::Folder;
        let volume = from.components().next() == Some("volumes") && from.components().count() == 4;
        if is_folder && volume {
            // A volume of several files, without a property file.
            let folder = self.task.folder.join(from.name())?;
            let files = self.tree(from, &folder).await?;
            return if files.is_empty() { Err(missing()) } else { Ok(whole(folder, &files)) };
        }
        let located = self.locate().await;
        let root = match &located {
            _ if is_folder => from.clone(),
            Ok(image) => image.parent().ok_or_else(missing)?,
            Err(_) => from.parent().ok_or_else(missing)?,
        };
        let image = match located {
            Ok(image) => image,
            Err(failure) => self.image_of(&root).await.filter(|image| image == from).ok_or(failure)?,
        };
        // The template of a disk is a package by its name alone.
        let entry = if let Found::File(_) = self.source.find(&image).await? {
            None
        } else {
            let properties = read_properties(&*self.source, &root.join("template.properties")?).await?;
            Some(entry_of(&root, &properties).filter(|entry| !entry.is_corrupted).ok_or_else(missing)?)
        };
        let files = self.tree(&root, &self.task.folder).await?;
        let stored = files.iter().find(|(source, _)| *source == image).map(|(_, stored)| stored.clone());
        match (stored, entry) {
            (Some(stored), _) => Ok(stored),
            (None, Some(entry)) => Ok(Stored {
                virtual_size: u64::try_from(entry.size).unwrap_or(0),
                physical_size: u64::try_from(entry.physical_size).unwrap_or(0),
                format: ImageFormat::of_name(image.name()),
                ..whole(self.task.folder.join(image.name())?, &files)
            }),
            (None, None) => Err(missing()),
        }
    }

    /// All files below `root` as they are, those that describe others last, each with what it was there. Of a copy that
    /// fails none stays.
    async fn tree(&self, root: &StorePath, to: &StorePath) -> Result<Vec<(StorePath, Stored)>, Failure> {
        let mut files = self.source.list(root).await?;
        files.retain(|f| job_of_temporary(f.path.name()).is_none());
        files.sort_by_key(|f| f.path.name().ends_with(".properties"));
        let mut made: Vec<(StorePath, Stored)> = Vec::new();
        for file in files {
            let Some(parent) = file.path.parent() else { continue };
            let below = parent.as_str().strip_prefix(root.as_str()).unwrap_or_default();
            let folder = StorePath::parse(&format!("{to}/{below}"))?;
            match self.file(&file.path, &folder).await {
                Ok(stored) => made.push((file.path, stored)),
                Err(failure) => {
                    in_time("the files of a broken copy stay behind", async {
                        for (_, stored) in made {
                            self.destination.remove_file(&stored.path).await?;
                        }
                        self.destination.tidy(to).await
                    })
                    .await;
                    return Err(failure);
                }
            }
        }
        Ok(made)
    }

    /// An object as an installed image.
    async fn install(&self, label: &Label, format: Option<ImageFormat>) -> Result<Stored, Failure> {
        let from = self.locate().await?;
        let plain = ["gz", "bz2", "xz", "zst"]
            .iter()
            .find_map(|e| from.name().strip_suffix(&format!(".{e}")))
            .unwrap_or(from.name());
        let format = format.or_else(|| ImageFormat::of_name(plain));
        let file = format.map_or_else(
            || from.name().to_owned(),
            |f| crate::layout::image_name(plain.trim_end_matches(".iso"), &self.task.job, f),
        );
        self.labelled(&from, &file, format, label, true).await
    }

    /// A snapshot as a template.
    async fn template(&self, label: &Label, format: ImageFormat) -> Result<Stored, Failure> {
        if !matches!(format, ImageFormat::Qcow2 | ImageFormat::Raw) {
            return Err(Failure::end(format!("Unknown image format {format}")));
        }
        let from = self.locate().await?;
        let extension = format!(".{}", format.extension());
        let base = from.name().strip_suffix(extension.as_str()).unwrap_or(from.name());
        let stored = self.labelled(&from, &format!("{base}{extension}"), Some(format), label, false).await?;
        if from.name().contains(FLATTENED) {
            self.source.remove_file(&from).await?;
        }
        Ok(stored)
    }

    /// A snapshot and all that it builds on as a template.
    async fn flatten(&self, label: &Label) -> Result<Stored, Failure> {
        let (from, job) = (&self.task.from, &self.task.job);
        let StoreSpec::Folder(root) = &self.task.source else {
            return Err(Failure::end("a snapshot becomes a template out of a folder only"));
        };
        let named = from.name().starts_with("VHD-") || from.name().ends_with(".vhd");
        let path = if named { from.clone() } else { StorePath::parse(&format!("{from}.vhd"))? };
        if !matches!(self.source.find(&path).await?, Found::File(_)) {
            return Err(Failure::end(format!("Can't find src file:{from}")));
        }
        let uuid = hex::decode(job.replace('-', "")).ok().and_then(|bytes| bytes.try_into().ok());
        let uuid = uuid.ok_or_else(|| Failure::end(format!("job {job} is no UUID")))?;
        let store = FolderStore::open(root, job).await?;
        let source = Box::new(Flattened::open(store, &path, uuid).await?);
        // The management server takes the name of the template from the answer.
        let label = Label { name: job.clone(), ..label.clone() };
        let arrival = Arrival {
            folder: &self.task.folder,
            file: &format!("{job}.vhd"),
            format: Some(ImageFormat::Vhd),
            strict: true,
            decompress: false,
            uploaded: None,
            checksum: None,
            limit: self.task.limit,
            label: Some(&label),
            kept: 0,
        };
        arrive(&*self.destination, source, &arrival, self.meter, self.abort).await
    }

    async fn labelled(
        &self,
        from: &StorePath,
        file: &str,
        format: Option<ImageFormat>,
        label: &Label,
        decompress: bool,
    ) -> Result<Stored, Failure> {
        let arrival = Arrival {
            folder: &self.task.folder,
            file,
            format,
            strict: true,
            decompress,
            uploaded: None,
            checksum: None,
            limit: self.task.limit,
            label: Some(label),
            kept: 0,
        };
        let source = self.source.open(from).await?;
        arrive(&*self.destination, source, &arrival, self.meter, self.abort).await
    }
}

/// Several files as one thing.
fn whole(path: StorePath, files: &[(StorePath, Stored)]) -> Stored {
    let bytes = files.iter().map(|(_, file)| file.physical_size).sum();
    Stored { path, virtual_size: bytes, physical_size: bytes, checksum: None, format: None, package: None }
}
