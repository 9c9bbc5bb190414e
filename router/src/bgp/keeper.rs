//! Sees to it that FRR's `zebra` and `bgpd` run while there is somebody to talk to, and say what they should.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    journal,
    paths::Paths,
    persist,
    program::{self, ProgramError},
    sandbox::User,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{config, plan::Speaker};
use crate::daemon::Daemon;

/// Time for `bgpd` to take a change.
const CHANGE: Duration = Duration::from_secs(10);
/// Version of the shape of what is remembered.
const VERSION: u32 = 1;
/// Whom both run as.
const USER: &str = "frr";

/// What `bgpd` was told; good for the process that was told so.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    pid: i32,
    speaker: Speaker,
}

/// Why it does not say what it should; it is tried again.
#[derive(Debug, thiserror::Error)]
enum SpeakError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Program(#[from] ProgramError),
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    paths: Paths,
    folder: PathBuf,
    zebra: Daemon,
    bgpd: Daemon,
    /// What the running `bgpd` was told.
    said: Option<Said>,
    failed: bool,
}

impl Keeper {
    /// What runs is found when it is first looked at.
    pub fn new(paths: &Paths) -> Self {
        let folder = paths.run().join("frr");
        let daemon = |program: &'static str, name: &str| {
            let output = folder.join(format!("{name}.out"));
            Daemon::new(program, folder.join(format!("{name}.pid")), output)
        };
        let said = persist::load(&folder.join("said"), VERSION).ok().and_then(|loaded| loaded.value);
        Self {
            zebra: daemon("/usr/lib/frr/zebra", "zebra"),
            bgpd: daemon("/usr/lib/frr/bgpd", "bgpd"),
            paths: paths.clone(),
            folder,
            said,
            failed: false,
        }
    }

    /// Brings both to what is wanted. Failures are logged, and tried again.
    pub async fn tend(&mut self, wanted: Option<Speaker>) {
        for line in self.zebra.news().into_iter().chain(self.bgpd.news()) {
            journal::note(&self.paths, "frr", &line);
        }
        let Some(wanted) = wanted else {
            // Its sessions end in order.
            self.bgpd.end().await;
            self.zebra.end().await;
            return;
        };
        match self.bring(wanted).await {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                tracing::warn!(%error, "routes are not told as they should be");
                self.failed = true;
            }
            Err(_) => {}
        }
    }

    async fn bring(&mut self, wanted: Speaker) -> Result<(), SpeakError> {
        if !self.folder.exists() {
            fs::create_dir_all(&self.folder)?;
            let user = User::named(&self.paths, USER)?;
            if let Some(user) = user {
                chown(&self.folder, Some(user.uid), Some(user.gid))?;
            }
        }
        // A peer some routers away is reached by the default route. There is nobody in the image who would ask root
        // for a password (PAM).
        for (name, text) in [
            ("zebra.conf", "ip nht resolve-via-default\n"),
            ("bgpd.conf", ""),
            ("vtysh.conf", "username root nopassword\n"),
        ] {
            let file = self.folder.join(name);
            if !file.exists() {
                persist::write(&file, text.as_bytes(), 0o644)?;
            }
        }
        let at = |name: &str| self.folder.join(name).into_os_string();
        let common = |name: &str| -> Vec<OsString> {
            let mut words: Vec<OsString> = ["-u", USER, "-g", USER, "-P", "0", "-f"].map(Into::into).into();
            words.push(at(&format!("{name}.conf")));
            words.extend(["--log".into(), "stdout".into(), "-i".into(), at(&format!("{name}.pid"))]);
            words.extend(["--vty_socket".into(), self.folder.clone().into_os_string()]);
            words.extend(["-z".into(), at("zserv.api")]);
            words
        };
        if !self.bgpd.runs() {
            // One that was killed has left it.
            let _ = fs::remove_file(self.folder.join("bgpd.vty"));
        }
        self.zebra.start(common("zebra"))?;
        self.bgpd.start(common("bgpd").into_iter().chain(["-p".into(), super::PORT.to_string().into()]))?;
        let Some(pid) = self.bgpd.pid().map(|pid| pid.as_raw_nonzero().get()) else { return Ok(()) };
        let before = self.said.as_ref().filter(|said| said.pid == pid).map(|said| &said.speaker);
        if before == Some(&wanted) {
            return Ok(());
        }
        if !self.folder.join("bgpd.vty").exists() {
            // It has just been started.
            return Ok(());
        }
        // The lines name passwords: they are not for everybody who lists processes.
        let (folder, file) = (self.folder.clone(), self.folder.join("change"));
        let text = config::change(before, Some(&wanted)).join("\n") + "\n";
        persist::write(&file, text.as_bytes(), 0o600)?;
        let run = spawn_blocking(move || {
            let done = say(&folder, ["-f".into(), file.clone().into_os_string()]);
            let _ = fs::remove_file(file);
            done
        });
        run.await.map_err(io::Error::other)??;
        let said = Said { pid, speaker: wanted };
        // It names passwords.
        persist::save(&self.folder.join("said"), VERSION, &said).map_err(io::Error::other)?;
        self.said = Some(said);
        Ok(())
    }

    /// Whether both run where they should.
    pub fn is_well(&mut self, wanted: bool) -> bool {
        !wanted || (self.zebra.runs() && self.bgpd.runs() && !self.failed)
    }

    /// How sessions stand, in FRR's own words; for an operator.
    pub async fn report(&mut self) -> Option<String> {
        if !self.bgpd.runs() {
            return None;
        }
        let folder = self.folder.clone();
        let run = spawn_blocking(move || say(&folder, ["-c".into(), "show bgp summary".into()]));
        run.await.ok()?.ok()
    }
}

/// Talks to `bgpd` by its socket; tells what it prints.
fn say(folder: &Path, what: [OsString; 2]) -> Result<String, ProgramError> {
    let to = [
        "--vty_socket".into(),
        folder.into(),
        "--config_dir".into(),
        folder.into(),
        "-d".into(),
        "bgpd".into(),
    ];
    program::run("vtysh", to.into_iter().chain(what), b"", CHANGE)
}
