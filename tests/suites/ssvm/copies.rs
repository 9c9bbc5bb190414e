//! Copies between stores and deletions, with a real S3 server.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::{
    Secret,
    agent::{Answer, UnsupportedAnswer},
    storage::{
        CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, DeleteCommand, DownloadStatus, ImageFormat,
        ListTemplateAnswer, ListTemplateCommand, S3TO, SecStorageSetupAnswer, SnapshotObjectTO, StoreRole,
        TemplateObjectTO, VolumeObjectTO,
    },
};

use tests::lab::{
    ssvm::{
        LIMIT, Lab, WEB, disk, in_lab, in_lab_with, in_lab_with_s3,
        origin::{Act, Origin},
        s3::{self, Kind},
        template, tool,
    },
    wait_until,
};

pub fn snapshot(store: DataStoreTO, path: &str) -> DataTO {
    let path = Some(path.to_owned());
    DataTO::Snapshot(Box::new(SnapshotObjectTO {
        path,
        data_store: Some(store),
        id: 12,
        ..Default::default()
    }))
}

pub fn image(store: DataStoreTO, path: &str) -> DataTO {
    DataTO::Template(Box::new(TemplateObjectTO {
        path: Some(path.to_owned()),
        image_data_store: Some(store),
        id: 201,
        name: Some("201-2-0b1c2d3e".into()),
        format: Some(ImageFormat::Qcow2),
        ..Default::default()
    }))
}

pub async fn copied(lab: &Lab, source: DataTO, destination: DataTO) -> DataTO {
    let command =
        CopyCommand { source: Some(source), destination: Some(destination), ..CopyCommand::default() };
    let answer: CopyCmdAnswer = lab.answer(&command).await;
    assert!(answer.answer.result, "{answer:?}\n{}", lab.serve.output());
    answer.new_data.unwrap()
}

#[test]
fn object_stores_are_reached_by_name_and_by_the_old_signature() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let snap = lab.file("a", "snapshots/2/31/51ab");
        fs::create_dir_all(snap.parent().unwrap()).unwrap();
        fs::copy(disk(lab.folder.path(), "qcow2", 21), &snap).unwrap();
        let known = lab.bucket.as_ref().unwrap();
        // Nobody knows this one in front of the server's name.
        let plain = format!("{}-plain", known.name);
        known.run(&lab.namespace, &["mb", "BUCKET-plain"]);
        for (number, (host, bucket, old, in_path)) in [
            ("s3.example", &known.name, false, false),
            ("s3.example", &known.name, true, false),
            ("s3.example", &plain, false, true),
            ("s3.example", &plain, true, true),
            ("10.1.2.9", &known.name, true, true),
        ]
        .into_iter()
        .enumerate()
        {
            let DataStoreTO::S3(mut store) = lab.s3() else { unreachable!() };
            store.end_point = Some(format!("{host}:7480"));
            store.bucket_name = Some(bucket.clone());
            store.signer = old.then(|| "S3SignerType".into());
            let store = DataStoreTO::S3(store);
            let folder = format!("snapshots/2/{}", 40 + number);
            let there = snapshot(store.clone(), &folder);
            let from = snapshot(lab.nfs("a", StoreRole::ImageCache), "snapshots/2/31/51ab");
            copied(&lab, from, there).await;
            let key = format!("{folder}/51ab");
            let log = s3::log();
            let asked = |path: &str| {
                log.lines().any(|l| l.contains("PUT ") && l.contains(path) && l.contains("uploadId"))
            };
            assert_eq!(asked(&format!("/{bucket}/{key}?")), in_path, "{host}: {log}");
            assert_eq!(asked(&format!("PUT /{key}?")), !in_path, "{host}");
            let back = snapshot(lab.nfs("a", StoreRole::ImageCache), &format!("snapshots/2/{}", 60 + number));
            let back = copied(&lab, snapshot(store.clone(), &key), back).await;
            let file = lab.file("a", back.path().unwrap());
            tool("cmp", &[snap.to_str().unwrap(), file.to_str().unwrap()]);
            let gone: Answer =
                lab.answer(&DeleteCommand { data: Some(snapshot(store, &key)), ..Default::default() }).await;
            assert!(gone.answer.result, "{gone:?}");
        }
        assert_eq!(lab.s3_keys(), [""; 0]);
    });
}

