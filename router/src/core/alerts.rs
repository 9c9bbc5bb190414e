//! What the management server is to hear of by itself: `getRouterAlerts.sh` (router contract 2.8).

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use common::{
    paths::Paths,
    persist::{self, PersistError},
};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use super::{clock::Civil, engine::Engine};

/// Version of the shape of the file.
const VERSION: u32 = 1;
/// Alerts that are kept.
const KEPT: usize = 100;
/// For so long the part that answers guests may be away: a restart takes less.
const AWAY: Duration = Duration::from_secs(5);
/// What is told of a part that ended and was there again at once.
pub(super) const RESTARTED: &str = "service had ended and was started again";

/// The alerts, the oldest first; they outlive the core.
#[derive(Debug)]
pub(super) struct Alerts {
    file: PathBuf,
    lines: VecDeque<String>,
}

impl Alerts {
    /// Those that were noted before.
    pub(super) fn load(paths: &Paths) -> Result<Self, PersistError> {
        let file = paths.state("router").join("alerts");
        let loaded = persist::load(&file, VERSION)?;
        Ok(Self { file, lines: loaded.value.unwrap_or_default() })
    }

    /// Notes one. `severity` is `ALERT` or `INFO`.
    pub(super) fn note(&mut self, severity: &str, process: &str, text: &str) {
        let now = Civil::from(SystemTime::now());
        let line = format!("{},{:03} [{severity}] [{process}] {text}", now.text(), now.millisecond);
        self.lines.push_back(line);
        while self.lines.len() > KEPT {
            self.lines.pop_front();
        }
        if let Err(error) = persist::save(&self.file, VERSION, &self.lines) {
            tracing::warn!(%error, "alerts cannot be kept");
        }
    }

    /// Those after a moment, `2025-11-02 10:15:00`, in one line. The management server knows moments to the second.
    pub(super) fn since(&self, moment: &str) -> String {
        let newer = self.lines.iter().filter(|line| line.split(',').next().unwrap_or_default() > moment);
        let newer: Vec<&str> = newer.map(String::as_str).collect();
        if newer.is_empty() { "No Alerts\n".to_owned() } else { newer.join("\\n") + "\n" }
    }
}

/// Notes when the part that answers guests was started again, and where that takes longer than it should, that it
/// is away.
pub(super) async fn follow(mut connected: watch::Receiver<bool>, engine: &Mutex<Engine>) {
    // The first time it comes is no news.
    while connected.wait_for(|there| *there).await.is_ok() {
        if connected.wait_for(|there| !*there).await.is_err() {
            return;
        }
        if timeout(AWAY, connected.wait_for(|there| *there)).await.is_ok() {
            engine.lock().await.alerts.note("INFO", "serve", RESTARTED);
            continue;
        }
        let text = "service is down: guests get no addresses, names and metadata";
        engine.lock().await.alerts.note("ALERT", "serve", text);
        if connected.wait_for(|there| *there).await.is_ok() {
            engine.lock().await.alerts.note("INFO", "serve", "service is running again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_told_once_and_outlive_the_core() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let mut alerts = Alerts::load(&paths).unwrap();
        assert_eq!(alerts.since("1970-01-01 00:00:00"), "No Alerts\n");
        for n in 0..=KEPT {
            alerts.note("ALERT", "serve", &format!("text {n}"));
        }
        let alerts = Alerts::load(&paths).unwrap();
        let all = alerts.since("1970-01-01 00:00:00");
        assert_eq!(all.lines().count(), 1);
        let records: Vec<&str> = all.trim_end().split("\\n").collect();
        assert_eq!(records.len(), KEPT);
        assert!(records[0].ends_with(" [ALERT] [serve] text 1"), "{}", records[0]);
        let mark = records[KEPT - 1].split(',').next().unwrap();
        assert_eq!((mark.len(), alerts.since(mark)), (19, "No Alerts\n".to_owned()));
    }
}
