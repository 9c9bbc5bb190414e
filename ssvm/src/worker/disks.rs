//! The disks of a package that has been taken apart, and templates of one of them each. A command that comes once more
//! finds what the one before it has done, however far it came.

use common::command::storage::{DatadiskTO, ImageFormat};
use tokio_util::sync::CancellationToken;

use super::{install::write, unpack::unpack};
use crate::{
    format::{LONGEST_DESCRIPTOR, data_disks, single_descriptor},
    layout::{Entry, Properties, StorePath},
    order::{DiskTask, Failure, Stored},
    store::{Found, Store},
};

/// What a descriptor is kept as that others are made of.
const ORIGINAL: &str = ".orig";
/// Most bytes of the compressed files of a package that another VM has put there.
const LARGEST: u64 = 500 << 30;

/// The disks of a package, in the order of the machine's hardware; paths are those below the store. A package that has
/// not been taken apart is.
pub(super) async fn list(
    store: &dyn Store,
    package: &StorePath,
    configuration: Option<&str>,
    abort: &CancellationToken,
) -> Result<Vec<DatadiskTO>, Failure> {
    let folder = package.parent().ok_or_else(|| Failure::end("a package without a folder"))?;
    let mut names = names(store, &folder).await?;
    if descriptor(&names).is_none() {
        let whole = names.iter().find(|name| *name == package.name());
        let whole = whole.or_else(|| names.iter().find(|name| ends(name, ".ova")));
        let whole = whole.ok_or_else(|| Failure::end(format!("{package} does not exist")))?;
        unpack(store, &folder.join(whole)?, LARGEST, abort).await?;
        names = self::names(store, &folder).await?;
    }
    let (_, text) = original(store, &folder, &names).await?.ok_or_else(|| {
        Failure::end(format!("Unable to locate OVF file in template package directory: {folder}"))
    })?;
    let mut disks = data_disks(&text, configuration).map_err(Failure::end)?;
    for disk in &mut disks {
        let Some(name) = &disk.path else { continue };
        let path = folder.join(name)?;
        let Found::File(size) = store.find(&path).await? else {
            let text = "One of the attached disk or iso as stated on OVF does not exists";
            return Err(Failure::end(format!("{text} {path}")));
        };
        disk.file_size = i64::try_from(size).unwrap_or(i64::MAX);
        if disk.is_iso {
            disk.virtual_size = disk.file_size;
        }
        disk.path = Some(path.into());
    }
    Ok(disks)
}

/// Makes a template of one disk. It is listed once all of it is there.
pub(super) async fn template(store: &dyn Store, task: &DiskTask) -> Result<Stored, Failure> {
    let nowhere = || Failure::end(format!("{} does not exist", task.disk));
    let from = task.disk.parent().ok_or_else(nowhere)?;
    let there = task.folder.join(task.disk.name())?;
    let (moved, size) = match (store.find(&task.disk).await?, store.find(&there).await?) {
        (Found::File(size), _) => (task.stays, size),
        (_, Found::File(size)) => (true, size),
        _ => return Err(nowhere()),
    };
    let mut found = None;
    for folder in [&from, &task.folder] {
        if found.is_none() {
            found = original(store, folder, &names(store, folder).await?).await?;
        }
    }
    let (descriptor, text) = found.ok_or_else(|| Failure::end(format!("{from} has no descriptor")))?;
    let single = single_descriptor(&text, task.disk.name()).map_err(Failure::end)?;

    let physical_size = if task.physical_size > 0 { task.physical_size } else { size };
    let virtual_size = if task.virtual_size > 0 { task.virtual_size } else { physical_size };
    let is_iso = ends(task.disk.name(), "iso");
    let package = format!("{}.ova", task.name);
    let meta = Properties::default()
        .with("ova.filename", &package)
        .with("version", "1.0")
        .with("ovf", &descriptor)
        .with("numDisks", "1")
        .with("disk1.name", task.disk.name())
        .with("disk1.size", &physical_size.to_string());
    let entry = Entry {
        filename: if is_iso { task.disk.name().to_owned() } else { package.clone() },
        description: String::new(),
        unique_name: task.name.clone(),
        id: task.id,
        hvm: false,
        format: if is_iso { ImageFormat::Iso } else { ImageFormat::Ova },
        virtual_size,
        physical_size,
        checksum: Some(String::new()),
    };
    let place = |name: &str| task.folder.join(name);
    let path = place(&entry.filename)?;
    let meta_path = place(&format!("{package}.meta"))?;
    write(store, &place(&format!("{descriptor}{ORIGINAL}"))?, text.into()).await?;
    write(store, &meta_path, meta.render().into()).await?;
    if !moved {
        store.rename(&task.disk, &there).await?;
    }
    write(store, &place(&descriptor)?, single.into()).await?;
    let properties = entry.properties().with("public", "false");
    write(store, &place("template.properties")?, properties.render().into()).await?;
    Ok(Stored {
        path,
        virtual_size,
        physical_size,
        checksum: None,
        format: Some(entry.format),
        package: None,
    })
}

