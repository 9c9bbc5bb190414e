//! Copy commands: what they mean as a task, and what the answer says came to be.

use std::sync::Arc;

use common::{
    channel::message::{AnswerBase, Message},
    command::{
        agent,
        storage::{
            CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, ImageFormat, SnapshotObjectTO, StoreRole,
            TemplateObjectTO, VolumeObjectTO,
        },
    },
};
use tokio_util::sync::CancellationToken;

use super::{Core, jobs::new_id, stores::stores_of};
use crate::{
    layout::StorePath,
    order::{CopyHow, CopyTask, Failure, Label, Outcome, Stored, Task},
};

/// Largest file that is copied: 64 TiB.
const LARGEST: u64 = 64 << 40;

/// What a copy command means.
#[derive(Debug, PartialEq)]
struct Plan<'a> {
    source: &'a DataStoreTO,
    from: &'a str,
    destination: &'a DataStoreTO,
    folder: &'a str,
    how: CopyHow,
}

/// Kinds of stores that matter for the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    Bucket,
}

fn kind(store: &DataStoreTO) -> Option<Kind> {
    match store {
        DataStoreTO::Nfs(nfs) if nfs.role != Some(StoreRole::Primary) => Some(Kind::Folder),
        DataStoreTO::Nfs(_) | DataStoreTO::Other(_) => None,
        DataStoreTO::S3(_) => Some(Kind::Bucket),
    }
}

/// `None` where this VM does not make such copies.
fn plan(command: &CopyCommand) -> Option<Plan<'_>> {
    let (source, destination) = (command.source.as_ref()?, command.destination.as_ref()?);
    let (from_store, to_store) = (source.store()?, destination.store()?);
    let (from_kind, to_kind) = (kind(from_store)?, kind(to_store)?);
    let how = match (source, destination) {
        (DataTO::Snapshot(_), DataTO::Snapshot(_)) => match (from_kind, to_kind) {
            (Kind::Folder, Kind::Folder) => CopyHow::Snapshot,
            _ => CopyHow::File,
        },
        (DataTO::Snapshot(snapshot), DataTO::Template(template))
            if from_kind == Kind::Folder && is_vhd(snapshot) =>
        {
            CopyHow::Flatten { label: template_label(template) }
        }
        (DataTO::Snapshot(snapshot), DataTO::Template(template)) if from_kind == Kind::Folder => {
            CopyHow::Template {
                label: template_label(template),
                format: snapshot.volume.as_ref().and_then(|v| v.format).unwrap_or(ImageFormat::Qcow2),
            }
        }
        (DataTO::Template(_), DataTO::Template(_)) | (DataTO::Volume(_), DataTO::Volume(_)) => {
            match (from_kind, to_kind) {
                (Kind::Folder, Kind::Folder) => CopyHow::Folder,
                (Kind::Bucket, Kind::Folder) => match destination {
                    DataTO::Template(t) => CopyHow::Install { label: template_label(t), format: t.format },
                    DataTO::Volume(v) => CopyHow::Install { label: volume_label(v), format: v.format },
                    _ => return None,
                },
                (_, Kind::Bucket) => CopyHow::File,
            }
        }
        _ => return None,
    };
    Some(Plan {
        source: from_store,
        from: source.path().unwrap_or_default(),
        destination: to_store,
        folder: destination.path().unwrap_or_default(),
        how,
    })
}

/// Whether a snapshot holds differences in the way of XenServer.
fn is_vhd(snapshot: &SnapshotObjectTO) -> bool {
    let xen = snapshot.hypervisor_type.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("XenServer"));
    xen || snapshot.volume.as_ref().and_then(|volume| volume.format) == Some(ImageFormat::Vhd)
}

fn template_label(template: &TemplateObjectTO) -> Label {
    Label {
        name: template.name.clone().or_else(|| template.unique_name.clone()).unwrap_or_default(),
        id: template.id,
        description: template.display_text.clone().unwrap_or_default(),
        hvm: template.hvm,
        checksum: None,
        file: "template.properties".to_owned(),
    }
}

