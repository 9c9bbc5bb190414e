//! Work on what a store holds already.

use std::{fs, os::unix::fs::PermissionsExt as _};

use common::command::{
    Secret,
    agent::Answer,
    storage::{
        DeleteSnapshotsDirCommand, HandleConfigDriveIsoAnswer, HandleConfigDriveIsoCommand,
        ListDataStoreObjectsAnswer, ListDataStoreObjectsCommand, MoveVolumeCommand,
        QuerySnapshotZoneCopyAnswer, QuerySnapshotZoneCopyCommand, SnapshotObjectTO, StoreRole,
    },
};

use tests::lab::ssvm::{Lab, in_lab, in_lab_with_s3};

/// Puts a small file into the export, as a hypervisor would that runs as root.
fn put(lab: &Lab, path: &str) {
    let file = lab.file("a", path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "abc").unwrap();
}

#[test]
fn all_snapshots_of_a_volume_go() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        for file in ["51ab", "51ac.vhd", "c0de/c0de.ovf", "c0de/c0de-disk0.vmdk"] {
            put(&lab, &format!("snapshots/2/31/{file}"));
        }
        put(&lab, "snapshots/2/32/neighbour");
        fs::create_dir(lab.file("a", "snapshots/2/31/empty")).unwrap();
        let delete = |store, directory: &str| DeleteSnapshotsDirCommand {
            store: Some(store),
            directory: Some(directory.into()),
            ..Default::default()
        };
        let nfs = || lab.nfs("a", StoreRole::Image);
        for _ in 0..2 {
            let answer: Answer = lab.answer(&delete(nfs(), "snapshots/2/31")).await;
            assert!(answer.answer.result, "{answer:?}");
            assert!(!lab.file("a", "snapshots/2/31").exists());
        }
        assert_eq!(lab.files("snapshots/2"), ["32"]);
        for bad in ["snapshots/2", "snapshots", "volumes/2/31", "../x/y", "snapshots/../../x"] {
            let answer: Answer = lab.answer(&delete(nfs(), bad)).await;
            assert!(!answer.answer.result, "{bad}");
        }
        for key in ["snapshots/2/31/51ab", "snapshots/2/31/51ac", "snapshots/2/310/51ab"] {
            lab.s3_put(key);
        }
        let answer: Answer = lab.answer(&delete(lab.s3(), "snapshots/2/31")).await;
        assert!(answer.answer.result, "{answer:?}");
        assert_eq!(lab.s3_keys(), ["snapshots/2/310/51ab"]);
    });
}

#[test]
fn a_volume_changes_its_owner() {
    in_lab(async |lab| {
        lab.ready().await;
        put(&lab, "volumes/2/7/x.qcow2");
        put(&lab, "volumes/4/8/x.qcow2");
        let moved = |to: &str| MoveVolumeCommand {
            src_path: Some("volumes/2/7".into()),
            dest_path: Some(to.into()),
            volume_name: Some("data".into()),
            volume_uuid: Some("0b1c".into()),
            datastore_uri: Some("nfs://10.1.1.7/a".into()),
            ..Default::default()
        };
        for bad in ["volumes/4/8", "volumes/4", "volumes/../../x", "snapshots/4/7"] {
            let answer: Answer = lab.answer(&moved(bad)).await;
            assert!(!answer.answer.result, "{bad}");
        }
        assert!(lab.file("a", "volumes/2/7/x.qcow2").exists());
        let answer: Answer = lab.answer(&moved("volumes/3/7")).await;
        let text = answer.answer.details.unwrap();
        assert!(answer.answer.result, "{text}");
        assert!(text.ends_with(" from [volumes/2/7] to [volumes/3/7]."), "{text}");
        assert!(lab.file("a", "volumes/3/7/x.qcow2").exists() && !lab.file("a", "volumes/2/7").exists());
    });
}

