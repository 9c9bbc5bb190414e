//! Agents whose list names two servers, of which the first is killed: how long until they are with the second one, while
//! a transfer and a console go on.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::command::storage::{DownloadStatus, ImageFormat, StoreRole};

use crate::{
    bench::{Figure, Floor},
    lab::{
        cpvm::{self, viewer::Viewer},
        ssvm::{
            self, LIMIT,
            origin::{Act, Origin},
            template,
        },
    },
};

/// Runs of each.
const RUNS: usize = 5;
/// Seconds until an agent is with the second server.
const FLOOR: Floor = Floor::AtMost(5.0);
const MIB: usize = 1 << 20;
/// Port of a console's hypervisor.
const SCREEN: u16 = 5905;

pub(super) fn measure() {
    let apart = |run: fn() -> f64| -> Vec<f64> {
        // Each lab has a namespace that its thread lives in.
        let once = || std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        std::iter::repeat_with(once).take(RUNS).collect()
    };
    Figure::host("reconnect_ssvm", "s", apart(transfer), Some(FLOOR)).print();
    Figure::host("reconnect_cpvm", "s", apart(console), Some(FLOOR)).print();
}

/// A download of which one connection brings every byte, before, while and after the agent has no server.
fn transfer() -> f64 {
    let result = Arc::new(Mutex::new(f64::NAN));
    let place = result.clone();
    ssvm::in_lab(|lab| async move {
        lab.ready().await;
        let bytes = Arc::new(vec![0x5a; 24 * MIB]);
        let origin = Origin::start(vec![Act::Slow(bytes, 3 * MIB)]).await;
        let first = lab.second_server().await;
        let command =
            template(lab.nfs("a", StoreRole::Image), 9, &format!("{}/x.img", origin.url), ImageFormat::Raw);
        let begun: common::command::storage::DownloadAnswer = lab.answer(&command).await;
        let job = begun.job_id.expect("a job");
        lab.arrived(&command, &job, 5).await;
        let (back, killed) = (lab.next(), Instant::now());
        drop(first);
        back.await;
        *place.lock().expect("the result") = killed.elapsed().as_secs_f64();
        let now = lab.progress(&command, &job, "GET_STATUS").await;
        assert_eq!(now.download_status, DownloadStatus::DownloadInProgress, "it goes on: {now:?}");
        let ended = lab.ended(&command, &job).await;
        assert_eq!(ended.download_status, DownloadStatus::Downloaded, "{ended:?}");
        let gets = origin.requests().iter().filter(|head| head.starts_with("get")).count();
        assert_eq!(gets, 1, "the source was asked once");
    });
    *result.lock().expect("the result")
}

/// A console whose picture goes on coming over the same connections.
fn console() -> f64 {
    let result = Arc::new(Mutex::new(f64::NAN));
    let place = result.clone();
    cpvm::run("", true, async |lab| {
        let _machine = lab.machine(SCREEN, Some("Secr3tPw"));
        let token = lab.announced(SCREEN, |_| ()).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        // The firmware changes the size of its screen while it starts.
        assert_ne!(viewer.picture().await, (0, 0));
        let before = lab.proxy.ok(&format!("ss -Htn state established dport = :{SCREEN}"));
        let first = lab.management.second_server().await;
        let killed = Instant::now();
        drop(first);
        // It shows pictures while nobody manages it.
        let pictures = async {
            for _ in 0..20 {
                assert_ne!(viewer.picture().await, (0, 0));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let back = async {
            lab.management.joined(LIMIT).await;
            killed.elapsed().as_secs_f64()
        };
        let (seconds, ()) = tokio::join!(back, pictures);
        *place.lock().expect("the result") = seconds;
        assert_ne!(viewer.picture().await, (0, 0));
        let port = |listed: &str| listed.split_whitespace().nth(2).map(str::to_owned);
        let after = lab.proxy.ok(&format!("ss -Htn state established dport = :{SCREEN}"));
        assert_eq!(port(&before), port(&after), "the connection to the screen is the same");
    });
    *result.lock().expect("the result")
}
