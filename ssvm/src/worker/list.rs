//! What is installed in a store.

use common::command::storage::TemplateProp;

use super::{disks::text, install::read_properties};
use crate::{
    format::{LONGEST_DESCRIPTOR, read_descriptor},
    layout::{StorePath, entry_of},
    order::{Failure, Images, Page},
    store::{Found, Listed, Node, Store, StoreError, job_of_temporary},
};

/// Lists templates or volumes: all of them, or a failure.
pub(super) async fn images(store: &dyn Store, what: Images) -> Result<Vec<TemplateProp>, Failure> {
    let (folder, file) = match what {
        Images::Templates => ("template/tmpl", "template.properties"),
        Images::Volumes => ("volumes", "volume.properties"),
    };
    let files = store.list(&StorePath::parse(folder)?).await?;
    if store.has_properties() { described(store, files, file).await } else { Ok(keyed(files, what)) }
}

/// A part of a folder.
pub(super) async fn page(
    store: &dyn Store,
    path: Option<&StorePath>,
    start: usize,
    most: usize,
) -> Result<Page, Failure> {
    let Some(nodes) = store.browse(path).await? else { return Ok(Page::default()) };
    let count = nodes.len();
    Ok(Page { exists: true, count, entries: nodes.into_iter().skip(start).take(most).collect() })
}

/// The files of a snapshot: itself, or what lies in the folder of one that has several.
pub(super) async fn parts(store: &dyn Store, path: &StorePath) -> Result<Vec<StorePath>, Failure> {
    if let Found::File(_) = store.find(path).await? {
        return Ok(vec![path.clone()]);
    }
    let nodes = match path.parent() {
        Some(folder) => store.browse(Some(&folder)).await?.unwrap_or_default(),
        None => Vec::new(),
    };
    let whole = |node: &Node| !node.is_folder && job_of_temporary(node.path.name()).is_none();
    let files: Vec<StorePath> = nodes.into_iter().filter(whole).map(|node| node.path).collect();
    // A snapshot that is not there has neighbours all the same.
    let first = format!("{}.", path.name());
    Ok(if files.iter().any(|file| file.name().starts_with(&first)) { files } else { Vec::new() })
}

/// Entries of a store whose images are described by property files.
async fn described(store: &dyn Store, files: Vec<Listed>, name: &str) -> Result<Vec<TemplateProp>, Failure> {
    let mut found = Vec::new();
    for file in files.into_iter().filter(|f| f.path.name() == name) {
        let properties = match read_properties(store, &file.path).await {
            Ok(properties) => properties,
            // Removed by another host meanwhile.
            Err(_) if matches!(store.open(&file.path).await, Err(StoreError::Missing(_))) => continue,
            Err(failure) => return Err(failure),
        };
        let Some(folder) = file.path.parent() else { continue };
        let Some(mut entry) = entry_of(&folder, &properties) else { continue };
        // Who has put a package there by hand knows its bytes, and not those of its disks.
        if entry.install_path.ends_with(".ova")
            && entry.size == entry.physical_size
            && let Some(size) = size_of_disks(store, &folder).await?
        {
            entry.size = size;
        }
        found.push(entry);
    }
    Ok(found)
}

/// Bytes of the disks that a package's descriptor tells of; `None` where there is none that can be read.
async fn size_of_disks(store: &dyn Store, folder: &StorePath) -> Result<Option<i64>, Failure> {
    let nodes = store.browse(Some(folder)).await?.unwrap_or_default();
    let descriptor = nodes.iter().find(|node| node.path.name().ends_with(".ovf") && !node.is_folder);
    let Some(descriptor) = descriptor.filter(|node| node.size <= LONGEST_DESCRIPTOR) else { return Ok(None) };
    let told = read_descriptor(&text(store, &descriptor.path).await?);
    Ok(match told {
        Ok(told) => {
            told.disks.iter().try_fold(0, |sum: i64, disk| sum.checked_add(disk.capacity.try_into().ok()?))
        }
        Err(reason) => {
            tracing::warn!(path = %descriptor.path, reason, "the sizes of a package's disks are not known");
            None
        }
    }
    .filter(|size| *size > 0))
}

