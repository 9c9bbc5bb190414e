//! What is wrong with this VM, as named causes: an operator, the management end and the log all read
//! the same list.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// A clock that is off by more than this makes certificates and signatures fail: seconds.
const CLOCK_LIMIT: f64 = 5.0;

/// The causes that are present; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// No cause.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a cause (`clock`, `socket dns`), or says more about it; logged where it is new or different.
    pub fn set(&self, cause: &str, detail: impl Into<String>) {
        let detail = detail.into();
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if causes.get(cause) != Some(&detail) {
            tracing::warn!(cause, detail, "unhealthy");
            causes.insert(cause.to_owned(), detail);
        }
    }

    /// Takes a cause away; logged where it was there.
    pub fn clear(&self, cause: &str) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(cause).is_some() {
            tracing::info!(cause, "healthy again");
        }
    }

    /// Sets or clears, by the outcome of a check.
    pub fn report(&self, cause: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.clear(cause),
            Err(detail) => self.set(cause, detail),
        }
    }

    /// All causes with their details, in order of their names.
    pub fn causes(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is no cause.
    pub fn is_well(&self) -> bool {
        self.causes().is_empty()
    }

    /// `health: healthy`, or a line `health: CAUSE: DETAIL` for each cause: what every role's `status` says.
    pub fn text(&self) -> String {
        text(self.causes().iter().map(|(cause, detail)| format!("{cause}: {detail}")))
    }

    /// Compares the clock with what chrony knows and sets or clears the cause `clock`. Takes at most 5 s.
    pub async fn check_clock(&self) {
        let outcome = timeout(Duration::from_secs(5), tracking()).await;
        self.report("clock", outcome.unwrap_or_else(|_| Err("chronyd does not answer".to_owned())));
    }
}

/// The lines of `status` about these causes, or that there is none.
pub fn text(causes: impl Iterator<Item = String>) -> String {
    let lines: String = causes.map(|cause| format!("health: {cause}\n")).collect();
    if lines.is_empty() { "health: healthy\n".to_owned() } else { lines }
}

async fn tracking() -> Result<(), String> {
    let output = Command::new("chronyc")
        .args(["-c", "tracking"])
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("chronyc cannot be started: {e}"))?;
    if !output.status.success() {
        return Err("chronyd does not answer".to_owned());
    }
    judge(&String::from_utf8_lossy(&output.stdout))
}

/// Judges a line of `chronyc -c tracking`: field 5 is the offset in seconds, the last one the leap status.
fn judge(line: &str) -> Result<(), String> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [_, _, _, _, offset, .., leap] = fields[..] else {
        return Err("chronyd answers something unknown".to_owned());
    };
    let offset: f64 = offset.parse().map_err(|_| "chronyd answers something unknown".to_owned())?;
    if leap.eq_ignore_ascii_case("not synchronised") {
        return Err("not synchronised with any time server".to_owned());
    }
    if offset.abs() > CLOCK_LIMIT {
        return Err(format!("off by {offset:.1} s"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_and_go() {
        let health = Health::new();
        assert_eq!(health.text(), "health: healthy\n");
        health.set("clock", "off by 9.0 s");
        health.clone().set("store", "does not answer");
        assert_eq!(health.text(), "health: clock: off by 9.0 s\nhealth: store: does not answer\n");
        health.report("clock", Ok(()));
        health.clear("store");
        assert!(health.is_well());
    }

    #[test]
    fn the_clock_is_judged() {
        let line = |offset: &str, leap: &str| {
            format!("C0A80001,10.0.0.1,3,1700000000.1,{offset},0.0,0.0,-1.0,0.0,0.1,0.01,0.001,64.5,{leap}\n")
        };
        assert_eq!(judge(&line("0.000012", "Normal")), Ok(()));
        assert_eq!(judge(&line("-7.25", "Normal")), Err("off by -7.2 s".to_owned()));
        assert!(judge(&line("0.0", "Not synchronised")).unwrap_err().contains("not synchronised"));
        assert!(judge("506 Cannot talk to daemon").is_err());
    }
}
