//! Packages (OVA): what their descriptors tell, and commands about their disks.

use std::time::Duration;

use common::{
    channel::message::{AnswerBase, Message},
    command::storage::{
        CreateDatadiskTemplateAnswer, CreateDatadiskTemplateCommand, DataStoreTO, DataTO, DatadiskTO,
        GetDatadisksAnswer, GetDatadisksCommand, TemplateObjectTO,
    },
};

use super::{Core, jobs::new_id};
use crate::{
    layout::StorePath,
    order::{DiskTask, Failure, Outcome, Stored, Task},
    store::StoreSpec,
};

/// Where the management server sees stores on this VM.
const MOUNTS: &str = "/mnt/SecStorage";
/// Longest time for a package to be taken apart.
const UNPACK: Duration = Duration::from_secs(3600);
/// What is said of a store that is no export.
const NOT_HERE: &str = "Unsupported protocol";

/// Name of the mount folder of a store; `None` for a bucket.
fn mount_of(store: &StoreSpec) -> Option<&str> {
    match store {
        StoreSpec::Folder(root) => root.rsplit('/').next(),
        StoreSpec::Bucket(_) => None,
    }
}

/// A path below a store as the management server sees it.
fn shown(store: &StoreSpec, path: &str) -> String {
    match mount_of(store) {
        Some(mount) => format!("{MOUNTS}/{mount}/{path}"),
        None => path.to_owned(),
    }
}

/// What a shown path is below its store.
fn below(store: &StoreSpec, path: &str) -> Result<StorePath, Failure> {
    let relative = match path.strip_prefix('/') {
        None => path,
        Some(_) => path
            .strip_prefix(MOUNTS)
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
            .filter(|(mount, _)| Some(*mount) == mount_of(store))
            .map(|(_, rest)| rest)
            .ok_or_else(|| Failure::end(format!("{path:?} does not lie in the store of the template")))?,
    };
    file_of_template(StorePath::parse(relative)?)
}

/// A path that is one of a file in the folder of a template.
fn file_of_template(path: StorePath) -> Result<StorePath, Failure> {
    let count = path.components().count();
    if path.removable().is_ok() && path.components().next() == Some("template") && count == 5 {
        return Ok(path);
    }
    Err(Failure::end(format!("path {path} is refused: it is not the file of a template")))
}

/// Puts the disks that a package tells of where it has been taken apart.
pub(super) fn place(stored: &mut Stored, store: &StoreSpec) {
    let (Some(package), Some(folder)) = (&mut stored.package, stored.path.parent()) else { return };
    for disk in &mut package.disks {
        if let Some(path) = &mut disk.path {
            *path = shown(store, &format!("{folder}/{path}"));
        }
    }
}

impl Core {
    /// Tells which disks a package has.
    pub(super) async fn data_disks(&self, command: GetDatadisksCommand) -> Message {
        let answer = match self.disks_of(&command).await {
            Ok(data_disk_details) => GetDatadisksAnswer { data_disk_details, answer: AnswerBase::ok() },
            Err(failure) if failure.text == NOT_HERE => GetDatadisksAnswer {
                answer: AnswerBase::failed(failure.text),
                ..GetDatadisksAnswer::default()
            },
            Err(failure) => {
                let path = command.data.as_ref().and_then(DataTO::path).unwrap_or_default();
                tracing::warn!(path, reason = failure.text, "the disks of a package are not known");
                let text = format!("Failed to get disks from template [{path}] due to [{}].", failure.text);
                GetDatadisksAnswer { answer: AnswerBase::failed(text), ..GetDatadisksAnswer::default() }
            }
        };
        Message::wrap(&answer)
    }

    async fn disks_of(&self, command: &GetDatadisksCommand) -> Result<Vec<DatadiskTO>, Failure> {
        let (template, store) = self.template(command.data.as_ref()).await?;
        let given = StorePath::parse(template.path.as_deref().unwrap_or_default())?;
        let package = if given.name().to_ascii_lowercase().ends_with(".ova") {
            given
        } else {
            given.join(&format!("{}.ova", template.name.as_deref().unwrap_or_default()))?
        };
        let package = file_of_template(package)?;
        let (job, configuration) = (new_id(), command.configuration_id.clone());
        let task = Task::Disks { store: store.clone(), job, package, configuration };
        match self.short(task, UNPACK).await? {
            Outcome::Disks(mut disks) => {
                for path in disks.iter_mut().filter_map(|disk| disk.path.as_mut()) {
                    *path = shown(&store, path);
                }
                Ok(disks)
            }
            _ => Err(Failure::end("no result")),
        }
    }

