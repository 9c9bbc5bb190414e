//! Starting and stopping a VM, step by step (management channel 5.3).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use common::command::host::{Boot, Traffic, VirtualMachine};
use tokio::process::Command;

use super::{
    Host, HostError, agent, monitor, net,
    qemu::{self, Place, QEMU},
    record::{Folder, Process, Record, write_private},
    ssh::{self, Ssh},
};

/// Time for QEMU to come up.
const QEMU_LIMIT: Duration = Duration::from_secs(30);
/// Time for a VM's agent to take the boot arguments (router contract 1.1).
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// Time for SSH to answer after that (management channel 5.3).
const SSH_LIMIT: Duration = Duration::from_secs(600);
/// Time for the key store commands to be there.
const PATCHED_LIMIT: Duration = Duration::from_secs(600);
/// Time for a VM to power off by itself.
const SHUT_DOWN: Duration = Duration::from_secs(20);

/// Milliseconds of each step.
pub(super) type Steps = BTreeMap<String, u64>;

struct Clock {
    steps: Steps,
    last: Instant,
}

impl Clock {
    fn step(&mut self, name: &str) {
        let passed = u64::try_from(self.last.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.steps.insert(name.to_owned(), passed);
        self.last = Instant::now();
    }
}

/// Starts `vm`, or goes on where a start was cut off. A start that fails leaves nothing running. `epoch` is how often
/// this host had been fenced when the order came.
pub(super) async fn start(host: &Host, vm: VirtualMachine, epoch: u64) -> Result<Steps, HostError> {
    let folder = Folder::new(&host.state, &vm.name)?;
    folder.make()?;
    let mut clock = Clock { steps: Steps::new(), last: Instant::now() };
    let mut record = match known(&folder) {
        Some(record) if record.is_alive() => record,
        old => {
            host.may_start(epoch).await?;
            let mut record = boot(host, &folder, vm, old.and_then(|r| r.image)).await?;
            if let Err(error) = host.may_start(epoch).await {
                end(&folder, &record).await;
                clear(host, &folder, &mut record).await;
                return Err(error);
            }
            clock.step("1 QEMU");
            record
        }
    };
    if record.ready {
        return Ok(clock.steps);
    }
    if let Err(error) = prepare(host, &folder, &record.vm, &mut clock).await {
        end(&folder, &record).await;
        clear(host, &folder, &mut record).await;
        return Err(error);
    }
    record.ready = true;
    record.save(&folder)?;
    Ok(clock.steps)
}

/// The record of a VM. Where the program was cut off between the start of QEMU and the record of
/// it, QEMU's own file tells its process id.
pub(super) fn known(folder: &Folder) -> Option<Record> {
    let mut record = Record::load(folder)?;
    if record.process.is_none() {
        record.process = running(folder, &record.vm.uuid);
    }
    Some(record)
}

fn running(folder: &Folder, uuid: &str) -> Option<Process> {
    let pid: i32 = fs::read_to_string(folder.pid_file()).ok()?.trim().parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = words.split(|byte| *byte == 0).any(|word| word == uuid.as_bytes());
    if ours { Process::find(pid) } else { None }
}

async fn boot(
    host: &Host,
    folder: &Folder,
    vm: VirtualMachine,
    image: Option<(u64, i64)>,
) -> Result<Record, HostError> {
    let image = match &vm.boot {
        Boot::Image { path } => Some(disk(folder, Path::new(path), image).await?),
        Boot::Kernel { .. } => None,
    };
    if let Some(password) = &vm.vnc_password {
        write_private(&folder.console_secret(), password.as_bytes())?;
    }
    host.groups.plug(&vm).await?;
    net::plug(&vm).await?;
    for stale in [folder.pid_file(), folder.agent(), folder.qmp(), folder.ssh()] {
        let _ = fs::remove_file(stale);
    }
    let mut record = Record { vm, process: None, ready: false, console_port: None, image };
    record.save(folder)?;
    let place = Place {
        accelerator: host.accelerator().await,
        console_address: &host.address,
        vhost: Path::new("/dev/vhost-net").exists(),
    };
    launch(&qemu::arguments(&record.vm, folder, &place)).await?;
    record.process = running(folder, &record.vm.uuid);
    if record.process.is_none() {
        return Err(HostError::Command { command: QEMU.to_owned(), reason: "ended at once".to_owned() });
    }
    if record.vm.vnc_password.is_some() {
        record.console_port = monitor::console_port(&folder.qmp()).await.ok();
    }
    record.save(folder)?;
    tracing::info!("{} runs under {}", record.vm.name, place.accelerator.word());
    Ok(record)
}

/// The VM's own overlay, which keeps its state from one start to the next. It fits one image only:
/// where the image is another one now, the VM begins with an empty disk.
async fn disk(folder: &Folder, image: &Path, before: Option<(u64, i64)>) -> Result<(u64, i64), HostError> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(image).map_err(HostError::file(image))?;
    let now = (meta.len(), meta.mtime());
    let disk = folder.disk();
    if disk.exists() && before == Some(now) {
        return Ok(now);
    }
    if disk.exists() {
        tracing::warn!("{}: the image has changed, the VM begins with an empty disk", disk.display());
        fs::remove_file(&disk).map_err(HostError::file(&disk))?;
    }
    let fail = |reason: String| HostError::Command { command: "qemu-img create".to_owned(), reason };
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([image, &disk])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(now)
}