fn ends(name: &str, extension: &str) -> bool {
    name.to_ascii_lowercase().ends_with(extension)
}

/// Names of the files in a folder, in their order.
async fn names(store: &dyn Store, folder: &StorePath) -> Result<Vec<String>, Failure> {
    let nodes = store.browse(Some(folder)).await?.unwrap_or_default();
    Ok(nodes.into_iter().filter(|node| !node.is_folder).map(|node| node.path.name().to_owned()).collect())
}

/// The descriptor among the files of a folder.
fn descriptor(names: &[String]) -> Option<&String> {
    names.iter().find(|name| ends(name, ".ovf"))
}

/// The descriptor of a folder as it was before it was one of a single disk, with its name. It is kept where it has not
/// been so far.
async fn original(
    store: &dyn Store,
    folder: &StorePath,
    names: &[String],
) -> Result<Option<(String, Vec<u8>)>, Failure> {
    if let Some(kept) = names.iter().find(|name| ends(name, ".ovf.orig")) {
        let name = kept[..kept.len() - ORIGINAL.len()].to_owned();
        return Ok(Some((name, text(store, &folder.join(kept)?).await?)));
    }
    let Some(name) = descriptor(names) else { return Ok(None) };
    let text = text(store, &folder.join(name)?).await?;
    write(store, &folder.join(&format!("{name}{ORIGINAL}"))?, text.clone().into()).await?;
    Ok(Some((name.clone(), text)))
}

