//! Copies between stores and deletions, with a real S3 server.

use std::fs;

use common::command::{
    agent::{Answer, UnsupportedAnswer},
    storage::{
        CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, DeleteCommand, DownloadStatus, ImageFormat,
        ListTemplateAnswer, ListTemplateCommand, SecStorageSetupAnswer, SnapshotObjectTO, StoreRole,
        TemplateObjectTO,
    },
};

use super::{
    lab::{Bench, disk, on_bench, template, tool},
    origin::{Act, Origin},
};

fn snapshot(store: DataStoreTO, path: &str) -> DataTO {
    let path = Some(path.to_owned());
    DataTO::Snapshot(Box::new(SnapshotObjectTO {
        path,
        data_store: Some(store),
        id: 12,
        ..Default::default()
    }))
}

fn image(store: DataStoreTO, path: &str) -> DataTO {
    DataTO::Template(Box::new(TemplateObjectTO {
        path: Some(path.to_owned()),
        image_data_store: Some(store),
        id: 201,
        name: Some("201-2-0b1c2d3e".into()),
        format: Some(ImageFormat::Qcow2),
        ..Default::default()
    }))
}

async fn copied(bench: &Bench, source: DataTO, destination: DataTO) -> DataTO {
    let command =
        CopyCommand { source: Some(source), destination: Some(destination), ..CopyCommand::default() };
    let answer: CopyCmdAnswer = bench.answer(&command).await;
    assert!(answer.answer.result, "{answer:?}\n{}", bench.serve.output());
    answer.new_data.unwrap()
}

#[test]
fn templates_and_snapshots_go_to_an_object_store_and_back() {
    on_bench(async |bench| {
        bench.start_s3();
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = bench.answer(&bench.set_up(export)).await;
        }
        // A snapshot large enough for several parts.
        let snap = bench.file("a", "snapshots/2/31/51ab");
        fs::create_dir_all(snap.parent().unwrap()).unwrap();
        fs::copy(disk(bench.folder.path(), "qcow2", 21), &snap).unwrap();
        let there = copied(
            &bench,
            snapshot(bench.nfs("a", StoreRole::ImageCache), "snapshots/2/31/51ab"),
            snapshot(bench.s3(), "snapshots/2/31"),
        )
        .await;
        assert_eq!(there.path(), Some("snapshots/2/31/51ab"));
        assert!(bench.s3_request("", "snapshots/2/31/51ab") == fs::read(&snap).unwrap());
        let back = copied(
            &bench,
            snapshot(bench.s3(), "snapshots/2/31/51ab"),
            snapshot(bench.nfs("b", StoreRole::ImageCache), "snapshots/2/32"),
        )
        .await;
        assert_eq!(back.path(), Some("snapshots/2/32/51ab"));
        tool("cmp", &[snap.to_str().unwrap(), bench.file("b", "snapshots/2/32/51ab").to_str().unwrap()]);

        // A template straight into the bucket, then into a folder.
        let disk = disk(bench.folder.path(), "qcow2", 12);
        let origin = Origin::start(vec![Act::Serve(std::sync::Arc::new(fs::read(&disk).unwrap()))]).await;
        let command =
            template(bench.s3(), 201, &format!("{}/disk.qcow2?sig=x", origin.url), ImageFormat::Qcow2);
        let answer = bench.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        let key = "template/tmpl/2/201/201-2-0b1c2d3e/disk.qcow2";
        assert_eq!(answer.install_path.as_deref(), Some(key));
        assert_eq!(answer.template_size, 12 << 20);
        assert!(bench.s3_request("", key) == fs::read(&disk).unwrap());
        let DataTO::Template(new) = copied(
            &bench,
            image(bench.s3(), key),
            image(bench.nfs("b", StoreRole::ImageCache), "template/tmpl/2/201"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.size, Some(12 << 20));
        let installed = bench.file("b", new.path.as_deref().unwrap());
        tool(
            "qemu-img",
            &["compare", "-f", "qcow2", "-F", "qcow2", disk.to_str().unwrap(), installed.to_str().unwrap()],
        );
        let list = |store| ListTemplateCommand { store: Some(store), ..Default::default() };
        let listed: ListTemplateAnswer = bench.answer(&list(bench.nfs("b", StoreRole::Image))).await;
        assert!(listed.template_infos.contains_key("201-2-0b1c2d3e"));
        let listed: ListTemplateAnswer = bench.answer(&list(bench.s3())).await;
        assert_eq!(listed.template_infos["201-2-0b1c2d3e"].install_path, key);

        // A hostile one never appears in the bucket, and nothing half done stays.
        let hostile = bench.folder.path().join("h.qcow2");
        tool(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-u", "-b", "x", "-F", "raw", hostile.to_str().unwrap(), "1G"],
        );
        let origin = Origin::start(vec![Act::Serve(std::sync::Arc::new(fs::read(&hostile).unwrap()))]).await;
        let command = template(bench.s3(), 202, &format!("{}/h.qcow2", origin.url), ImageFormat::Qcow2);
        assert_eq!(bench.download(&command).await.download_status, DownloadStatus::DownloadError);
        assert!(!bench.s3_keys().contains("h.qcow2"));
        assert!(!String::from_utf8(bench.s3_request("", "?uploads=")).unwrap().contains("<Upload>"));

        // Deleting a key spares its neighbours.
        bench.s3_request("-X PUT -d x", "snapshots/2/31/51ab2");
        let delete =
            DeleteCommand { data: Some(snapshot(bench.s3(), "snapshots/2/31/51ab")), ..Default::default() };
        assert!(bench.answer::<_, Answer>(&delete).await.answer.result);
        let keys = bench.s3_keys();
        assert!(!keys.contains("<Key>snapshots/2/31/51ab</Key>") && keys.contains("51ab2"), "{keys}");
        for secret in ["secret-of-the-suite", "sig=x"] {
            assert!(!bench.core.output().contains(secret) && !bench.serve.output().contains(secret));
        }
    });
}

