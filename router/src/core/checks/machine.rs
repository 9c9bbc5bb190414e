//! Checks of the machine itself and of its neighbours: processor, memory, disk, version, gateways.

use std::{fs, net::Ipv4Addr, process::Stdio, time::Duration};

use common::paths::Paths;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Monitor, Outcome, records};
use crate::nft::run::PROGRAMS;

/// For so long the processor is watched.
const WATCH: Duration = Duration::from_millis(500);
/// Seconds that a gateway has to answer one of its echo requests, one a second.
const PATIENCE: &str = "4";
/// Time for all gateways together.
const GATEWAYS: Duration = Duration::from_secs(8);
/// Most gateways that are asked.
const MOST: usize = 64;

/// Percent of the processors' time that was used.
pub(super) async fn processor(most: Option<f64>) -> Option<Outcome> {
    let most = most?;
    let before = times()?;
    sleep(WATCH).await;
    let (all, idle) = times()?;
    let (all, idle) = (all.saturating_sub(before.0), idle.saturating_sub(before.1));
    #[expect(clippy::cast_precision_loss, reason = "percent for people")]
    let used = if all == 0 { 0.0 } else { 100.0 - idle as f64 * 100.0 / all as f64 };
    Some(bounded(used, most))
}

/// Ticks of all processors since the start: all, and idle ones.
fn times() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what guests use is within user.
    Some((ticks.iter().take(8).sum(), ticks.get(3)? + ticks.get(4)?))
}

fn bounded(used: f64, most: f64) -> Outcome {
    if used > most {
        Outcome::Failed(format!("{used:.1} % used, {most:.1} % allowed"))
    } else {
        Outcome::Success(format!("{used:.1} % used"))
    }
}

pub(super) fn disk(paths: &Paths, needed: Option<f64>) -> Option<Outcome> {
    let space = rustix::fs::statvfs(paths.state("router")).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
    let free = (space.f_bavail * space.f_frsize) as f64 / 1_048_576.0;
    let needed = needed?;
    Some(if free < needed {
        Outcome::Failed(format!("{free:.0} MB free, {needed:.0} MB needed"))
    } else {
        Outcome::Success(format!("{free:.0} MB free"))
    })
}

pub(super) fn memory(most: Option<f64>) -> Option<Outcome> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let figure = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let (all, free, most) = (figure("MemTotal:")?, figure("MemAvailable:")?, most?);
    Some(bounded((all - free) / all * 100.0, most))
}

/// The release and the archive of the host are those that the management server believes in. A difference is
/// no failure: that would have the router rebuilt, which changes neither.
pub(super) fn version(paths: &Paths, monitor: &Monitor) -> Option<Outcome> {
    let text = monitor.parameters.get("routerVersion")?;
    let fields = records(text).next()?;
    let read = |path: &str| fs::read_to_string(paths.at(path)).unwrap_or_default();
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let mut wrong = Vec::new();
    for (field, what, path) in [
        ("templateVersion", "release", "/etc/cloudstack-release"),
        ("scriptsVersion", "archive of the host", "/var/cache/cloud/cloud-scripts-signature"),
    ] {
        let present = first(read(path));
        if let Some(wanted) = fields.get(field)
            && !present.eq_ignore_ascii_case(wanted.trim())
        {
            wrong.push(format!("{what} is {present:?} and not {wanted:?}"));
        }
    }
    Some(if wrong.is_empty() {
        Outcome::Success("Release and archive are those expected".to_owned())
    } else {
        Outcome::Warning(wrong.join("; "))
    })
}

/// Each gateway answers an echo request; all are asked at once.
pub(super) async fn gateways(monitor: &Monitor) -> Option<Outcome> {
    let text = monitor.parameters.get("gateways")?;
    let list = text.trim().strip_prefix("gatewaysIps=")?;
    let gateways: Vec<Ipv4Addr> =
        list.split([' ', ';']).filter_map(|ip| ip.trim().parse().ok()).take(MOST).collect();
    if gateways.is_empty() {
        return None;
    }
    let mut asked = JoinSet::new();
    for gateway in &gateways {
        let gateway = *gateway;
        asked.spawn(async move { (gateway, answers(gateway).await) });
    }
    let mut silent = gateways.clone();
    let hear = async {
        while let Some(answer) = asked.join_next().await {
            if let Ok((gateway, true)) = answer {
                silent.retain(|g| *g != gateway);
            }
        }
    };
    // Those that were not heard in time stay silent.
    let _ = timeout(GATEWAYS, hear).await;
    Some(if silent.is_empty() {
        Outcome::Success(format!("All {} gateways answer", gateways.len()))
    } else {
        let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        Outcome::Failed(format!("No answer from {}", silent.join(", ")))
    })
}

async fn answers(gateway: Ipv4Addr) -> bool {
    // Ends with the first answer.
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-c", "1", "-w", PATIENCE, &gateway.to_string()]);
    ping.env("PATH", PROGRAMS).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ping.kill_on_drop(true).status().await.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(key: &str, value: &str) -> Monitor {
        Monitor { parameters: [(key.to_owned(), value.to_owned())].into(), ..Monitor::default() }
    }

    #[tokio::test]
    async fn what_is_within_its_bounds_is_well_and_what_is_not_asked_for_is_left_out() {
        assert!(matches!(processor(Some(100.1)).await, Some(Outcome::Success(_))));
        assert_eq!(processor(None).await, None);
        assert!(matches!(memory(Some(0.0)), Some(Outcome::Failed(_))));
        assert!(matches!(memory(Some(100.0)), Some(Outcome::Success(_))));
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        fs::create_dir_all(paths.state("router")).unwrap();
        assert!(matches!(disk(&paths, Some(0.0)), Some(Outcome::Success(_))));
        assert!(matches!(disk(&paths, Some(1e12)), Some(Outcome::Failed(_))));
    }

    #[test]
    fn another_version_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for folder in ["/etc", "/var/cache/cloud"] {
            fs::create_dir_all(paths.at(folder)).unwrap();
        }
        fs::write(paths.at("/etc/cloudstack-release"), "Cloudstack Release 4.22.0 Wed 22 Oct\n").unwrap();
        fs::write(paths.at("/var/cache/cloud/cloud-scripts-signature"), "9f2c\n").unwrap();
        let of = |text: &str| version(&paths, &monitor("routerVersion", text));
        let same = "templateVersion=Cloudstack Release 4.22.0 Wed 22 Oct,scriptsVersion=9F2C";
        assert!(matches!(of(same), Some(Outcome::Success(_))));
        let Some(Outcome::Warning(text)) = of(&same.replace("9F2C", "ffff")) else { panic!() };
        assert_eq!(text, r#"archive of the host is "9f2c" and not "ffff""#);
        assert_eq!(version(&paths, &Monitor::default()), None);
    }

    #[tokio::test]
    async fn gateways_are_asked_side_by_side() {
        assert_eq!(gateways(&Monitor::default()).await, None);
        assert_eq!(gateways(&monitor("gateways", "gatewaysIps= ")).await, None);
        let own = gateways(&monitor("gateways", "gatewaysIps=127.0.0.1 127.0.0.2 ")).await;
        assert_eq!(own, Some(Outcome::Success("All 2 gateways answer".to_owned())));
        let silent = gateways(&monitor("gateways", "gatewaysIps=127.0.0.1 240.0.0.1")).await;
        assert_eq!(silent, Some(Outcome::Failed("No answer from 240.0.0.1".to_owned())));
    }
}