/// The bytes of a descriptor.
pub(super) async fn text(store: &dyn Store, path: &StorePath) -> Result<Vec<u8>, Failure> {
    let mut source = store.open(path).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = source.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > LONGEST_DESCRIPTOR {
            return Err(Failure::end(format!("descriptor {path} is too long")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::store::{FolderStore, StoreSpec};

    const DESCRIPTOR: &str = r#"<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>
<File ovf:id="f1" ovf:href="a.vmdk"/><File ovf:id="f2" ovf:href="b.vmdk"/></References><DiskSection>
<Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="4096"/><Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="512"/>
</DiskSection><VirtualSystem ovf:id="vm"/></Envelope>"#;

    fn put(root: &Path) {
        let folder = root.join("template/tmpl/2/7");
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("vm.ovf", DESCRIPTOR), ("a.vmdk", "aaaa"), ("b.vmdk", "bb")] {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    fn task(disk: &str, id: i64, stays: bool) -> DiskTask {
        let path = |text: String| StorePath::parse(&text).unwrap();
        DiskTask {
            job: "j".into(),
            store: StoreSpec::Folder(String::new()),
            disk: path(format!("template/tmpl/2/7/{disk}")),
            folder: path(format!("template/tmpl/2/{id}")),
            stays,
            name: format!("t{id}"),
            id,
            virtual_size: 4096,
            physical_size: 0,
        }
    }

    /// All files below a folder, with what is in them.
    fn all(root: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(all(&path));
            } else {
                found.push((path.to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
        found.sort();
        found
    }

    async fn open(root: &Path) -> FolderStore {
        FolderStore::open(root.to_str().unwrap(), "j").await.unwrap()
    }

    #[tokio::test]
    async fn disks_are_listed_and_become_templates_once() {
        let root = tempfile::tempdir().unwrap();
        put(root.path());
        let store = open(root.path()).await;
        let package = StorePath::parse("template/tmpl/2/7/t7.ova").unwrap();
        let disks = list(&store, &package, None, &CancellationToken::new()).await.unwrap();
        let shown: Vec<_> =
            disks.iter().map(|d| (d.path.as_deref().unwrap(), d.file_size, d.bootable)).collect();
        assert_eq!(shown, [("template/tmpl/2/7/a.vmdk", 4, true), ("template/tmpl/2/7/b.vmdk", 2, false)]);
        for (disk, id, stays) in [("b.vmdk", 8, false), ("a.vmdk", 7, true)] {
            let first = template(&store, &task(disk, id, stays)).await.unwrap();
            let files = all(root.path());
            assert_eq!(template(&store, &task(disk, id, stays)).await.unwrap(), first, "again");
            assert_eq!(all(root.path()), files);
        }
        let names = names(&store, &StorePath::parse("template/tmpl/2/8").unwrap()).await.unwrap();
        assert_eq!(names, ["b.vmdk", "t8.ova.meta", "template.properties", "vm.ovf", "vm.ovf.orig"]);
        assert_eq!(fs::read(root.path().join("template/tmpl/2/8/b.vmdk")).unwrap(), b"bb");
        assert!(
            template(&store, &task("c.vmdk", 9, false)).await.unwrap_err().text.contains("does not exist")
        );
        // What the descriptor does not name is not moved.
        let evil = template(&store, &task("template.properties", 9, false)).await.unwrap_err();
        assert!(evil.text.contains("no file"), "{evil}");
        fs::remove_file(root.path().join("template/tmpl/2/7/a.vmdk")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("template/tmpl/2/7/a.vmdk")).unwrap();
        assert!(template(&store, &task("a.vmdk", 9, false)).await.is_err(), "a link is no disk");
        let gone = list(&store, &package, None, &CancellationToken::new()).await.unwrap_err();
        assert!(gone.text.starts_with("One of the attached disk or iso"), "{gone}");
    }

    #[tokio::test]
    async fn an_iso_of_a_package_becomes_a_template_that_is_one() {
        let root = tempfile::tempdir().unwrap();
        put(root.path());
        let folder = root.path().join("template/tmpl/2/7");
        let file = r#"<File ovf:id="f3" ovf:href="cd.iso"/></References>"#;
        fs::write(folder.join("vm.ovf"), DESCRIPTOR.replace("</References>", file)).unwrap();
        fs::write(folder.join("cd.iso"), "iso").unwrap();
        let store = open(root.path()).await;
        let package = StorePath::parse("template/tmpl/2/7/t7.ova").unwrap();
        let disks = list(&store, &package, None, &CancellationToken::new()).await.unwrap();
        let iso = disks.last().unwrap();
        assert_eq!((iso.is_iso, iso.bootable, iso.virtual_size), (true, false, 3), "{iso:?}");
        for _ in 0..2 {
            let task = DiskTask { virtual_size: 3, ..task("cd.iso", 9, false) };
            let made = template(&store, &task).await.unwrap();
            assert_eq!(
                (made.path.as_str(), made.format),
                ("template/tmpl/2/9/cd.iso", Some(ImageFormat::Iso))
            );
            assert_eq!((made.virtual_size, made.physical_size), (3, 3));
        }
        let text = fs::read(root.path().join("template/tmpl/2/9/template.properties")).unwrap();
        let properties = Properties::parse(&text);
        for (key, value) in [
            ("filename", "cd.iso"),
            ("iso", "true"),
            ("iso.filename", "cd.iso"),
            ("iso.size", "3"),
            ("uniquename", "t9"),
            ("id", "9"),
            ("public", "false"),
        ] {
            assert_eq!(properties.get(key), Some(value), "{key}");
        }
        let listed = crate::worker::list::images(&store, crate::order::Images::Templates).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|t| (&*t.install_path, t.size, t.is_corrupted)).collect();
        assert_eq!(listed, [("template/tmpl/2/9/cd.iso", 3, false)]);
    }

    proptest! {
        /// Whichever files of a finished template are missing or half done: the command makes it whole.
        #[test]
        fn a_command_goes_on_where_another_one_died(missing in prop::collection::vec(any::<bool>(), 5)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let root = tempfile::tempdir().unwrap();
                put(root.path());
                let store = open(root.path()).await;
                template(&store, &task("b.vmdk", 8, false)).await.unwrap();
                let whole = all(root.path());
                // In the order in which they are made, the last ones go.
                let made = ["vm.ovf.orig", "t8.ova.meta", "b.vmdk", "vm.ovf", "template.properties"];
                let keep = missing.iter().filter(|m| !**m).count();
                for name in &made[keep..] {
                    let file = root.path().join("template/tmpl/2/8").join(name);
                    if *name == "b.vmdk" {
                        fs::rename(file, root.path().join("template/tmpl/2/7/b.vmdk")).unwrap();
                    } else {
                        fs::remove_file(file).unwrap();
                    }
                }
                template(&store, &task("b.vmdk", 8, false)).await.unwrap();
                assert_eq!(all(root.path()), whole);
            });
        }
    }
}
