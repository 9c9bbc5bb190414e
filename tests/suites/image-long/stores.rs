//! Stores whose servers fall silent.

use std::time::{Duration, Instant};

use common::command::{
    agent::Answer,
    storage::{
        DataStoreTO, GetStorageStatsAnswer, GetStorageStatsCommand, ListTemplateAnswer, ListTemplateCommand,
        SecStorageSetupAnswer,
    },
};
use tests::lab::ssvm::machine::{CIFS, Machine, NFS, PASSWORD, in_machine, set_up, share_url};

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
