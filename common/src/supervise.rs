//! Asks the init's supervisor (s6) to start, stop and restart services. It owns no child itself.

use std::{fmt, fs, io, os::unix::fs::symlink, str::FromStr, time::Duration};

use crate::{
    paths::Paths,
    program::{self, ProgramError},
};

/// How long a service may take to come up or go down: milliseconds, as s6 wants it.
const WAIT: &str = "20000";
/// A little longer, for the tool itself.
const LIMIT: Duration = Duration::from_secs(25);

/// What to do with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Bring it up, if it is not.
    Start,
    /// Take it down, if it is up.
    Stop,
    /// Take it down and up again.
    Restart,
}

impl FromStr for Action {
    type Err = SuperviseError;

    fn from_str(word: &str) -> Result<Self, SuperviseError> {
        match word {
            "start" => Ok(Self::Start),
            "stop" => Ok(Self::Stop),
            "restart" | "reload" | "try-restart" => Ok(Self::Restart),
            _ => Err(SuperviseError::Action(word.to_owned())),
        }
    }
}

/// Whether a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it is up.
    pub up: bool,
    /// Its process, while it is up.
    pub pid: Option<u32>,
    /// Seconds since it came up or went down.
    pub seconds: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.up, self.pid) {
            (true, Some(pid)) => write!(f, "up {} s, process {pid}", self.seconds),
            (true, None) => write!(f, "up {} s", self.seconds),
            (false, _) => write!(f, "down {} s", self.seconds),
        }
    }
}

/// Why the supervisor did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// There is no service of this name.
    #[error("there is no service {0}")]
    Unknown(String),
    /// There is no such action.
    #[error("{0} is none of start, stop, restart")]
    Action(String),
    /// The tool of the supervisor failed.
    #[error(transparent)]
    Tool(#[from] ProgramError),
    /// The tool answered something unknown.
    #[error("s6-svstat answers something unknown: {0}")]
    Answer(String),
    /// A service cannot be linked.
    #[error("service {service} cannot be linked: {source}")]
    Link {
        /// Its name.
        service: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts, stops or restarts a service and waits until it is so, at most 20 s.
///
/// # Errors
/// Where there is no such service or it does not do so in time.
pub fn control(paths: &Paths, service: &str, action: Action) -> Result<(), SuperviseError> {
    let folder = folder(paths, service)?;
    let (wait, order) = match action {
        Action::Start => ("-wu", "-u"),
        Action::Stop => ("-wd", "-d"),
        Action::Restart if status(paths, service)?.up => ("-wr", "-r"),
        Action::Restart => ("-wu", "-u"),
    };
    program::run("s6-svc", [wait, "-T", WAIT, order, &folder], b"", LIMIT)?;
    Ok(())
}

/// Whether a service runs.
///
/// # Errors
/// Where there is no such service or its supervisor does not answer.
pub fn status(paths: &Paths, service: &str) -> Result<Status, SuperviseError> {
    let folder = folder(paths, service)?;
    let answer = program::run("s6-svstat", ["-o", "up,pid,updownfor", &folder], b"", LIMIT)?;
    let words: Vec<&str> = answer.split_ascii_whitespace().collect();
    let unknown = || SuperviseError::Answer(answer.trim().to_owned());
    let [up, pid, seconds] = words[..] else { return Err(unknown()) };
    Ok(Status { up: up == "true", pid: pid.parse().ok(), seconds: seconds.parse().map_err(|_| unknown())? })
}

/// The services that the supervisor knows, by name.
pub fn services(paths: &Paths) -> Vec<String> {
    let entries = fs::read_dir(paths.services()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| is_name(name));
    names.sort();
    names
}

/// Adds a service of the image ([`Paths::available`]) to those that run; [`rescan`] makes it known.
/// Returns whether the image has it.
///
/// # Errors
/// Where the link cannot be made.
pub fn link(paths: &Paths, service: &str) -> Result<bool, SuperviseError> {
    let from = paths.available().join(service);
    if !is_name(service) || !from.is_dir() {
        return Ok(false);
    }
    let done =
        fs::create_dir_all(paths.services()).and_then(|()| symlink(&from, paths.services().join(service)));
    match done {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(SuperviseError::Link { service: service.to_owned(), source })
        }
        _ => Ok(true),
    }
}

/// Has the supervisor start what was linked.
///
/// # Errors
/// Where it does not answer.
pub fn rescan(paths: &Paths) -> Result<(), SuperviseError> {
    program::run("s6-svscanctl", [std::ffi::OsStr::new("-a"), paths.services().as_os_str()], b"", LIMIT)?;
    Ok(())
}

fn folder(paths: &Paths, service: &str) -> Result<String, SuperviseError> {
    let folder = paths.services().join(service);
    if !is_name(service) || !folder.is_dir() {
        return Err(SuperviseError::Unknown(service.to_owned()));
    }
    Ok(folder.to_string_lossy().into_owned())
}

/// A service's name is a plain word: nobody leads out of the folder with it.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        process::{Child, Command},
    };

    use super::*;

    struct Supervisor(Child);

    impl Drop for Supervisor {
        fn drop(&mut self) {
            let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_real_supervisor_does_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let service = paths.available().join("core");
        fs::create_dir_all(&service).unwrap();
        fs::write(service.join("run"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(service.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(paths.services()).unwrap();
        let mut command = Command::new("s6-svscan");
        let _supervisor = Supervisor(command.arg(paths.services()).spawn().unwrap());
        while rescan(&paths).is_err() {
            std::thread::yield_now();
        }
        assert!(!link(&paths, "absent").unwrap());
        assert!(link(&paths, "core").unwrap());
        assert!(link(&paths, "core").unwrap(), "linking again does no harm");
        rescan(&paths).unwrap();
        while control(&paths, "core", Action::Start).is_err() {
            std::thread::yield_now();
        }
        let first = status(&paths, "core").unwrap();
        assert!(first.up);
        control(&paths, "core", Action::Restart).unwrap();
        assert_ne!(status(&paths, "core").unwrap().pid, first.pid);
        control(&paths, "core", Action::Stop).unwrap();
        assert!(!status(&paths, "core").unwrap().up);
        control(&paths, "core", Action::Restart).unwrap();
        assert!(status(&paths, "core").unwrap().up);
        control(&paths, "core", Action::Stop).unwrap();
        assert_eq!(services(&paths), ["core"]);
    }

    #[test]
    fn strange_names_are_unknown() {
        let paths = Paths::below("/nowhere");
        for name in ["", "..", "a/b", "-d", "none"] {
            assert!(matches!(status(&paths, name), Err(SuperviseError::Unknown(_))), "{name}");
        }
        assert!(matches!("explode".parse::<Action>(), Err(SuperviseError::Action(_))));
    }
}
