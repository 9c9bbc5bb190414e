//! Services by the names that hosts and operators know them by.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    time::Duration,
};

use super::wire::{self, Reply, Request};
use crate::{
    paths::Paths,
    roots,
    supervise::{self, Action},
};

/// Bytes of a log that are shown.
const TAIL: u64 = 64 * 1024;

/// Logs that are single files: of the shim, and of programs that a role's core looks after.
const PLAIN: [&str; 5] = ["shim", "haproxy", "keepalived", "conntrackd", "frr"];

/// The services of the image behind a name of the reference; empty where nothing of it runs here.
fn behind(paths: &Paths, name: &str) -> Vec<String> {
    let names: &[&str] = match name {
        "cloud" => &["serve", "core"],
        "dnsmasq" | "apache2" | "cloud-password-server" => &["serve"],
        "ssh" => &["sshd"],
        "chrony" | "ntpsec" | "ntp" => &["chronyd"],
        "ipsec" | "strongswan" | "strongswan-starter" => &["charon"],
        other => &[other],
    };
    let known = supervise::services(paths);
    names.iter().filter(|n| known.iter().any(|k| k == *n)).map(|n| (*n).to_owned()).collect()
}

/// Starts, stops or restarts what is behind a name. What is not here is stopped already.
pub(super) fn control(paths: &Paths, name: &str, action: Action) -> Reply {
    let services = behind(paths, name);
    if services.is_empty() && action != Action::Stop {
        return Reply::fail(5, format_args!("{name}: no such service"));
    }
    for service in &services {
        if let Err(error) = supervise::control(paths, service, action) {
            return Reply::fail(1, error);
        }
    }
    Reply::default()
}

/// What `systemctl is-active` (one word) or `systemctl status` says.
pub(super) fn show(paths: &Paths, name: &str, brief: bool) -> Reply {
    let services = behind(paths, name);
    let states: Vec<_> = services.iter().map(|s| (s, supervise::status(paths, s))).collect();
    let up = !states.is_empty() && states.iter().all(|(_, status)| status.as_ref().is_ok_and(|s| s.up));
    let word = if up { "active" } else { "inactive" };
    let mut stdout = if brief { format!("{word}\n") } else { format!("{name}: {word}\n") };
    if !brief {
        for (service, status) in &states {
            let status = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            stdout.push_str(&format!("  {service}: {status}\n"));
        }
    }
    Reply { stdout, stderr: String::new(), code: if up { 0 } else { 3 } }
}

/// `status`: the role, its services, and what its core says.
pub(super) fn status(paths: &Paths) -> Reply {
    let role = fs::read_to_string(paths.role()).unwrap_or_default();
    let role = if role.trim().is_empty() { "no role yet" } else { role.trim() };
    let booted = if paths.boot_done().exists() { "ready" } else { "not ready" };
    let mut reply = Reply::ok(format!("{role}, {booted}\n{}", roots::status(paths)));
    for service in supervise::services(paths) {
        let status = supervise::status(paths, &service).map_or_else(|e| e.to_string(), |s| s.to_string());
        reply.stdout.push_str(&format!("  {service}: {status}\n"));
    }
    match wire::call(paths, &Request::new(["status"]), Duration::from_secs(30)) {
        Ok(core) => {
            reply.stdout.push_str(&core.stdout);
            reply.stderr = core.stderr;
            reply.code = core.code;
        }
        Err(error) => {
            reply.stderr = format!("the core does not answer: {error}\n");
            reply.code = 1;
        }
    }
    reply
}

/// `logs [service]`: the end of a service's log; without a name, which there are.
pub(super) fn logs(paths: &Paths, service: Option<&str>) -> Reply {
    let folder = paths.at("/var/log");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    let plain = |name: &str| PLAIN.iter().any(|known| name == format!("{known}.log"));
    names.retain(|name| folder.join(name).join("current").is_file() || plain(name));
    names.sort();
    let Some(service) = service else {
        return Reply::ok(format!("logs of: {}\n", names.join(" ").replace(".log", "")));
    };
    let file = match service {
        plain if PLAIN.contains(&plain) => folder.join(format!("{plain}.log")),
        service if names.iter().any(|name| name == service) => folder.join(service).join("current"),
        _ => return Reply::fail(1, format_args!("logs: there are logs of: {}", names.join(" "))),
    };
    let tail = fs::File::open(file).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match tail {
        Ok(bytes) => Reply::ok(String::from_utf8_lossy(&bytes)),
        Err(error) => Reply::fail(1, format_args!("logs: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_shown_from_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        fs::create_dir_all(paths.at("/var/log/core")).unwrap();
        fs::write(paths.at("/var/log/core/current"), "x".repeat(100_000) + "end\n").unwrap();
        assert_eq!(logs(&paths, None).stdout, "logs of: core\n");
        let shown = logs(&paths, Some("core")).stdout;
        assert!(shown.len() <= 65_536 && shown.ends_with("end\n"));
        fs::write(paths.at("/var/log/haproxy.log"), "WARNING\n").unwrap();
        assert_eq!(logs(&paths, None).stdout, "logs of: core haproxy\n");
        assert_eq!(logs(&paths, Some("haproxy")).stdout, "WARNING\n");
        assert_eq!(logs(&paths, Some("shim")).code, 1, "it has noted nothing yet");
        assert_eq!(logs(&paths, Some("../../etc")).code, 1);
    }

    #[test]
    fn what_is_not_here_is_stopped_and_cannot_be_started() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        assert_eq!(control(&paths, "keepalived", Action::Stop).code, 0);
        assert_eq!(control(&paths, "keepalived", Action::Start).code, 5);
        assert_eq!(
            show(&paths, "cloud", true),
            Reply { stdout: "inactive\n".into(), stderr: String::new(), code: 3 }
        );
        assert_eq!(status(&paths).code, 1);
    }
}