/// Starts QEMU, which ends as soon as its child in the background is up.
async fn launch(arguments: &[String]) -> Result<(), HostError> {
    let fail = |reason: String| HostError::Command { command: QEMU.to_owned(), reason };
    let mut command = Command::new(QEMU);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let output = tokio::time::timeout(QEMU_LIMIT, command.output())
        .await
        .map_err(|_| fail(format!("not up within {QEMU_LIMIT:?}")))?
        .map_err(|error| fail(format!("{error}; is the package qemu-system-x86 installed?")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// What a system VM needs before it can be used: boot arguments, then files over SSH.
async fn prepare(
    host: &Host,
    folder: &Folder,
    vm: &VirtualMachine,
    clock: &mut Clock,
) -> Result<(), HostError> {
    let Some(arguments) = &vm.boot_args else { return Ok(()) };
    agent::hand_over(&folder.agent(), arguments, AGENT_LIMIT)
        .await
        .map_err(|source| HostError::Agent { vm: vm.name.clone(), source })?;
    clock.step("2 boot arguments");
    let control = vm.nics.iter().find(|nic| nic.traffic == Traffic::Control);
    let control = control.ok_or_else(|| HostError::NoControl(vm.name.clone()))?;
    let ssh = host.ssh(folder, &control.ip);
    ssh.close().await;
    ssh.wait(SSH_LIMIT).await?;
    ssh.ping().await?;
    clock.step("3 SSH answers");
    ssh.copy(&patch_files(&host.state)?, ssh::cache()).await?;
    clock.step("4 files copied");
    if vm.name.starts_with("s-") || vm.name.starts_with("v-") {
        patched(&ssh).await?;
        clock.step("5 key store commands");
    }
    Ok(())
}

/// Waits until the key store commands are there.
async fn patched(ssh: &Ssh) -> Result<(), HostError> {
    let command = format!("{} {}", ssh::script("patched.sh"), ssh::script("keystore*"));
    let wait = async {
        loop {
            if ssh.run(&command, Duration::from_secs(120)).await?.code == Some(0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(PATCHED_LIMIT, wait).await.unwrap_or_else(|_| {
        Err(HostError::Command {
            command: "patched.sh".to_owned(),
            reason: "no key store commands".to_owned(),
        })
    })
}

/// The three files that every host copies into every system VM. Ours hold nothing: the VMs discard
/// them, and a host of ours has no need to change a VM.
fn patch_files(state: &Path) -> Result<Vec<PathBuf>, HostError> {
    let folder = state.join("patch");
    fs::create_dir_all(&folder).map_err(HostError::file(&folder))?;
    // The empty archives of their formats.
    let zip: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tgz: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let script: &[u8] = b"#!/bin/sh\nexit 0\n";
    let mut paths = Vec::new();
    for (name, content) in [("agent.zip", zip), ("cloud-scripts.tgz", tgz), ("patch-sysvms.sh", script)] {
        let path = folder.join(name);
        if fs::read(&path).ok().as_deref() != Some(content) {
            fs::write(&path, content).map_err(HostError::file(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(HostError::file(&path))?;
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Stops a VM: asks it to power off unless `force`, then cuts its power.
pub(super) async fn stop(host: &Host, name: &str, force: bool) -> Result<(), HostError> {
    let folder = Folder::new(&host.state, name)?;
    let Some(mut record) = known(&folder) else { return Ok(()) };
    if record.is_alive() {
        let control = record.vm.nics.iter().find(|nic| nic.traffic == Traffic::Control);
        if let Some(control) = control.filter(|_| record.ready && !force) {
            let ssh = host.ssh(&folder, &control.ip);
            if name.starts_with("s-") || name.starts_with("v-") {
                let command = "cp -f /var/cache/cloud/cmdline /var/cache/cloud/cmdline.backup";
                let _ = ssh.run(command, Duration::from_secs(10)).await;
            }
            ssh.close().await;
        }
        if !force {
            let asked = match record.vm.boot_args {
                Some(_) => agent::shut_down(&folder.agent()).await,
                None => monitor::power_button(&folder.qmp()).await,
            };
            if asked.is_ok() {
                ended(&record, SHUT_DOWN).await;
            }
        }
        end(&folder, &record).await;
    }
    clear(host, &folder, &mut record).await;
    Ok(())
}

/// Ends the system VMs below a host's folder at once, and tells which. Guests are started nowhere else, so they run on.
pub(crate) fn end_system_vms(state: &Path) -> Vec<String> {
    let records = super::record::all(state).into_iter().filter_map(|folder| known(&folder));
    let system = records.filter(|record| record.vm.boot_args.is_some() && record.is_alive());
    system.filter(kill).map(|record| record.vm.name).collect()
}

/// Cuts the power; true where there was something to cut.
fn kill(record: &Record) -> bool {
    let pid = record.process.and_then(|process| rustix::process::Pid::from_raw(process.pid));
    let pid = pid.filter(|_| record.is_alive());
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
}

/// Ends QEMU for certain.
async fn end(folder: &Folder, record: &Record) {
    if !record.is_alive() {
        return;
    }
    let quit = monitor::quit(&folder.qmp()).await;
    if quit.is_ok() && ended(record, Duration::from_secs(5)).await {
        return;
    }
    if kill(record) {
        ended(record, Duration::from_secs(5)).await;
    }
}

async fn ended(record: &Record, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while record.is_alive() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

/// Takes back what a VM that has ended had.
pub(super) async fn clear(host: &Host, folder: &Folder, record: &mut Record) {
    net::unplug(&record.vm).await;
    host.groups.unplug(&record.vm).await;
    record.process = None;
    record.ready = false;
    record.console_port = None;
    let _ = fs::remove_file(folder.pid_file());
    if let Err(error) = record.save(folder) {
        tracing::warn!("{}: {error}", record.vm.name);
    }
}
