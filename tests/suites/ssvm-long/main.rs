//! What takes long about the secondary storage VM: many fates of a download, a piece of a file
//! that never comes, and the longest wait on a dead store.

use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::storage::{
    CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, DownloadStatus, GetStorageStatsAnswer,
    GetStorageStatsCommand, ImageFormat, ListTemplateAnswer, ListTemplateCommand, SecStorageSetupAnswer,
    SnapshotObjectTO, StoreRole,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tests::lab::ssvm::{
    broken::{How, break_b, break_export},
    disk,
    fate::{Step, befall},
    in_lab, in_lab_with_s3,
    origin::{Act, Origin, Piece},
    read, template,
};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::KillServe),
        2 => Just(Step::KillCore),
        2 => Just(Step::Repeat),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
        4 => (0_u64..900).prop_map(Step::Wait),
    ]
}

fn fates(bucket: bool, cases: u32) {
    let config = Config { cases, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(step(), 1..8), |steps| {
        println!("{steps:?}");
        befall(bucket, &steps);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn any_fate_of_a_download_into_a_folder_ends_in_one_whole_image_or_none() {
    fates(false, 25);
}

#[test]
fn any_fate_of_a_download_into_a_bucket_ends_in_one_whole_object_or_none() {
    fates(true, 15);
}

#[test]
fn a_piece_that_stalls_is_asked_for_again() {
    in_lab(async |lab| {
        lab.ready().await;
        let file = read(&disk(lab.folder.path(), "qcow2", 24));
        let origin = Origin::start(vec![Act::Pieces(Arc::clone(&file), Piece::Stalls)]).await;
        let store = lab.nfs("a", StoreRole::Image);
        let command = template(store, 840, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert!(*read(&lab.file("a", &answer.install_path.expect("a path"))) == *file);
    });
}

#[test]
fn no_command_waits_longer_than_a_minute_for_a_dead_store() {
    in_lab(async |lab| {
        let _: SecStorageSetupAnswer = lab.answer(&lab.set_up("b")).await;
        let _dead = break_b(&lab, How::Silent);
        let store = Some(lab.nfs("b", StoreRole::Image));
        let (stats, list) = (
            GetStorageStatsCommand { store: store.clone(), ..Default::default() },
            ListTemplateCommand { store, ..Default::default() },
        );
        let begun = Instant::now();
        let (stats, list): (GetStorageStatsAnswer, ListTemplateAnswer) =
            futures_util::future::join(lab.answer(&stats), lab.answer(&list)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        for answer in [stats.answer, list.answer] {
            let text = answer.details.unwrap();
            assert!(!answer.result && text.contains("the store did not answer within 50 s"), "{text}");
        }
    });
}

#[test]
fn a_copy_between_two_dead_stores_ends_within_a_minute() {
    in_lab(async |lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        let _dead = [break_export(&lab, "a", How::Silent), break_b(&lab, How::Silent)];
        let snapshot = |store: DataStoreTO, path: &str| {
            DataTO::Snapshot(Box::new(SnapshotObjectTO {
                path: Some(path.to_owned()),
                data_store: Some(store),
                ..SnapshotObjectTO::default()
            }))
        };
        let command = CopyCommand {
            source: Some(snapshot(lab.nfs("a", StoreRole::Image), "snapshots/2/31/s")),
            destination: Some(snapshot(lab.nfs("b", StoreRole::Image), "snapshots/2/31")),
            ..CopyCommand::default()
        };
        let begun = Instant::now();
        let answer: CopyCmdAnswer = lab.answer(&command).await;
        println!("after {:?}: {:?}", begun.elapsed(), answer.answer.details);
        assert!(!answer.answer.result && begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    });
}

#[test]
fn large_stores_are_listed_whole_and_in_time() {
    in_lab(async |lab| {
        lab.ready().await;
        let folder = lab.file("a", "template/tmpl/2");
        let ids = 10_000..30_000;
        for id in ids.clone() {
            let folder = folder.join(id.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            let text = format!(
                "filename=x.qcow2\nid={id}\nuniquename=t{id}\nqcow2=true\nqcow2.filename=x.qcow2\n\
                 qcow2.size=5\nqcow2.virtualsize=7\nsize=5\nvirtualsize=7\n"
            );
            fs::write(folder.join("template.properties"), text).expect("properties");
        }
        let list = ListTemplateCommand { store: Some(lab.nfs("a", StoreRole::Image)), ..Default::default() };
        let begun = Instant::now();
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        println!("20,000 templates: {:?}", begun.elapsed());
        assert!(listed.answer.result && begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(!lab.agent().is_closed());
        let found: BTreeSet<i64> = listed.template_infos.values().map(|entry| entry.id).collect();
        assert_eq!(found, ids.collect());
    });
}

#[test]
fn a_bucket_of_several_pages_is_listed_whole() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let folder = lab.folder.path().join("many");
        for id in 0..2500 {
            let folder = folder.join(format!("{id}/t{id}"));
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("x.iso"), "x").expect("an object");
        }
        let bucket = lab.bucket.as_ref().expect("a bucket");
        let words = format!("put --recursive --quiet {}/ BUCKET/template/tmpl/2/", folder.display());
        bucket.run(&lab.namespace, &[&words]);
        let list = ListTemplateCommand { store: Some(lab.s3()), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        assert!(listed.answer.result, "{:?}", listed.answer.details);
        let names: BTreeSet<&str> = listed.template_infos.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 2500);
        assert_eq!(listed.template_infos["t2499"].install_path, "template/tmpl/2/2499/t2499/x.iso");
    });
}