fn volume_label(volume: &VolumeObjectTO) -> Label {
    Label {
        name: volume.name.clone().unwrap_or_default(),
        id: volume.volume_id.unwrap_or(volume.id),
        description: String::new(),
        hvm: false,
        checksum: Some(String::new()),
        file: "volume.properties".to_owned(),
    }
}

/// The name of a template that is known by the copy alone: of a file out of a bucket, and of a snapshot whose template
/// has a name of its own.
fn new_name(command: &CopyCommand, stored: &Stored) -> Option<String> {
    let (source, destination) = (command.source.as_ref()?, command.destination.as_ref()?);
    let name = stored.path.name();
    match (source, stored.format) {
        (DataTO::Snapshot(_), Some(ImageFormat::Vhd)) => {
            Some(name.strip_suffix(".vhd").unwrap_or(name).to_owned())
        }
        (DataTO::Template(_), _) => {
            let out = source.store().and_then(kind) == Some(Kind::Bucket);
            (out && destination.store().and_then(kind) == Some(Kind::Folder)).then(|| name.to_owned())
        }
        _ => None,
    }
}

/// What came to be, as the management server reads it.
fn new_data(command: &CopyCommand, stored: &Stored) -> Option<DataTO> {
    let bytes = |n: u64| i64::try_from(n).ok();
    // What an object store holds is only known by its bytes; the server knows the size of the disk.
    let known = match command.source.as_ref()? {
        DataTO::Template(t) => t.size,
        DataTO::Volume(v) => v.size,
        _ => None,
    };
    let size = if stored.format.is_some() { bytes(stored.virtual_size) } else { known.filter(|s| *s > 0) };
    let size = size.or(bytes(stored.virtual_size));
    let path = Some(stored.path.to_string());
    Some(match command.destination.as_ref()? {
        DataTO::Template(template) => DataTO::Template(Box::new(TemplateObjectTO {
            path,
            id: template.id,
            account_id: template.account_id,
            name: new_name(command, stored),
            size,
            physical_size: bytes(stored.physical_size),
            format: stored.format.filter(|f| *f != ImageFormat::Iso),
            ..TemplateObjectTO::default()
        })),
        DataTO::Volume(volume) => DataTO::Volume(Box::new(VolumeObjectTO {
            path,
            id: volume.id,
            account_id: volume.account_id,
            name: Some(stored.path.name().to_owned()),
            size,
            ..VolumeObjectTO::default()
        })),
        DataTO::Snapshot(snapshot) => DataTO::Snapshot(Box::new(SnapshotObjectTO {
            path,
            id: snapshot.id,
            account_id: snapshot.account_id,
            physical_size: bytes(stored.physical_size),
            parent_snapshot_path: snapshot.parent_snapshot_path.clone(),
            ..SnapshotObjectTO::default()
        })),
        DataTO::Other(_) => return None,
    })
}

impl Core {
    /// Makes a copy; the answer comes when it is whole.
    pub(super) async fn copy(self: &Arc<Self>, command: CopyCommand, class: &str) -> Message {
        let answer = match plan(&command) {
            None => return agent::unsupported(class),
            Some(plan) => match self.make_copy(&plan).await {
                Ok(stored) => {
                    CopyCmdAnswer { new_data: new_data(&command, &stored), answer: AnswerBase::ok() }
                }
                Err(failure) => {
                    tracing::warn!(from = plan.from, reason = failure.text, "copy failed");
                    CopyCmdAnswer { new_data: None, answer: AnswerBase::failed(failure.text) }
                }
            },
        };
        Message::wrap(&answer)
    }