#[test]
fn an_operator_browses_a_store() {
    in_lab(async |lab| {
        lab.ready().await;
        for number in 0..5 {
            put(&lab, &format!("template/tmpl/2/20{number}/x.qcow2"));
        }
        std::os::unix::fs::symlink("/etc", lab.file("a", "template/tmpl/2/link")).unwrap();
        let page = async |path: &str, start, size| {
            let command = ListDataStoreObjectsCommand {
                store: Some(lab.nfs("a", StoreRole::Image)),
                path: Some(path.into()),
                start_index: start,
                page_size: size,
                ..Default::default()
            };
            lab.answer::<_, ListDataStoreObjectsAnswer>(&command).await
        };
        let root = page("", 0, 50).await;
        assert_eq!(root.names, ["snapshots", "template", "volumes"]);
        let mut seen = Vec::new();
        for start in [0, 2, 4] {
            let part = page("/template/tmpl/2/", start, 2).await;
            assert!(part.path_exists && part.count == 5, "{part:?}");
            seen.extend(part.names);
        }
        assert_eq!(seen, ["200", "201", "202", "203", "204"]);
        let file = page("template/tmpl/2/200/x.qcow2", 0, 10).await;
        assert_eq!((file.count, &*file.sizes, &*file.is_dirs), (1, &[3][..], &[false][..]));
        assert_eq!(file.paths, ["/template/tmpl/2/200/x.qcow2"]);
        assert!(file.abs_paths[0].ends_with("35fe9b/template/tmpl/2/200/x.qcow2"), "{file:?}");
        assert!(file.last_modified[0] > 1_600_000_000_000);
        for missing in ["nothing/here", "template/tmpl/2/link", "template/tmpl/2/link/passwd"] {
            let none = page(missing, 0, 10).await;
            assert!(!none.path_exists && none.names.is_empty(), "{none:?}");
        }
        assert!(!page("../..", 0, 10).await.answer.result);
    });
}

#[test]
fn the_files_of_a_snapshot() {
    in_lab(async |lab| {
        lab.ready().await;
        for file in ["51ab", "51ac", "c0de/c0de.ovf", "c0de/c0de-disk0.vmdk"] {
            put(&lab, &format!("snapshots/2/31/{file}"));
        }
        let files = async |path: &str| {
            let snapshot = SnapshotObjectTO {
                path: Some(path.into()),
                data_store: Some(lab.nfs("a", StoreRole::Image)),
                ..Default::default()
            };
            let command =
                QuerySnapshotZoneCopyCommand { snapshot: Some(Box::new(snapshot)), ..Default::default() };
            lab.answer::<_, QuerySnapshotZoneCopyAnswer>(&command).await
        };
        assert_eq!(files("snapshots/2/31/51ab").await.files, ["snapshots/2/31/51ab"]);
        assert_eq!(
            files("snapshots/2/31/c0de/c0de").await.files,
            ["snapshots/2/31/c0de/c0de-disk0.vmdk", "snapshots/2/31/c0de/c0de.ovf"]
        );
        for bad in ["snapshots/2/99/x", "../../etc/passwd", ""] {
            assert!(!files(bad).await.answer.result, "{bad}");
        }
    });
}

#[test]
fn configuration_drives_come_and_go() {
    in_lab(async |lab| {
        lab.ready().await;
        let command = |file: &str, data: Option<&str>, create| HandleConfigDriveIsoCommand {
            iso_file: Some(file.into()),
            iso_data: data.map(Secret::new),
            create,
            dest_store: Some(lab.nfs("a", StoreRole::Image)),
            ..Default::default()
        };
        let good = "configdrive/i-2-7-VM.iso";
        for (data, expected) in [("aXNv", "iso"), ("YW5vdGhlcg==", "another")] {
            let answer: HandleConfigDriveIsoAnswer = lab.answer(&command(good, Some(data), true)).await;
            assert!(answer.answer.result && answer.location == "SECONDARY", "{answer:?}");
            assert_eq!(fs::read_to_string(lab.file("a", good)).unwrap(), expected);
        }
        assert_eq!(lab.files("configdrive"), ["i-2-7-VM.iso"]);
        assert_eq!(fs::metadata(lab.file("a", good)).unwrap().permissions().mode() & 0o777, 0o666);
        for (file, data) in [
            (good, None),
            (good, Some("no base64!")),
            ("../evil.iso", Some("aXNv")),
            ("configdrive/../../evil.iso", Some("aXNv")),
            ("template/tmpl/2/x.iso", Some("aXNv")),
        ] {
            let answer: HandleConfigDriveIsoAnswer = lab.answer(&command(file, data, true)).await;
            assert!(!answer.answer.result && answer.location == "SECONDARY", "{file}: {answer:?}");
        }
        assert_eq!(fs::read_to_string(lab.file("a", good)).unwrap(), "another", "what was there stays");
        for _ in 0..2 {
            let answer: HandleConfigDriveIsoAnswer = lab.answer(&command(good, None, false)).await;
            assert!(answer.answer.result, "{answer:?}");
        }
        assert_eq!(lab.files("configdrive"), [""; 0]);
    });
}
