//! The commands that a host takes.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::Ordering, time::Duration};

use common::{
    channel::{
        agent::Resource,
        message::{AnswerBase, Message, Wire},
    },
    command::{
        agent::{Answer, unsupported},
        host::{
            CheckSshAnswer, CheckSshCommand, DeliverCertificateCommand, GetVncPortAnswer, GetVncPortCommand,
            GroupsCommand, ModifySshKeysCommand, PingRoutingCommand, ReportAnswer, ReportCommand,
            RollCommand, RouterAnswer, RouterCommand, StartAnswer, StartCommand, StartupRoutingCommand,
            StopAnswer, StopCommand,
        },
    },
};

use super::{
    Host, HostError,
    record::{Folder, write_private},
    ssh::{self, Output},
    start,
};
use crate::fence::{Roll, guard};

/// Class of the resource, part of the guid.
pub(super) const RESOURCE: &str = "TriviumHostResource";
/// Longest run of a script in a router (router contract 2.4).
const SCRIPT_LIMIT: Duration = Duration::from_secs(600);
/// Longest import of a certificate (management channel 4.6).
const IMPORT_LIMIT: Duration = Duration::from_secs(900);

impl Resource for Host {
    fn startup(&self) -> Vec<Message> {
        if let Some(fenced) = self.fenced() {
            self.epoch.store(fenced, Ordering::Release);
        }
        let accelerator = self.accelerator.get().map_or("unknown", |a| a.word());
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib: u64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
            .unwrap_or(0);
        let command = StartupRoutingCommand {
            kind: "Routing".to_owned(),
            data_center: self.place.0.to_string(),
            pod: self.place.1.to_string(),
            guid: format!("{}-{RESOURCE}", self.name),
            name: self.name.clone(),
            resource_name: RESOURCE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            private_ip_address: self.address.clone(),
            hypervisor_type: "KVM".to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory: memory_kib << 10,
            host_details: BTreeMap::from([("accelerator".to_owned(), accelerator.to_owned())]),
            ..StartupRoutingCommand::default()
        };
        vec![Message::wrap(&command)]
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingRoutingCommand {
            vms: self.report(),
            gateway_accessible: true,
            vnet_accessible: true,
            host_type: "Routing".to_owned(),
            ..PingRoutingCommand::default()
        })
    }

    async fn execute(&self, command: Message) -> Message {
        match command.class.as_str() {
            ModifySshKeysCommand::CLASS => keys(self, &command),
            RollCommand::CLASS => roll(self, &command),
            GroupsCommand::CLASS => groups(self, &command).await,
            StartCommand::CLASS => start(self, &command).await,
            StopCommand::CLASS => stop(self, &command).await,
            CheckSshCommand::CLASS => check_ssh(self, &command).await,
            GetVncPortCommand::CLASS => console(self, &command),
            DeliverCertificateCommand::CLASS => certificate(self, &command).await,
            RouterCommand::CLASS => router(self, &command).await,
            ReportCommand::CLASS => {
                Message::wrap(&ReportAnswer { vms: self.report(), base: AnswerBase::ok() })
            }
            _ => unsupported(&command.class),
        }
    }
}

/// Reads a command, or answers what is wrong with it.
macro_rules! read {
    ($command:expr) => {
        match $command.read() {
            Ok(command) => command,
            Err(error) => return common::command::agent::failed(error.to_string()),
        }
    };
}

fn outcome<T>(result: &Result<T, HostError>) -> AnswerBase {
    match result {
        Ok(_) => AnswerBase::ok(),
        Err(error) => AnswerBase::failed(error.to_string()),
    }
}

fn keys(host: &Host, command: &Message) -> Message {
    let keys: ModifySshKeysCommand = read!(command);
    let public = host.state.join("id_rsa.pub");
    let done = write_private(&host.key_file(), keys.private.as_bytes())
        .and_then(|()| write_private(&public, keys.public.as_bytes()));
    Message::wrap(&Answer { answer: outcome(&done) })
}

/// Keeps the list of votes for the guard, which sees that it has changed.
fn roll(host: &Host, command: &Message) -> Message {
    let told: RollCommand = read!(command);
    let done = serde_json::from_str::<Roll>(&told.roll)
        .map_err(|error| HostError::Join(format!("list of votes: {error}")))
        .and_then(|_| write_private(&guard::roll_file(&host.state), told.roll.as_bytes()));
    Message::wrap(&Answer { answer: outcome(&done) })
}

async fn groups(host: &Host, command: &Message) -> Message {
    let told: GroupsCommand = read!(command);
    let done = host.groups.take(&told.policy).await;
    if let Err(error) = &done {
        tracing::warn!("{error}");
    }
    Message::wrap(&Answer { answer: outcome(&done) })
}

async fn start(host: &Host, command: &Message) -> Message {
    let start: StartCommand = read!(command);
    let name = start.vm.name.clone();
    let epoch = host.epoch.load(Ordering::Acquire);
    let turns = host.turns(&name);
    let _turn = turns.life.lock().await;
    // A stop that came while this waited is for the start before.
    let cancel = host.turns(&name).cancel;
    let result = tokio::select! {
        result = start::start(host, start.vm, epoch) => result,
        () = cancel.cancelled() => Err(HostError::Stopped(name.clone())),
    };
    match &result {
        Ok(steps) => tracing::info!("{name} is ready: {steps:?}"),
        Err(error) => tracing::warn!("{name}: {error}"),
    }
    Message::wrap(&StartAnswer { base: outcome(&result), steps: result.unwrap_or_default() })
}