    /// The template of a command and its store, which must be an export.
    async fn template<'a>(
        &self,
        data: Option<&'a DataTO>,
    ) -> Result<(&'a TemplateObjectTO, StoreSpec), Failure> {
        let Some(DataTO::Template(template)) = data else {
            return Err(Failure::end("the command names no template"));
        };
        let Some(named @ DataStoreTO::Nfs(_)) = &template.image_data_store else {
            return Err(Failure::end(NOT_HERE));
        };
        Ok((template, self.store(named, None).await?))
    }

    /// Makes a template of one disk of a package.
    pub(super) async fn create_data_disk(&self, command: CreateDatadiskTemplateCommand) -> Message {
        let answer = match self.template_of_disk(&command).await {
            Ok(template) => CreateDatadiskTemplateAnswer {
                data_disk_template: Some(Box::new(template)),
                answer: AnswerBase::ok(),
            },
            Err(failure) => {
                let text = match failure.text.as_str() {
                    NOT_HERE => failure.text,
                    _ => format!("Create Datadisk template failed due to {}", failure.text),
                };
                tracing::warn!(path = command.path, reason = text, "no template of a disk");
                CreateDatadiskTemplateAnswer { answer: AnswerBase::failed(text), ..Default::default() }
            }
        };
        Message::wrap(&answer)
    }

    async fn template_of_disk(
        &self,
        command: &CreateDatadiskTemplateCommand,
    ) -> Result<TemplateObjectTO, Failure> {
        let (template, store) = self.template(command.data_disk_template.as_ref()).await?;
        let disk = below(&store, command.path.as_deref().unwrap_or_default())?;
        let folder = StorePath::parse(&format!("template/tmpl/{}/{}", template.account_id, template.id))?;
        if (disk.parent().as_ref() == Some(&folder)) != command.bootable {
            let where_to = if command.bootable { "stays where it is, in" } else { "cannot go into" };
            return Err(Failure::end(format!("disk {disk} {where_to} {folder}")));
        }
        let name = template.unique_name.as_ref().or(template.name.as_ref()).filter(|name| !name.is_empty());
        let task = Task::Disk(Box::new(DiskTask {
            job: new_id(),
            store,
            disk,
            folder,
            stays: command.bootable,
            name: name.ok_or_else(|| Failure::end("the template has no name"))?.clone(),
            id: template.id,
            virtual_size: template.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            physical_size: u64::try_from(command.file_size).unwrap_or(0),
        }));
        match self.short(task, Self::SHORT).await? {
            Outcome::Stored(stored) => {
                let bytes = |n: u64| i64::try_from(n).ok();
                Ok(TemplateObjectTO {
                    id: template.id,
                    path: Some(stored.path.into()),
                    size: bytes(stored.virtual_size),
                    physical_size: bytes(stored.physical_size),
                    ..TemplateObjectTO::default()
                })
            }
            _ => Err(Failure::end("no result")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_lie_in_the_folder_of_a_template() {
        let store = StoreSpec::Folder("/run/x/cf09".into());
        let good = "template/tmpl/2/7/a.vmdk";
        for path in [good.to_owned(), shown(&store, good)] {
            assert_eq!(below(&store, &path).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/etc/passwd",
            "/mnt/SecStorage/other/template/tmpl/2/7/a.vmdk",
            "/mnt/SecStorage/cf09/../cf09/template/tmpl/2/7/a.vmdk",
            "/mnt/SecStorage/cf09/template/tmpl/2/7",
            "/mnt/SecStorage/cf09/template/tmpl/2/7/../8/a.vmdk",
            "/mnt/SecStorage/cf09/volumes/2/7/b/a.vmdk",
            "/mnt/SecStorage/cf09/template/tmpl/2/7/b/a.vmdk",
            "/run/x/cf09/template/tmpl/2/7/a.vmdk",
        ] {
            assert!(below(&store, bad).is_err(), "{bad}");
        }
    }
}