    async fn make_copy(&self, plan: &Plan<'_>) -> Result<Stored, Failure> {
        let folder = StorePath::parse(plan.folder)?;
        folder.removable()?;
        // Side by side: each may take most of what a command may wait.
        let (source, destination) =
            tokio::try_join!(self.store(plan.source, None), self.store(plan.destination, None))?;
        let task = Task::Copy(Box::new(CopyTask {
            job: new_id(),
            source,
            from: StorePath::parse(plan.from)?,
            destination,
            folder,
            how: plan.how.clone(),
            limit: LARGEST,
        }));
        let stores = stores_of(&task);
        let abort = CancellationToken::new();
        let mut result = self.workshop.work(task.clone(), None, &abort).await;
        if let Err(failure) = &result
            && self.helped(failure, &stores).await
        {
            result = self.workshop.work(task, None, &abort).await;
        }
        match result? {
            Outcome::Stored(stored) => Ok(stored),
            _ => Err(Failure::end("The copy has no result")),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::command::storage::NfsTO;

    use super::*;

    fn nfs(role: StoreRole) -> DataStoreTO {
        DataStoreTO::Nfs(NfsTO { url: Some("nfs://h/e".into()), role: Some(role), ..NfsTO::default() })
    }

    fn s3() -> DataStoreTO {
        DataStoreTO::S3(Box::default())
    }

    fn snapshot(store: DataStoreTO) -> DataTO {
        let path = Some("snapshots/2/31/51ab".to_owned());
        DataTO::Snapshot(Box::new(SnapshotObjectTO { path, data_store: Some(store), ..Default::default() }))
    }

    fn template(store: DataStoreTO) -> DataTO {
        let path = Some("template/tmpl/2/201".to_owned());
        DataTO::Template(Box::new(TemplateObjectTO {
            path,
            image_data_store: Some(store),
            ..Default::default()
        }))
    }

    fn how(source: DataTO, destination: DataTO) -> Option<CopyHow> {
        let command =
            CopyCommand { source: Some(source), destination: Some(destination), ..CopyCommand::default() };
        plan(&command).map(|p| p.how)
    }

    #[test]
    fn what_is_copied_how() {
        use StoreRole::{Image, ImageCache, Primary};
        assert_eq!(how(snapshot(nfs(ImageCache)), snapshot(s3())), Some(CopyHow::File));
        assert_eq!(how(snapshot(nfs(Image)), snapshot(nfs(Image))), Some(CopyHow::Snapshot));
        let DataTO::Snapshot(mut xen) = snapshot(nfs(Image)) else { panic!() };
        xen.hypervisor_type = Some("XenServer".into());
        let xen = how(DataTO::Snapshot(xen), template(nfs(Image)));
        assert!(matches!(xen, Some(CopyHow::Flatten { .. })));
        assert_eq!(how(snapshot(s3()), snapshot(nfs(ImageCache))), Some(CopyHow::File));
        assert_eq!(how(template(nfs(Image)), template(nfs(Image))), Some(CopyHow::Folder));
        assert_eq!(how(template(nfs(Image)), template(s3())), Some(CopyHow::File));
        assert!(matches!(how(template(s3()), template(nfs(Image))), Some(CopyHow::Install { .. })));
        assert!(matches!(how(snapshot(nfs(Image)), template(s3())), Some(CopyHow::Template { .. })));
        assert_eq!(how(snapshot(s3()), template(s3())), None);
        assert_eq!(how(template(nfs(Primary)), template(s3())), None);
        assert_eq!(how(template(nfs(Image)), snapshot(s3())), None);
    }

    #[test]
    fn the_answer_always_has_a_size() {
        let command = CopyCommand {
            source: Some(template(nfs(StoreRole::Image))),
            destination: Some(template(s3())),
            ..CopyCommand::default()
        };
        let stored = Stored {
            path: StorePath::parse("template/tmpl/2/201/x.iso").unwrap(),
            virtual_size: 7,
            physical_size: 7,
            checksum: None,
            format: None,
            package: None,
        };
        let Some(DataTO::Template(new)) = new_data(&command, &stored) else { panic!() };
        assert_eq!((new.size, new.physical_size, new.format), (Some(7), Some(7), None));
    }
}