async fn stop(host: &Host, command: &Message) -> Message {
    let stop: StopCommand = read!(command);
    host.cancel_start(&stop.vm_name);
    let turns = host.turns(&stop.vm_name);
    let _turn = turns.life.lock().await;
    let result = start::stop(host, &stop.vm_name, stop.force_stop).await;
    Message::wrap(&StopAnswer { base: outcome(&result) })
}

async fn check_ssh(host: &Host, command: &Message) -> Message {
    let check: CheckSshCommand = read!(command);
    let limit = Duration::from_secs(u64::from(check.interval) * u64::from(check.retries).max(1));
    let result = match Folder::new(&host.state, &check.name) {
        Ok(folder) => host.ssh(&folder, &check.ip).wait(limit.min(SCRIPT_LIMIT)).await,
        Err(error) => Err(error),
    };
    Message::wrap(&CheckSshAnswer { base: outcome(&result) })
}

fn console(host: &Host, command: &Message) -> Message {
    let wanted: GetVncPortCommand = read!(command);
    let found = Folder::new(&host.state, &wanted.name).and_then(|folder| {
        let record = start::known(&folder).filter(super::record::Record::is_alive);
        let port = record.and_then(|record| record.console_port);
        port.ok_or_else(|| HostError::NotRunning(format!("A console of {}", wanted.name)))
    });
    Message::wrap(&GetVncPortAnswer {
        base: outcome(&found),
        address: host.address.clone(),
        port: found.unwrap_or_default(),
    })
}

/// Runs `keystore-cert-import` in the VM, the PEM texts in the form that its shell takes.
async fn certificate(host: &Host, command: &Message) -> Message {
    let order: DeliverCertificateCommand = read!(command);
    let plain = |pem: &str| pem.replace('\n', "^").replace(' ', "~");
    let conf = "/usr/local/cloud/systemvm/conf";
    let line = format!(
        "{script} {conf}/agent.properties {password} {conf}/cloud.jks ssh {conf}/cloud.crt \"{certificate}\" \
         {conf}/cloud.ca.crt \"{authorities}\" {conf}/cloud.key \"{key}\"",
        script = ssh::script("keystore-cert-import"),
        password = ssh::quote(&order.keystore_password),
        certificate = plain(&order.certificate),
        authorities = plain(&order.ca_certificates),
        key = plain(&order.private_key),
    );
    let turns = host.turns(&order.vm_name);
    let _turn = turns.script.lock().await;
    let result = match Folder::new(&host.state, &order.vm_name) {
        Ok(folder) => host.ssh(&folder, &order.control_ip).run(&line, IMPORT_LIMIT).await,
        Err(error) => Err(error),
    };
    answer(result)
}

async fn router(host: &Host, command: &Message) -> Message {
    let order: RouterCommand = read!(command);
    let turns = host.turns(&order.vm_name);
    let _turn = turns.script.lock().await;
    answer(script(host, &order).await)
}

async fn script(host: &Host, order: &RouterCommand) -> Result<Output, HostError> {
    let folder = Folder::new(&host.state, &order.vm_name)?;
    let ssh = host.ssh(&folder, &order.control_ip);
    let outbox = Outbox::new(&folder, order)?;
    if !outbox.files.is_empty() {
        ssh.copy(&outbox.files, ssh::cache()).await?;
    }
    let mut line = ssh::script(&order.script);
    for argument in &order.arguments {
        line.push(' ');
        line.push_str(&ssh::quote(argument));
    }
    ssh.run(&line, SCRIPT_LIMIT).await
}

fn answer(result: Result<Output, HostError>) -> Message {
    let answer = match result {
        Ok(output) => {
            let base = match output.code {
                Some(0) => AnswerBase::ok(),
                _ => AnswerBase::failed(format!("{}{}", output.stdout, output.stderr).trim()),
            };
            RouterAnswer { stdout: output.stdout, stderr: output.stderr, code: output.code, base }
        }
        Err(error) => RouterAnswer { base: AnswerBase::failed(error.to_string()), ..RouterAnswer::default() },
    };
    Message::wrap(&answer)
}

/// Files on their way into a VM; removed when done, for they may hold passwords.
struct Outbox {
    files: Vec<PathBuf>,
}

impl Outbox {
    fn new(folder: &Folder, order: &RouterCommand) -> Result<Self, HostError> {
        let path = folder.path().join("outbox");
        let mut outbox = Self { files: Vec::new() };
        std::fs::create_dir_all(&path).map_err(HostError::file(&path))?;
        for file in &order.files {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if file.name.starts_with('.') || !file.name.chars().all(fits) {
                return Err(HostError::Name(file.name.clone()));
            }
            let target = path.join(&file.name);
            write_private(&target, file.content.as_bytes())?;
            outbox.files.push(target);
        }
        Ok(outbox)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
