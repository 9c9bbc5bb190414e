//! What can be done to a VM, each with the commands of the contract.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use common::{
    channel::{
        message::{Base, Message},
        server::AttachedAgent,
        tls::{Issue, KeyKind},
    },
    command::host::{
        DeliverCertificateCommand, File, ReportAnswer, ReportCommand, RouterAnswer, RouterCommand,
        StartAnswer, StartCommand, StopAnswer, StopCommand, Traffic,
    },
};

use super::{
    Manage,
    answer::ask,
    drive, groups,
    renew::{self, DAYS},
};
use crate::{
    db::{DbError, Owner, Vm},
    ids::random_uuid,
    index::Index,
    machine,
    plan::Action,
    router::{self, Rules},
    zone::Zone,
};

/// Longest start: boot arguments, SSH and files have their own limits below it.
const START: Duration = Duration::from_secs(1800);
const STOP: Duration = Duration::from_secs(120);
const SCRIPT: Duration = Duration::from_secs(900);
const REPORT: Duration = Duration::from_secs(10);

/// Does what was planned.
pub(super) async fn perform(manage: &Manage, vm: &Vm, action: &Action) -> Result<(), String> {
    match action {
        Action::Start(host) => start(manage, vm, host).await,
        Action::Stop(host) => stop(manage, vm, host, false).await,
        Action::Certify { host, start_id } => certify(manage, vm, host, start_id).await,
        Action::Configure { host, start_id } => configure(manage, vm, host, start_id).await,
    }
}

fn host_agent(manage: &Manage, host: &str) -> Result<AttachedAgent, String> {
    manage.agent(host).ok_or_else(|| format!("host {host} is not connected"))
}

async fn start(manage: &Manage, vm: &Vm, host: &str) -> Result<(), String> {
    let agent = host_agent(manage, host)?;
    let machine = machine::build(&manage.zoned.zone(), vm, &manage.public_key)
        .ok_or_else(|| "the zone file has it no longer".to_owned())?;
    manage.zoned.db.place(vm.id, host).map_err(|error| error.to_string())?;
    if machine.nics.iter().any(|nic| nic.guarded) {
        groups::tell(manage, host).await?;
    }
    manage.zoned.event(&vm.name, &format!("is started on {host}"));
    let command = StartCommand { vm: machine, base: Base::default() };
    let result = ask::<StartAnswer>(&agent, Message::wrap(&command), START).await;
    refresh(manage, &agent).await;
    let steps = result?.steps;
    manage.zoned.event(&vm.name, &format!("has started{}", timing(&steps)));
    Ok(())
}

