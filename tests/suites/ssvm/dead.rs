//! Stores whose server is gone: commands about them end with a cause, and nothing else waits for them.

use std::time::{Duration, Instant};

use common::command::storage::{
    DownloadAnswer, DownloadStatus, GetStorageStatsAnswer, GetStorageStatsCommand, ImageFormat,
    ListTemplateAnswer, ListTemplateCommand, SecStorageSetupAnswer, StoreRole,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tests::lab::ssvm::{
    Lab,
    broken::{How, break_b},
    disk, in_lab,
    origin::{Act, Origin},
    read, template, tool,
};

/// Commands that the dead store gets: more than it has places for.
const MANY: usize = 100;
/// Longest wait for what has nothing to do with it.
const SHORT: Duration = Duration::from_secs(5);

fn stats(lab: &Lab, export: &str) -> GetStorageStatsCommand {
    GetStorageStatsCommand { store: Some(lab.nfs(export, StoreRole::Image)), ..Default::default() }
}

#[test]
fn a_dead_store_keeps_no_other_waiting() {
    in_lab(async |lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        let dead = break_b(&lab, How::Silent);
        let (about_b, about_a) = (stats(&lab, "b"), stats(&lab, "a"));
        let mut waiting: FuturesUnordered<_> =
            (0..MANY).map(|_| lab.answer::<_, GetStorageStatsAnswer>(&about_b)).collect();
        let work = async {
            let file = read(&disk(lab.folder.path(), "qcow2", 4));
            let origin = Origin::start(vec![Act::Serve(file)]).await;
            let url = format!("{}/disk.qcow2", origin.url);
            let lost = template(lab.nfs("b", StoreRole::Image), 800, &url, ImageFormat::Qcow2);
            let job = lab.begun(&lost).await;
            let begun = Instant::now();
            let stand = lab.progress(&lost, &job, "GET_STATUS").await.download_status;
            let open = [DownloadStatus::NotDownloaded, DownloadStatus::DownloadInProgress];
            assert!(open.contains(&stand) && begun.elapsed() < Duration::from_secs(2), "{stand:?}");
            for id in 801..804 {
                let begun = Instant::now();
                let answer: GetStorageStatsAnswer = lab.answer(&about_a).await;
                assert!(answer.answer.result && begun.elapsed() < SHORT, "{answer:?}");
                let command = template(lab.nfs("a", StoreRole::Image), id, &url, ImageFormat::Qcow2);
                let answer: DownloadAnswer = lab.download(&command).await;
                assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
                assert!(begun.elapsed() < SHORT, "{:?}", begun.elapsed());
            }
        };
        tokio::select! {
            () = work => {}
            answer = waiting.next() => panic!("the store is not dead: {answer:?}"),
        }
        // The server comes to its end: so do the commands, each with a cause.
        drop(dead);
        while let Some(answer) = waiting.next().await {
            let text = answer.answer.details.unwrap_or_default();
            assert!(answer.answer.result || text.starts_with("Unable to get storage stats: "), "{text}");
        }
    });
}

#[test]
fn a_stale_store_is_mounted_anew() {
    in_lab(async |lab| {
        let _: SecStorageSetupAnswer = lab.answer(&lab.set_up("b")).await;
        let _stale = break_b(&lab, How::Stale);
        let list = ListTemplateCommand { store: Some(lab.nfs("b", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        assert!(listed.answer.result, "{:?}\n{}", listed.answer.details, lab.core.output());
        assert!(lab.core.output().contains("mounting anew"), "{}", lab.core.output());
    });
}

#[test]
fn a_full_store_keeps_nothing_of_what_does_not_fit() {
    in_lab(async |lab| {
        let _: SecStorageSetupAnswer = lab.answer(&lab.set_up("b")).await;
        let within = |line: &str| {
            let namespace = format!("--mount=/proc/{}/ns/mnt", lab.serve.id());
            tool("nsenter", &[&namespace, "sh", "-ec", line])
        };
        let folder = lab.file("b", "");
        within(&format!("mount -t tmpfs -o size=4m,mode=777 full {}", folder.display()));
        let image = disk(lab.folder.path(), "qcow2", 8);
        tool("gzip", &["-k", image.to_str().unwrap()]);
        let packed = read(&image.with_extension("qcow2.gz"));
        let told = Act::Serve(read(&image));
        // Nobody knows how much a packed image unpacks to.
        for (id, file, act) in [(811, "disk.qcow2", told), (812, "disk.qcow2.gz", Act::Serve(packed))] {
            let origin = Origin::start(vec![act]).await;
            let url = format!("{}/{file}", origin.url);
            let command = template(lab.nfs("b", StoreRole::Image), id, &url, ImageFormat::Qcow2);
            let answer: DownloadAnswer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
            assert!(answer.error_string.as_ref().unwrap().contains("no space left"), "{answer:?}");
            assert_eq!(within(&format!("find {} -type f", folder.display())), "");
        }
        let answer: GetStorageStatsAnswer = lab.answer(&stats(&lab, "b")).await;
        assert_eq!((answer.capacity_bytes, answer.answer.result), (4 << 20, true));
    });
}