/// Entries of a store whose keys tell everything: `…/<unique name>/<file>`, `volumes/<account>/<id>/<file>`.
fn keyed(files: Vec<Listed>, what: Images) -> Vec<TemplateProp> {
    let entry = |file: Listed| {
        let folder = file.path.parent()?;
        let size = i64::try_from(file.size).ok()?;
        let id = match what {
            Images::Templates => 0,
            Images::Volumes => folder.name().parse().ok()?,
        };
        Some(TemplateProp {
            template_name: folder.name().to_owned(),
            install_path: file.path.to_string(),
            size,
            physical_size: size,
            id,
            is_public: true,
            is_corrupted: false,
        })
    };
    files.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::store::{
        FolderStore,
        failing::{FailingStore, Fault},
    };

    #[tokio::test]
    async fn a_listing_is_never_a_part() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("template/tmpl/2/201")).unwrap();
        let open = async || FolderStore::open(folder.path().to_str().unwrap(), "none").await.unwrap();
        let store = open().await;
        assert_eq!(images(&store, Images::Templates).await.unwrap(), []);
        assert_eq!(images(&store, Images::Volumes).await.unwrap(), []);
        let failing = FailingStore { inner: Box::new(store), fault: Fault::List, aborted: Arc::default() };
        assert!(images(&failing, Images::Templates).await.is_err());
        let properties = folder.path().join("template/tmpl/2/201/template.properties");
        fs::write(&properties, vec![b'#'; 100_000]).unwrap();
        assert_eq!(images(&open().await, Images::Templates).await.unwrap(), [], "not the work of an install");
    }

    #[tokio::test]
    async fn what_is_listed_of_a_package_are_its_disks() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("template/tmpl/1/8");
        fs::create_dir_all(&folder).unwrap();
        let descriptor = |systems: &str| {
            format!(
                r#"<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References/><DiskSection>
<Disk ovf:diskId="d1" ovf:capacity="5" ovf:capacityAllocationUnits="byte * 2^30"/>
<Disk ovf:diskId="d2" ovf:capacity="512"/></DiskSection>{systems}</Envelope>"#
            )
        };
        let listed = async |size: &str, text: &str| {
            let properties = format!(
                "uniquename=routing-8\nfilename=x.ova\nova=true\nova.filename=x.ova\nova.size=1000\n\
                 ova.virtualsize={size}\nvirtualsize={size}\nsize=1000\nid=8\n"
            );
            fs::write(folder.join("template.properties"), properties).unwrap();
            fs::write(folder.join("x.ovf"), text).unwrap();
            let store = FolderStore::open(root.path().to_str().unwrap(), "none").await.unwrap();
            images(&store, Images::Templates).await.unwrap().remove(0).size
        };
        let good = descriptor(r#"<VirtualSystem ovf:id="vm"/>"#);
        assert_eq!(listed("1000", &good).await, (5 << 30) + 512);
        assert_eq!(listed("2000", &good).await, 2000, "it was told");
        assert_eq!(listed("1000", &descriptor("")).await, 1000, "a descriptor of no machine");
        fs::remove_file(folder.join("x.ovf")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("x.ovf")).unwrap();
        let store = FolderStore::open(root.path().to_str().unwrap(), "none").await.unwrap();
        assert_eq!(images(&store, Images::Templates).await.unwrap()[0].size, 1000, "links are nothing");
    }

    #[test]
    fn keys_tell_name_and_number() {
        let file = |path: &str| Listed { path: StorePath::parse(path).unwrap(), size: 5 };
        let templates = keyed(vec![file("template/tmpl/2/201/201-2-a/x.qcow2")], Images::Templates);
        assert_eq!((templates[0].template_name.as_str(), templates[0].size), ("201-2-a", 5));
        let volumes = vec![file("volumes/2/31/x.qcow2"), file("volumes/2/none/x.qcow2")];
        let volumes = keyed(volumes, Images::Volumes);
        assert_eq!((volumes.len(), volumes[0].id), (1, 31));
    }
}