#[test]
fn templates_and_snapshots_go_to_an_object_store_and_back() {
    to_and_fro(Kind::Ceph);
}

#[test]
fn templates_and_snapshots_go_to_another_object_store_and_back() {
    to_and_fro(Kind::Swift);
}

fn to_and_fro(kind: Kind) {
    in_lab_with(kind, async |lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        // A snapshot large enough for several parts.
        let snap = lab.file("a", "snapshots/2/31/51ab");
        fs::create_dir_all(snap.parent().unwrap()).unwrap();
        fs::copy(disk(lab.folder.path(), "qcow2", 21), &snap).unwrap();
        let there = copied(
            &lab,
            snapshot(lab.nfs("a", StoreRole::ImageCache), "snapshots/2/31/51ab"),
            snapshot(lab.s3(), "snapshots/2/31"),
        )
        .await;
        assert_eq!(there.path(), Some("snapshots/2/31/51ab"));
        assert!(lab.s3_object("snapshots/2/31/51ab") == fs::read(&snap).unwrap());
        let back = copied(
            &lab,
            snapshot(lab.s3(), "snapshots/2/31/51ab"),
            snapshot(lab.nfs("b", StoreRole::ImageCache), "snapshots/2/32"),
        )
        .await;
        assert_eq!(back.path(), Some("snapshots/2/32/51ab"));
        tool("cmp", &[snap.to_str().unwrap(), lab.file("b", "snapshots/2/32/51ab").to_str().unwrap()]);

        // A template straight into the bucket, then into a folder.
        let disk = disk(lab.folder.path(), "qcow2", 12);
        let origin = Origin::start(vec![Act::Serve(Arc::new(fs::read(&disk).unwrap()))]).await;
        let url = format!("{}/disk.qcow2?sig=x", origin.url);
        let mut command = template(lab.s3(), 201, &url, ImageFormat::Qcow2);
        command.checksum = Some("{SHA-256}00".into());
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
        assert!(answer.error_string.unwrap().contains("didn't match the given value"));
        assert!(lab.s3_keys() == ["snapshots/2/31/51ab"] && lab.s3_uploads().is_empty());
        let sum = tool("sha256sum", &[disk.to_str().unwrap()]);
        let sum = format!("{{SHA-256}}{}", sum.split(' ').next().unwrap());
        command.checksum = Some(sum.clone());
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        let key = "template/tmpl/2/201/201-2-0b1c2d3e/disk.qcow2";
        assert_eq!(answer.install_path.as_deref(), Some(key));
        assert_eq!(answer.template_size, 12 << 20);
        assert_eq!(answer.template_physical_size as u64, fs::metadata(&disk).unwrap().len());
        assert_eq!(answer.checksum.as_deref(), Some(sum.as_str()));
        assert!(lab.s3_object(key) == fs::read(&disk).unwrap());
        let DataTO::Template(new) = copied(
            &lab,
            image(lab.s3(), key),
            image(lab.nfs("b", StoreRole::ImageCache), "template/tmpl/2/201"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.size, Some(12 << 20));
        let installed = lab.file("b", new.path.as_deref().unwrap());
        tool(
            "qemu-img",
            &["compare", "-f", "qcow2", "-F", "qcow2", disk.to_str().unwrap(), installed.to_str().unwrap()],
        );
        let list = |store| ListTemplateCommand { store: Some(store), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list(lab.nfs("b", StoreRole::Image))).await;
        assert!(listed.template_infos.contains_key("201-2-0b1c2d3e"));
        let listed: ListTemplateAnswer = lab.answer(&list(lab.s3())).await;
        assert_eq!(listed.template_infos["201-2-0b1c2d3e"].install_path, key);

        // A hostile one never appears in the bucket, and nothing half done stays.
        let hostile = lab.folder.path().join("h.qcow2");
        tool(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-u", "-b", "x", "-F", "raw", hostile.to_str().unwrap(), "1G"],
        );
        let origin = Origin::start(vec![Act::Serve(Arc::new(fs::read(&hostile).unwrap()))]).await;
        let command = template(lab.s3(), 202, &format!("{}/h.qcow2", origin.url), ImageFormat::Qcow2);
        assert_eq!(lab.download(&command).await.download_status, DownloadStatus::DownloadError);
        assert_eq!(lab.s3_keys(), ["snapshots/2/31/51ab", key]);
        assert!(lab.s3_uploads().is_empty());

        // Deleting a key spares its neighbours.
        lab.s3_put("snapshots/2/31/51ab2");
        let delete =
            DeleteCommand { data: Some(snapshot(lab.s3(), "snapshots/2/31/51ab")), ..Default::default() };
        assert!(lab.answer::<_, Answer>(&delete).await.answer.result);
        assert_eq!(lab.s3_keys(), ["snapshots/2/31/51ab2", key]);
        for key in ["volumes/2/5/x", "volumes/2/55/x"] {
            lab.s3_put(key);
        }
        let volume = |store| {
            let path = Some("volumes/2/5".to_owned());
            let volume = VolumeObjectTO { path, data_store: Some(store), id: 5, ..Default::default() };
            DeleteCommand { data: Some(DataTO::Volume(Box::new(volume))), ..Default::default() }
        };
        let DataStoreTO::S3(mut wrong) = lab.s3() else { unreachable!() };
        wrong.secret_key = Some(Secret::new("another"));
        let answer = lab.answer::<_, Answer>(&volume(DataStoreTO::S3(wrong))).await.answer;
        let bucket = &lab.bucket.as_ref().unwrap().name;
        let start =
            format!("Failed to delete volume volumes/2/5 from bucket {bucket} due to the following error: ");
        assert!(!answer.result && answer.details.as_ref().unwrap().starts_with(&start), "{answer:?}");
        let answer = lab.answer::<_, Answer>(&volume(lab.s3())).await.answer;
        let text = format!("Deleted volume volumes/2/5 from bucket {bucket}.");
        assert_eq!((answer.result, answer.details), (true, Some(text)));
        assert_eq!(lab.s3_keys(), ["snapshots/2/31/51ab2", key, "volumes/2/55/x"]);

        // A source that breaks off for good after some parts leaves neither object nor upload.
        let whole = Arc::new(fs::read(&snap).unwrap());
        let gone = Act::Raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        let origin = Origin::start(vec![Act::Cut(whole, 18 << 20), gone]).await;
        let command = template(lab.s3(), 203, &format!("{}/x.qcow2", origin.url), ImageFormat::Qcow2);
        assert_eq!(lab.download(&command).await.download_status, DownloadStatus::DownloadError);
        assert_eq!(lab.s3_keys(), ["snapshots/2/31/51ab2", key, "volumes/2/55/x"]);
        assert!(lab.s3_uploads().is_empty());
        for secret in ["secret-of-the-suite", "sig=x"] {
            assert!(!lab.core.output().contains(secret) && !lab.serve.output().contains(secret));
        }
    });
}

