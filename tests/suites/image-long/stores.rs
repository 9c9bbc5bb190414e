//! Stores whose servers fall silent, and downloads over restarts of the VM.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::{
    agent::Answer,
    storage::{
        DataStoreTO, DownloadStatus, GetStorageStatsAnswer, GetStorageStatsCommand, ImageFormat,
        ListTemplateAnswer, ListTemplateCommand, SecStorageSetupAnswer,
    },
};
use tests::lab::ssvm::{
    disk,
    machine::{CIFS, Machine, NFS, PASSWORD, in_machine, set_up, share_url},
    origin::{Act, Origin},
    read, template,
};

/// Longest wait of any command.
const MINUTE: Duration = Duration::from_secs(60);
/// Longest wait for what a dead store has nothing to do with.
const SHORT: Duration = Duration::from_secs(10);
/// Longest time until a store whose server is back is used again.
const BACK: Duration = Duration::from_secs(240);

fn stats(store: DataStoreTO) -> GetStorageStatsCommand {
    GetStorageStatsCommand { store: Some(store), ..Default::default() }
}

/// Commands about a store whose server says nothing any more end with a cause, each within a minute, and those about
/// another one go on; when it is back it is used again.
async fn silent(machine: &Machine, address: &str, dead: DataStoreTO, well: DataStoreTO) {
    machine.cut(address);
    let begun = Instant::now();
    let list = ListTemplateCommand { store: Some(dead.clone()), ..Default::default() };
    let waiting = async {
        let (stats, list): (GetStorageStatsAnswer, ListTemplateAnswer) =
            futures_util::future::join(machine.answer(&stats(dead.clone())), machine.answer(&list)).await;
        assert!(begun.elapsed() < MINUTE, "{address}: {:?}", begun.elapsed());
        println!("{address}: after {:?}: {:?}", begun.elapsed(), stats.answer.details);
        for answer in [stats.answer, list.answer] {
            assert!(!answer.result && answer.details.is_some_and(|text| !text.is_empty()), "{address}");
        }
    };
    let others = async {
        for _ in 0..5 {
            let begun = Instant::now();
            let answer: GetStorageStatsAnswer = machine.answer(&stats(well.clone())).await;
            assert!(answer.answer.result && begun.elapsed() < SHORT, "{:?} {answer:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    futures_util::future::join(waiting, others).await;
    // Once more, while the kernel is busy with the dead one.
    let begun = Instant::now();
    let answer: GetStorageStatsAnswer = machine.answer(&stats(dead.clone())).await;
    assert!(!answer.answer.result && begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
    machine.mend(address);
    let begun = Instant::now();
    loop {
        let answer: GetStorageStatsAnswer = machine.answer(&stats(dead.clone())).await;
        if answer.answer.result {
            println!("{address}: used again after {:?}", begun.elapsed());
            return;
        }
        assert!(begun.elapsed() < BACK, "{answer:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn a_store_whose_server_falls_silent_keeps_no_command_longer_than_a_minute() {
    in_machine(false, async |machine| {
        let (_nfs, _cifs) = (machine.nfs_server(), machine.cifs_server());
        for url in [format!("nfs://{NFS}/export"), share_url(PASSWORD)] {
            let answer: SecStorageSetupAnswer = machine.answer(&set_up(&url)).await;
            assert!(answer.answer.result, "{answer:?}");
        }
        silent(&machine, NFS, machine.nfs(), machine.cifs()).await;
        silent(&machine, CIFS, machine.cifs(), machine.nfs()).await;
    });
}

#[test]
fn a_server_that_is_silent_from_the_start_is_given_up_within_a_minute() {
    in_machine(false, async |machine| {
        let _well = machine.cifs_server();
        let answer: SecStorageSetupAnswer = machine.answer(&set_up(&share_url(PASSWORD))).await;
        assert!(answer.answer.result, "{answer:?}");
        // It listens, and nothing comes back.
        let nfs = machine.nfs_server();
        machine.cut(NFS);
        let begun = Instant::now();
        let (setup, url) = (set_up(&format!("nfs://{NFS}/export")), stats(machine.nfs()));
        let dead = async {
            let setup: Answer = machine.answer(&setup).await;
            println!("after {:?}: {:?}", begun.elapsed(), setup.answer.details);
            assert!(!setup.answer.result && begun.elapsed() < MINUTE, "{:?} {setup:?}", begun.elapsed());
            let begun = Instant::now();
            let stats: GetStorageStatsAnswer = machine.answer(&url).await;
            assert!(!stats.answer.result && begun.elapsed() < MINUTE, "{:?} {stats:?}", begun.elapsed());
        };
        let well = async {
            for _ in 0..5 {
                let begun = Instant::now();
                let answer: GetStorageStatsAnswer = machine.answer(&stats(machine.cifs())).await;
                assert!(answer.answer.result && begun.elapsed() < SHORT, "{:?}", begun.elapsed());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        futures_util::future::join(dead, well).await;
        machine.mend(NFS);
        let begun = Instant::now();
        loop {
            let answer: GetStorageStatsAnswer = machine.answer(&url).await;
            if answer.answer.result {
                break;
            }
            assert!(begun.elapsed() < BACK, "{answer:?}");
        }
        drop(nfs);
    });
}

/// What happens to the VM in the middle of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Power,
    Orderly,
}

/// Bytes of the image in MiB, and of those that arrive before the source falls silent.
const SIZE: usize = 40;
const FIRST: usize = 26 << 20;

/// A download that loses its machine: begun, half of it brought, the machine gone and back, its end.
async fn over_a_restart(
    machine: &mut Machine,
    store: DataStoreTO,
    id: i64,
    ends: Ends,
) -> (String, Vec<u8>, Vec<String>) {
    let file = read(&disk(machine.folder.path(), "qcow2", SIZE));
    let origin =
        Origin::start(vec![Act::Stall(Arc::clone(&file), FIRST), Act::Serve(Arc::clone(&file))]).await;
    let command = template(store, id, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2);
    let job = machine.begun(&command).await;
    machine.arrived(&command, &job, 60).await;
    // What is in a bucket is gone on with from the last part that the journal knows of.
    let journal = format!("/state/ssvm/jobs/{job}.json");
    let begun = Instant::now();
    while matches!(command.store, Some(DataStoreTO::S3(_)))
        && !machine.inside().text(&journal).contains("\"upload\"")
    {
        assert!(begun.elapsed() < MINUTE, "no part is in the journal");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    match ends {
        Ends::Power => machine.power_cycle().await,
        Ends::Orderly => machine.restart().await,
    }
    let answer = machine.ended(&command, &job).await;
    assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{ends:?} {answer:?}");
    assert_eq!(answer.job_id, Some(job), "the same job");
    (answer.install_path.expect("a path"), file.to_vec(), origin.requests())
}

#[test]
fn a_download_into_a_bucket_goes_on_over_a_restart_of_the_machine() {
    in_machine(true, async |mut machine| {
        for (id, ends) in [(301, Ends::Power), (302, Ends::Orderly)] {
            let store = machine.s3();
            let (key, file, requests) = over_a_restart(&mut machine, store, id, ends).await;
            let bucket = machine.bucket.as_ref().expect("a bucket");
            let object = bucket.run(&machine.host, &["get", "--quiet", &format!("BUCKET/{key}"), "-"]);
            assert!(object == file, "{ends:?}: the object is not whole");
            let parts = String::from_utf8(bucket.run(&machine.host, &["multipart", "BUCKET"])).expect("text");
            assert!(!parts.lines().any(|line| line.starts_with("20")), "{ends:?}: {parts}");
            let keys = String::from_utf8(bucket.run(&machine.host, &["ls", "-r", "BUCKET"])).expect("text");
            assert_eq!(keys.lines().filter(|line| line.contains(&format!("/2/{id}/"))).count(), 1, "{keys}");
            let from = requests[1]
                .split("range: bytes=")
                .nth(1)
                .and_then(|r| r.split('-').next()?.parse::<usize>().ok());
            println!("{ends:?}: goes on from {from:?} of {} bytes", file.len());
            assert!(from.is_some_and(|from| from >= 8 << 20), "{ends:?}: it began anew: {requests:?}");
        }
    });
}

#[test]
fn a_download_into_a_folder_ends_whole_after_a_power_cut() {
    in_machine(false, async |mut machine| {
        let _nfs = machine.nfs_server();
        let store = machine.nfs();
        let (path, file, _) = over_a_restart(&mut machine, store, 311, Ends::Power).await;
        assert!(fs::read(machine.exported().join(&path)).expect("the image") == file);
        let names: Vec<_> = fs::read_dir(machine.exported().join("template/tmpl/2/311"))
            .expect("its folder")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names.len(), 2, "the image and its properties: {names:?}");
    });
}
