//! Copies from one store to another.

use common::command::storage::ImageFormat;
use tokio_util::sync::CancellationToken;

use super::install::{Arrival, arrive, read_properties};
use crate::{
    layout::StorePath,
    order::{CopyHow, CopyTask, Failure, Label, Stored},
    store::{Found, Store, job_of_temporary},
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
    let copy = Copy {
        task,
        source: task.source.open(&task.job).await?,
        destination: task.destination.open(&task.job).await?,
        meter,
        abort,
    };
    match &task.how {
        CopyHow::File => {
            let from = copy.locate().await?;
            copy.file(&from, &task.folder).await
        }
        CopyHow::Folder => copy.folder().await,
        CopyHow::Install { label, format } => copy.install(label, *format).await,
        CopyHow::Template { label, format } => copy.template(label, *format).await,
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
            uploaded: false,
            checksum: None,
            limit: self.task.limit,
            label: None,
            kept: 0,
        };
        let source = self.source.open(from).await?;
        let stored = arrive(&*self.destination, source, &arrival, self.meter, self.abort).await?;
        Ok(Stored { format: format.filter(|f| *f != ImageFormat::Iso), ..stored })
    }

    /// All files of a template or volume; those that describe the others come last.
    async fn folder(&self) -> Result<Stored, Failure> {
        let from = &self.task.from;
        let image = self.locate().await?;
        let root = match self.source.find(from).await? {
            Found::Folder => from.clone(),
            _ => image.parent().ok_or_else(|| Failure::end(format!("Can't find src file:{from}")))?,
        };
        let mut files = self.source.list(&root).await?;
        files.retain(|f| job_of_temporary(f.path.name()).is_none());
        files.sort_by_key(|f| f.path.name().ends_with(".properties"));
        let mut stored = None;
        for file in files {
            let Some(parent) = file.path.parent() else { continue };
            let below = parent.as_str().strip_prefix(root.as_str()).unwrap_or_default();
            let folder = StorePath::parse(&format!("{}/{below}", self.task.folder))?;
            let copied = self.file(&file.path, &folder).await?;
            if file.path == image {
                stored = Some(copied);
            }
        }
        stored.ok_or_else(|| Failure::end(format!("Can't find src file:{from}")))
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
            uploaded: false,
            checksum: None,
            limit: self.task.limit,
            label: Some(label),
            kept: 0,
        };
        let source = self.source.open(from).await?;
        arrive(&*self.destination, source, &arrival, self.meter, self.abort).await
    }
}
