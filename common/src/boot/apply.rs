//! Carries out a [`Plan`]. One thing that fails does not keep the others from being done: a VM that
//! can be reached by SSH is better than none.

use std::{
    fs, io,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use super::{Facts, Plan};
use crate::{paths::Paths, persist, program, supervise};

/// Longest time for one program.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest time until the NICs are there.
const DEVICES: Duration = Duration::from_secs(15);
/// Names below the state folder that belong to a role.
const ROLES: [&str; 3] = ["router", "ssvm", "cpvm"];

/// Looks at the machine.
pub fn facts(paths: &Paths) -> Facts {
    let entries = fs::read_dir(paths.at("/sys/class/net")).into_iter().flatten().flatten();
    let mut devices: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    devices.sort();
    Facts { devices, host_clock: paths.at("/dev/ptp0").exists() }
}

/// Throws away what the roles kept: the VM is to be something else than before.
pub fn discard_state(paths: &Paths) -> Vec<String> {
    let removed = ROLES.map(|role| match fs::remove_dir_all(paths.state(role)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(format!("state of {role}: {error}")),
        _ => None,
    });
    removed.into_iter().flatten().collect()
}

/// Carries out a plan; returns what went wrong.
pub fn apply(plan: &Plan, paths: &Paths) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            wrong.push(format!("{what}: {error}"));
        }
    };
    if !plan.name.is_empty() {
        note("host name", rustix::system::sethostname(plan.name.as_bytes()).map_err(|e| e.to_string()));
    }
    for file in &plan.files {
        note(file.path, write(paths, file).map_err(|e| e.to_string()));
    }
    if !plan.filter.is_empty() {
        // Before the addresses: nothing is open for a moment.
        note("packet filter", run("nft", &["-f", "-"], plan.filter.as_bytes()));
    }
    for (key, value) in &plan.settings {
        note(key, fs::write(paths.at("/proc/sys").join(key), value).map_err(|e| e.to_string()));
    }
    note("NICs", wait_for(paths, &plan.devices));
    for (what, lines) in [("addresses", &plan.addresses), ("routes", &plan.routes)] {
        if !lines.is_empty() {
            // All lines are tried; the tool names those that failed.
            note(what, run("ip", &["-force", "-batch", "-"], (lines.join("\n") + "\n").as_bytes()));
        }
    }
    if !plan.role.is_empty() {
        let text = format!("{}\n", plan.role);
        note("role", persist::write(&paths.role(), text.as_bytes(), 0o644).map_err(|e| e.to_string()));
    }
    // Those that serve strangers may not make it themselves.
    note("media", fs::create_dir_all(paths.media()).map_err(|e| e.to_string()));
    note("log", main_log(paths).map_err(|e| e.to_string()));
    for service in plan.services {
        match supervise::link(paths, service) {
            Ok(true) => {}
            Ok(false) => tracing::info!(service, "the image does not have this service"),
            Err(error) => note(service, Err(error.to_string())),
        }
    }
    note("services", supervise::rescan(paths).map_err(|e| e.to_string()));
    wrong
}

fn write(paths: &Paths, file: &super::File) -> io::Result<()> {
    let path = paths.at(file.path);
    if file.path.starts_with("/root/.ssh/") {
        // sshd refuses keys in a folder that others may write.
        let folder = paths.at("/root/.ssh");
        fs::create_dir_all(&folder)?;
        rustix::fs::chmod(&folder, rustix::fs::Mode::from_raw_mode(0o700))?;
    }
    persist::write(&path, file.text.as_bytes(), file.mode)
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<(), String> {
    program::run(program, arguments, input, LIMIT).map(drop).map_err(|e| e.to_string())
}

/// Waits until the devices are there: drivers may still be at work.
fn wait_for(paths: &Paths, devices: &[String]) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let missing: Vec<&str> = devices
            .iter()
            .map(String::as_str)
            .filter(|d| !paths.at("/sys/class/net").join(d).exists())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if start.elapsed() > DEVICES {
            return Err(format!("{} did not appear", missing.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Operators look for the log of the role under the name that they know.
fn main_log(paths: &Paths) -> io::Result<()> {
    let name = paths.at("/var/log/cloud.log");
    fs::create_dir_all(paths.at("/var/log"))?;
    match symlink("core/current", name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