/// `: QEMU 0.3 s, SSH answers 9.1 s`.
fn timing(steps: &BTreeMap<String, u64>) -> String {
    let name = |key: &str| key.split_once(' ').map_or(key.to_owned(), |(_, name)| name.to_owned());
    let parts: Vec<String> =
        steps.iter().map(|(key, ms)| format!("{} {}.{} s", name(key), ms / 1000, ms % 1000 / 100)).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

/// Stops a VM; `force` cuts its power at once.
pub(super) async fn stop(manage: &Manage, vm: &Vm, host: &str, force: bool) -> Result<(), String> {
    let agent = host_agent(manage, host)?;
    let command = StopCommand {
        vm_name: vm.name.clone(),
        control_ip: vm.address(Traffic::Control).map(|a| a.to_string()),
        force_stop: force,
        ..StopCommand::default()
    };
    let result = ask::<StopAnswer>(&agent, Message::wrap(&command), STOP).await;
    refresh(manage, &agent).await;
    result?;
    manage.zoned.event(&vm.name, "has stopped");
    Ok(())
}

/// Asks a host what runs on it, so that what was just done is seen.
async fn refresh(manage: &Manage, agent: &AttachedAgent) {
    if let Ok(report) = ask::<ReportAnswer>(agent, Message::wrap(&ReportCommand::default()), REPORT).await {
        manage.seen().reports.insert(agent.name().to_owned(), report.vms);
    }
}

async fn certify(manage: &Manage, vm: &Vm, host: &str, start_id: &str) -> Result<(), String> {
    let agent = host_agent(manage, host)?;
    let addresses: Vec<IpAddr> = vm.nics.iter().map(|nic| nic.address.into()).collect();
    let issue = Issue { names: vec![vm.name.clone()], addresses, days: DAYS };
    let issued = manage.zoned.authority.issue(&issue, KeyKind::P256).map_err(|error| error.to_string())?;
    renew::issued(&manage.zoned, &issued, &vm.name).map_err(|error| error.to_string())?;
    let command = DeliverCertificateCommand {
        vm_name: vm.name.clone(),
        control_ip: control(vm)?,
        certificate: issued.certificate,
        private_key: issued.private_key,
        ca_certificates: issued.ca_certificates,
        keystore_password: vm.keystore_password.clone(),
        ..DeliverCertificateCommand::default()
    };
    ask::<RouterAnswer>(&agent, Message::wrap(&command), SCRIPT).await?;
    manage.zoned.db.certified(vm.id, start_id).map_err(|error| error.to_string())?;
    manage.zoned.event(&vm.name, "has its certificate");
    Ok(())
}

fn control(vm: &Vm) -> Result<String, String> {
    vm.address(Traffic::Control).map(|a| a.to_string()).ok_or_else(|| "it has no control NIC".to_owned())
}

/// Runs one script in a VM, after copying files to it.
pub(super) async fn run_script(
    manage: &Manage,
    vm: &Vm,
    host: &str,
    script: &str,
    arguments: Vec<String>,
    files: Vec<File>,
) -> Result<RouterAnswer, String> {
    let agent = host_agent(manage, host)?;
    let command = RouterCommand {
        vm_name: vm.name.clone(),
        control_ip: control(vm)?,
        files,
        script: script.to_owned(),
        arguments,
        ..RouterCommand::default()
    };
    let answer = super::answer::ask_any(&agent, Message::wrap(&command), SCRIPT).await?;
    answer.read().map_err(|error| format!("{error} {}", answer.details()))
}

async fn configure(manage: &Manage, vm: &Vm, host: &str, start_id: &str) -> Result<(), String> {
    let db = &manage.zoned.db;
    let zone = manage.zoned.zone();
    let vms = network(manage, &zone, vm).map_err(|error| error.to_string())?;
    let vm = vms.first().ok_or("it is not in the database")?;
    let index = Index::new(&zone, &vms);
    let rules = Rules::of(&index, vm).ok_or("the zone file has its network no longer")?;
    let passwords = drive::passwords(&index, vm);
    version(manage, vm, host).await?;

    let old: Option<Rules> = serde_json::from_str(&vm.applied).ok();
    let public = vm.nics.iter().find(|nic| nic.traffic == Traffic::Public).map(|nic| nic.mac.as_str());
    let words: Vec<_> = passwords.iter().map(|(_, _, password)| password.clone()).collect();
    let documents = router::render(old.as_ref(), &rules, public, &zone.public, &words);
    let id = random_uuid();
    let name = format!("VR-{id}.cfg");
    let arguments = vec!["-c".to_owned(), format!("/var/cache/cloud/{name}")];
    let file = File { name, content: router::bundle(&documents, &id) };
    let answer = run_script(manage, vm, host, "vr_cfg.sh", arguments, vec![file]).await?;
    if answer.code != Some(0) {
        return Err(format!("vr_cfg.sh: {}", answer.base.details.unwrap_or_default()));
    }
    let applied = serde_json::to_string(&rules).map_err(|error| error.to_string())?;
    let sent: Vec<_> = passwords.into_iter().map(|(guest, hash, _)| (guest, hash)).collect();
    db.configured(vm.id, start_id, &applied, &sent).map_err(|error| error.to_string())?;
    manage.zoned.event(&vm.name, &format!("has its {} documents", documents.len()));
    Ok(())
}

/// A router, as it is in the database now, and the guests of its network.
fn network(manage: &Manage, zone: &Zone, router: &Vm) -> Result<Vec<Vm>, DbError> {
    let Owner::Network(name) = &router.owner else { return Ok(Vec::new()) };
    let guests = zone.guests.iter().filter(|guest| guest.network == *name).map(|guest| &guest.name);
    let names = std::iter::once(&router.name).chain(guests);
    let found = names.map(|name| manage.zoned.db.vm(name));
    found.filter_map(Result::transpose).collect()
}

/// Asks a router for its version, which it tells once its boot is done (router contract 1.8).
async fn version(manage: &Manage, vm: &Vm, host: &str) -> Result<(), String> {
    let answer = run_script(manage, vm, host, "get_template_version.sh", Vec::new(), Vec::new()).await?;
    let parts: Vec<&str> = answer.stdout.trim_end().split('&').collect();
    match (answer.code, parts.as_slice()) {
        (Some(0), [release, _]) if release.split(' ').nth(2).is_some() => Ok(()),
        (code, _) => {
            Err(format!("get_template_version.sh: code {code:?}, {:?}", answer.stdout + &answer.stderr))
        }
    }
}