#[test]
fn a_template_moves_from_export_to_export_with_its_folder() {
    on_bench(async |bench| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = bench.answer(&bench.set_up(export)).await;
        }
        let disk = disk(bench.folder.path(), "qcow2", 3);
        let origin = Origin::start(vec![Act::Serve(std::sync::Arc::new(fs::read(&disk).unwrap()))]).await;
        let command = template(
            bench.nfs("a", StoreRole::Image),
            201,
            &format!("{}/disk.qcow2", origin.url),
            ImageFormat::Qcow2,
        );
        let path = bench.download(&command).await.install_path.unwrap();
        let link = bench.file("a", "template/tmpl/2/201/link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let DataTO::Template(new) = copied(
            &bench,
            image(bench.nfs("a", StoreRole::Image), &path),
            image(bench.nfs("b", StoreRole::Image), "template/tmpl/2/201"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.path.as_deref(), Some(path.as_str()));
        assert_eq!((new.size, new.format), (Some(3 << 20), Some(ImageFormat::Qcow2)));
        assert!(!bench.file("b", "template/tmpl/2/201/link").exists());
        let list =
            ListTemplateCommand { store: Some(bench.nfs("b", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = bench.answer(&list).await;
        assert_eq!(listed.template_infos["201-2-0b1c2d3e"].install_path, path);

        // A snapshot becomes a template.
        let snap = bench.file("a", "snapshots/2/31/77_temp");
        fs::create_dir_all(snap.parent().unwrap()).unwrap();
        fs::copy(&disk, &snap).unwrap();
        let DataTO::Template(new) = copied(
            &bench,
            snapshot(bench.nfs("a", StoreRole::Image), "snapshots/2/31/77_temp"),
            image(bench.nfs("a", StoreRole::Image), "template/tmpl/2/202"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.path.as_deref(), Some("template/tmpl/2/202/77_temp.qcow2"));
        assert!(!snap.exists(), "the flattened copy has served its purpose");

        // What cannot be copied is a failure, not silence.
        let missing = CopyCommand {
            source: Some(snapshot(bench.nfs("a", StoreRole::Image), "snapshots/2/31/none")),
            destination: Some(snapshot(bench.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..Default::default()
        };
        let answer: CopyCmdAnswer = bench.answer(&missing).await;
        assert_eq!(answer.answer.details.as_deref(), Some("Can't find src file:snapshots/2/31/none"));
        let nonsense = CopyCommand {
            source: Some(image(bench.nfs("a", StoreRole::Image), "template/tmpl/2/201")),
            destination: Some(snapshot(bench.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..Default::default()
        };
        let _: UnsupportedAnswer = bench.answer(&nonsense).await;
    });
}

#[test]
fn deletions() {
    on_bench(async |bench| {
        let _: SecStorageSetupAnswer = bench.answer(&bench.set_up("a")).await;
        let store = || bench.nfs("a", StoreRole::Image);
        let delete = async |data: DataTO| {
            let command = DeleteCommand { data: Some(data), ..Default::default() };
            bench.answer::<_, Answer>(&command).await.answer
        };
        let put = |path: &str| {
            let file = bench.file("a", path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        };
        put("template/tmpl/2/201/x.qcow2");
        put("template/tmpl/2/201/KVMHA/hb");
        assert!(delete(image(store(), "template/tmpl/2/201/x.qcow2")).await.result);
        assert!(!bench.file("a", "template/tmpl/2/201").exists());
        assert!(delete(image(store(), "template/tmpl/2/201/x.qcow2")).await.result, "again");
        put("template/tmpl/2/201/other/x");
        assert!(!delete(image(store(), "template/tmpl/2/201")).await.result);
        for file in ["51ab", "51ab.vhd", "51ab-disk0.vmdk", "51abc"] {
            put(&format!("snapshots/2/31/{file}"));
        }
        assert!(delete(snapshot(store(), "snapshots/2/31/51ab")).await.result);
        let left: Vec<_> = fs::read_dir(bench.file("a", "snapshots/2/31"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["51abc"]);
        assert!(delete(snapshot(store(), "snapshots/2/31/51abc")).await.result);
        assert!(!bench.file("a", "snapshots/2/31").exists());
        for bad in ["template", "volumes/2", "../../etc/x/y/z"] {
            assert!(!delete(image(store(), bad)).await.result, "{bad}");
        }
        let nothing = DataTO::Template(Box::new(TemplateObjectTO {
            image_data_store: Some(store()),
            ..Default::default()
        }));
        let answer = delete(nothing).await;
        assert!(answer.result && answer.details.unwrap().starts_with("Object with null install path"));
    });
}