#[test]
fn a_template_moves_from_export_to_export_with_its_folder() {
    in_lab(async |lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        let disk = disk(lab.folder.path(), "qcow2", 3);
        let origin = Origin::start(vec![Act::Serve(Arc::new(fs::read(&disk).unwrap()))]).await;
        let command = template(
            lab.nfs("a", StoreRole::Image),
            201,
            &format!("{}/disk.qcow2", origin.url),
            ImageFormat::Qcow2,
        );
        let path = lab.download(&command).await.install_path.unwrap();
        let link = lab.file("a", "template/tmpl/2/201/link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let DataTO::Template(new) = copied(
            &lab,
            image(lab.nfs("a", StoreRole::Image), &path),
            image(lab.nfs("b", StoreRole::Image), "template/tmpl/2/201"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.path.as_deref(), Some(path.as_str()));
        assert_eq!((new.size, new.format), (Some(3 << 20), Some(ImageFormat::Qcow2)));
        assert!(!lab.file("b", "template/tmpl/2/201/link").exists());
        let list = ListTemplateCommand { store: Some(lab.nfs("b", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        assert_eq!(listed.template_infos["201-2-0b1c2d3e"].install_path, path);

        // A snapshot becomes a template.
        let snap = lab.file("a", "snapshots/2/31/77_temp");
        fs::create_dir_all(snap.parent().unwrap()).unwrap();
        fs::copy(&disk, &snap).unwrap();
        let DataTO::Template(new) = copied(
            &lab,
            snapshot(lab.nfs("a", StoreRole::Image), "snapshots/2/31/77_temp"),
            image(lab.nfs("a", StoreRole::Image), "template/tmpl/2/202"),
        )
        .await
        else {
            panic!()
        };
        assert_eq!(new.path.as_deref(), Some("template/tmpl/2/202/77_temp.qcow2"));
        assert!(!snap.exists(), "the flattened copy has served its purpose");

        // What cannot be copied is a failure, not silence.
        let missing = CopyCommand {
            source: Some(snapshot(lab.nfs("a", StoreRole::Image), "snapshots/2/31/none")),
            destination: Some(snapshot(lab.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..Default::default()
        };
        let answer: CopyCmdAnswer = lab.answer(&missing).await;
        assert_eq!(answer.answer.details.as_deref(), Some("Can't find src file:snapshots/2/31/none"));
        let nonsense = CopyCommand {
            source: Some(image(lab.nfs("a", StoreRole::Image), "template/tmpl/2/201")),
            destination: Some(snapshot(lab.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..Default::default()
        };
        let _: UnsupportedAnswer = lab.answer(&nonsense).await;
    });
}

#[test]
fn deletions() {
    in_lab(async |lab| {
        let _: SecStorageSetupAnswer = lab.answer(&lab.set_up("a")).await;
        let store = || lab.nfs("a", StoreRole::Image);
        let delete = async |data: DataTO| {
            let command = DeleteCommand { data: Some(data), ..Default::default() };
            lab.answer::<_, Answer>(&command).await.answer
        };
        let put = |path: &str| {
            let file = lab.file("a", path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        };
        put("template/tmpl/2/201/x.qcow2");
        put("template/tmpl/2/201/KVMHA/hb");
        assert!(delete(image(store(), "template/tmpl/2/201/x.qcow2")).await.result);
        assert!(!lab.file("a", "template/tmpl/2/201").exists());
        assert!(delete(image(store(), "template/tmpl/2/201/x.qcow2")).await.result, "again");
        let again = delete(image(store(), "template/tmpl/2/201/x.qcow2")).await;
        assert_eq!(again.details.as_deref(), Some("template parent directory 201 doesn't exist"));
        // What a failed upload left goes by its number, and its neighbours stay.
        put("template/tmpl/2/202/y");
        assert!(delete(image(store(), "template/tmpl/2/201")).await.result);
        assert!(lab.file("a", "template/tmpl/2/202/y").exists());
        put("template/tmpl/2/201/other/x");
        let kept = delete(image(store(), "template/tmpl/2/201")).await;
        let text = "Unable to delete file other under Template path template/tmpl/2/201";
        assert_eq!((kept.result, kept.details.as_deref()), (false, Some(text)));
        put("volumes/2/7/other/x");
        let volume = VolumeObjectTO {
            path: Some("volumes/2/7".into()),
            data_store: Some(store()),
            id: 7,
            ..Default::default()
        };
        let kept = delete(DataTO::Volume(Box::new(volume))).await;
        let text = "Unable to delete file other under Volume path volumes/2/7";
        assert_eq!((kept.result, kept.details.as_deref()), (false, Some(text)));
        put("snapshots/2/33/chain/x");
        assert!(delete(snapshot(store(), "snapshots/2/33/chain")).await.result, "what a staging store holds");
        assert!(lab.file("a", "snapshots/2/33/chain/x").exists());
        for file in ["51ab", "51ab.vhd", "51ab-disk0.vmdk", "51abc"] {
            put(&format!("snapshots/2/31/{file}"));
        }
        assert!(delete(snapshot(store(), "snapshots/2/31/51ab")).await.result);
        let left: Vec<_> =
            fs::read_dir(lab.file("a", "snapshots/2/31")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["51abc"]);
        assert!(delete(snapshot(store(), "snapshots/2/31/51abc")).await.result);
        assert!(!lab.file("a", "snapshots/2/31").exists());
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

#[test]
fn a_service_that_never_answers_is_given_up() {
    in_lab(async |lab| {
        lab.ready().await;
        // It takes connections, and says nothing.
        let listener = std::net::TcpListener::bind(format!("{WEB}:0")).unwrap();
        let silent = S3TO {
            access_key: Some(Secret::new("key")),
            secret_key: Some(Secret::new("secret")),
            end_point: Some(listener.local_addr().unwrap().to_string()),
            bucket_name: Some("bucket".into()),
            https_flag: Some(false),
            socket_timeout: Some(1000),
            max_error_retry: Some(1),
            ..S3TO::default()
        };
        let list =
            ListTemplateCommand { store: Some(DataStoreTO::S3(Box::new(silent))), ..Default::default() };
        let begun = Instant::now();
        let dead = async {
            let listed: ListTemplateAnswer = lab.answer(&list).await;
            assert!(!listed.answer.result && listed.template_infos.is_empty(), "{listed:?}");
            assert!((2..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        };
        let well = async {
            let command =
                ListTemplateCommand { store: Some(lab.nfs("a", StoreRole::Image)), ..Default::default() };
            let listed: ListTemplateAnswer = lab.answer(&command).await;
            assert!(listed.answer.result && begun.elapsed() < Duration::from_secs(2));
        };
        futures_util::future::join(dead, well).await;
    });
}

#[test]
fn a_copy_keeps_holes_and_is_whole_or_not_there() {
    in_lab(async |mut lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        let snapshots = lab.file("a", "snapshots/2/31");
        let sparse = |name: &str, size: u64| {
            let file = snapshots.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, vec![7; 1 << 20]).unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_len(size).unwrap();
            file
        };
        let copy = |lab: &Lab, name: &str| CopyCommand {
            source: Some(snapshot(lab.nfs("a", StoreRole::Image), &format!("snapshots/2/31/{name}"))),
            destination: Some(snapshot(lab.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..Default::default()
        };
        let source = sparse("holes", 64 << 20);
        let answer: CopyCmdAnswer = lab.answer(&copy(&lab, "holes")).await;
        assert!(answer.answer.result, "{answer:?}");
        let there = lab.file("b", "snapshots/2/31/holes");
        tool("cmp", &[source.to_str().unwrap(), there.to_str().unwrap()]);
        let taken = tool("du", &["-k", there.to_str().unwrap()]);
        let taken: u64 = taken.split_whitespace().next().unwrap().parse().unwrap();
        assert!(taken < 4096, "{taken} KiB on the disk");

        // The process that copies dies in the middle.
        sparse("dies", 16 << 30);
        let command = copy(&lab, "dies");
        let (folder, process) = (lab.file("b", "snapshots/2/31"), lab.serve.id().to_string());
        let killed = async {
            let begun = Instant::now();
            while fs::read_dir(&folder).unwrap().count() < 2 {
                assert!(begun.elapsed() < Duration::from_secs(60), "the copy does not begin");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tool("kill", &["-9", &process]);
        };
        let (answer, ()) = futures_util::future::join(lab.answer::<_, CopyCmdAnswer>(&command), killed).await;
        assert!(!answer.answer.result && answer.new_data.is_none(), "{answer:?}");
        assert!(!folder.join("dies").exists());
        lab.restart_serve();
        wait_until("serve", LIMIT, || lab.status().contains("serve: connected"));

        // A store that is full.
        let within = format!("--mount=/proc/{}/ns/mnt", lab.serve.id());
        let full = lab.file("b", "");
        let line = format!("mount -t tmpfs -o size=4m,mode=777 full {}", full.display());
        tool("nsenter", &[&within, "sh", "-ec", &line]);
        fs::write(lab.file("a", "snapshots/2/31/large"), vec![7; 8 << 20]).unwrap();
        let answer: CopyCmdAnswer = lab.answer(&copy(&lab, "large")).await;
        assert!(!answer.answer.result, "{answer:?}");
        assert!(answer.answer.details.unwrap().contains("no space left"));
        let left = tool("nsenter", &[&within, "find", full.to_str().unwrap(), "-type", "f"]);
        assert_eq!(left, "");
    });
}
