//! What is installed in a store.

use common::command::storage::TemplateProp;

use super::install::read_properties;
use crate::{
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
        found.extend(entry_of(&folder, &properties));
    }
    Ok(found)
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
