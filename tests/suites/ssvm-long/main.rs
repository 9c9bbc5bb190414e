//! What takes long about the secondary storage VM: many fates of a download, a piece of a file
//! that never comes, and the longest wait on a dead store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::storage::{
    DownloadStatus, GetStorageStatsAnswer, GetStorageStatsCommand, ImageFormat, ListTemplateAnswer,
    ListTemplateCommand, SecStorageSetupAnswer, StoreRole,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tests::lab::ssvm::{
    broken::{How, break_b},
    disk,
    fate::{Step, befall},
    in_lab,
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
