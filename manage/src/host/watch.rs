//! Sees VMs end, and tells the manager at once.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{Read, Seek, SeekFrom},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use common::{
    channel::agent::AgentHandle,
    command::host::{Power, VmReport},
};

use super::{Host, record, record::Folder, start};
use crate::fence::guard;

/// Between two looks at the processes.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at the packet filter.
const RULES: Duration = Duration::from_secs(10);
/// A serial console's log is cut when it is longer than this; its end is kept beside it.
const SERIAL_LIMIT: u64 = 4 * 1024 * 1024;
/// How much of the end is kept.
const SERIAL_KEPT: u64 = 512 * 1024;

/// Says which VMs run already.
pub(super) fn adopt(host: &Host) {
    for (name, report) in host.report() {
        if report.state == Power::PowerOn {
            tracing::info!("{name} runs already");
        }
    }
}

/// Looks after the VMs until it is cancelled.
pub(super) async fn watch(host: std::sync::Arc<Host>, agent: AgentHandle) {
    let mut before = host.report();
    let mut status = agent.status();
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        keep_guard(&host, &agent).await;
        if looked.elapsed() > RULES {
            host.groups.look().await;
            looked = Instant::now();
        }
        let folders = record::all(&host.state);
        for folder in &folders {
            tidy(&host, folder).await;
        }
        let now = host.report();
        if now != before {
            agent.ping().await;
            before = now;
        }
    }
}

/// Sees to it that a guard runs. After it has fenced this host the connection is made anew, for orders that came by
/// the old one are void.
async fn keep_guard(host: &Host, agent: &AgentHandle) {
    if let Err(error) = guard::ensure(&host.state) {
        tracing::error!("no guard: {error}");
    }
    let connected = agent.status().borrow().server.is_some();
    let epoch = host.epoch.load(Ordering::Acquire);
    if connected && host.fenced().is_some_and(|fenced| fenced != epoch) {
        tracing::warn!("this host was fenced; it connects anew");
        agent.reload().await;
    }
}

/// Takes back what a VM had that has ended by itself, and keeps its log short.
async fn tidy(host: &Host, folder: &Folder) {
    trim(folder);
    let name = folder.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let turns = host.turns(name);
    // While it is started or stopped this is the business of those.
    let Ok(_turn) = turns.life.try_lock() else { return };
    if let Some(mut record) = start::known(folder)
        && record.process.is_some()
        && !record.is_alive()
    {
        tracing::warn!("{name} has ended by itself");
        start::clear(host, folder, &mut record).await;
    }
}

fn trim(folder: &Folder) {
    let path = folder.serial();
    let cut = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        if file.metadata()?.len() <= SERIAL_LIMIT {
            return Ok(());
        }
        file.seek(SeekFrom::End(-i64::try_from(SERIAL_KEPT).unwrap_or(0)))?;
        let mut end = Vec::new();
        (&mut file).take(SERIAL_KEPT).read_to_end(&mut end)?;
        std::fs::write(path.with_extension("old"), end)?;
        // QEMU appends: what it writes next lands at the new end.
        file.set_len(0)
    };
    if path.exists()
        && let Err(error) = cut()
    {
        tracing::warn!("{}: {error}", path.display());
    }
}

impl Host {
    /// What runs on this host.
    pub(super) fn report(&self) -> BTreeMap<String, VmReport> {
        let records = record::all(&self.state).into_iter().filter_map(|folder| start::known(&folder));
        records
            .map(|record| {
                let alive = record.is_alive();
                let report = VmReport {
                    state: if alive { Power::PowerOn } else { Power::PowerOff },
                    host: self.name.clone(),
                    start_id: record.vm.start_id.clone(),
                    ready: alive && record.ready,
                };
                (record.vm.name, report)
            })
            .collect()
    }
}
