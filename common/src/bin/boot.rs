//! Sets a system VM up for its role: waits for the boot arguments, configures the base system, and
//! has the supervisor start the role's services. Runs once, as the first service of the VM. With the
//! word `end` it is the last program of the VM: it powers off or restarts the machine. With the word
//! `confirm` it watches over the one attempt of a new root.

use std::{fs, io, process::ExitCode, time::Duration};

use common::{
    boot::{self, Identity, Seen},
    log,
    paths::Paths,
    persist, roots, timeline,
};
use rustix::system::RebootCommand;

/// A host gives up long before; an operator may still write the file by hand.
const LIMIT: Duration = Duration::from_secs(3600);
/// A new root must have become ready in this time, and its services have run for so long.
const TRIAL: Duration = Duration::from_secs(300);
const SETTLE: Duration = Duration::from_secs(20);
/// For so long a host may still correct arguments of the boot before.
const WATCH: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    log::init();
    let paths = Paths::from_env();
    match std::env::args().nth(1).as_deref() {
        Some("end") => return said(end(&paths), "the machine cannot be ended"),
        Some("confirm") => return said(confirm(&paths), "the attempt of the new root has no end"),
        _ => {}
    }
    if paths.role().exists() {
        tracing::info!("this boot was set up before");
        return ExitCode::SUCCESS;
    }
    match run(&paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            boot::console(&paths, &format!("trivium: boot: {error}"));
            tracing::error!(%error, "the boot failed");
            ExitCode::FAILURE
        }
    }
}

/// Says what went wrong.
fn said(outcome: io::Result<()>, what: &str) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "{what}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps a new root that became ready; otherwise the machine restarts, into the root before.
fn confirm(paths: &Paths) -> io::Result<()> {
    if roots::confirm(paths, SETTLE, TRIAL).map_err(io::Error::other)? {
        timeline::note(paths, "root: it is well and stays");
        tracing::info!("the new root is well and stays");
        return Ok(());
    }
    boot::console(paths, "trivium: root: it did not become ready: the VM restarts with the one before");
    tracing::error!("the new root did not become ready: the VM restarts with the one before");
    rustix::fs::sync();
    Ok(rustix::system::reboot(RebootCommand::Restart)?)
}

fn run(paths: &Paths) -> io::Result<()> {
    match fs::remove_file(paths.boot_done()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = Seen::load(paths);
    timeline::note(paths, "boot: waits for boot arguments");
    let seen = boot::wait(paths, before.as_ref(), LIMIT)?;
    timeline::note(paths, "boot: has boot arguments");
    set_up(paths, before.as_ref(), &seen)?;
    if before.as_ref() == Some(&seen) {
        watch(paths, &seen)?;
    }
    Ok(())
}

fn set_up(paths: &Paths, before: Option<&Seen>, seen: &Seen) -> io::Result<()> {
    if before.is_none_or(|before| before.line != seen.line) {
        tracing::info!("new boot arguments: the state of the role before is discarded");
        for wrong in boot::discard_state(paths) {
            tracing::warn!(wrong, "cannot be discarded");
        }
    }
    let facts = boot::facts(paths);
    let plan = match Identity::parse(&seen.line) {
        Ok(identity) => {
            tracing::info!(kind = identity.kind, name = identity.name, unknown = ?identity.unknown(), "boot arguments");
            boot::plan(&identity, &facts)
        }
        Err(error) => boot::rescue(&seen.line, &error.to_string(), &facts),
    };
    if seen.written == (0, 0) {
        // Everybody else reads the arguments from the file, wherever they came from.
        persist::write(&paths.cmdline(), format!("{}\n", seen.line).as_bytes(), 0o600)?;
    }
    let wrong = boot::apply(&plan, paths);
    timeline::note(paths, "boot: the machine is set up, services start");
    for line in plan.remarks.iter().chain(&wrong) {
        tracing::warn!("{line}");
        boot::console(paths, &format!("trivium: boot: {line}"));
    }
    seen.save(paths).map_err(io::Error::other)?;
    if plan.role.is_empty() {
        return Err(io::Error::other("the boot arguments name no role: only SSH is up"));
    }
    Ok(())
}

/// Powers the machine off where `/run/halt` begins with `o`, restarts it otherwise. Does not return:
/// nothing more may be read, the disk goes first.
fn end(paths: &Paths) -> io::Result<()> {
    let off = fs::read(paths.at("/run/halt")).is_ok_and(|word| word.first() == Some(&b'o'));
    rustix::fs::sync();
    let command = if off { RebootCommand::PowerOff } else { RebootCommand::Restart };
    Ok(rustix::system::reboot(command)?)
}

/// The arguments of the boot before were used. Where the host writes others after all, the VM restarts with them.
fn watch(paths: &Paths, seen: &Seen) -> io::Result<()> {
    match boot::wait_for_other(paths, seen, WATCH) {
        Some(other) if other.line != seen.line => {
            boot::console(paths, "trivium: boot: new boot arguments came: the VM restarts");
            tracing::warn!("new boot arguments came late: the VM restarts");
            rustix::fs::sync();
            rustix::system::reboot(RebootCommand::Restart)?;
            Ok(())
        }
        Some(other) => other.save(paths).map_err(io::Error::other),
        None => Ok(()),
    }
}
