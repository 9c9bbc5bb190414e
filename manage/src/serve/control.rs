//! The control socket: where the other subcommands of `manage` come in. Only root may open it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::command::host::File;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{Manage, ServeError, act, apply, console, groups, join, renew, status, template, vigil};
use crate::{
    api::{LIMIT, Reply, Request, Script},
    db::{DbError, EVENTS, Kind, Vm, Wanted},
    fence,
    ids::random_uuid,
    plan::Seen,
    router,
    zone::Host,
};

/// Requests that are worked on at once.
const AT_ONCE: usize = 64;
/// Longest wait for a request after the connection.
const READ: Duration = Duration::from_secs(30);
/// How often a long request says that it goes on.
const PROGRESS: Duration = Duration::from_secs(5);

/// Where the socket lies.
pub(crate) fn socket(state: &Path) -> PathBuf {
    state.join("manage.sock")
}

/// Opens the socket and serves it until the task is aborted.
pub(super) fn open(manage: Arc<Manage>) -> Result<JoinHandle<()>, ServeError> {
    let path = socket(&manage.zoned.state);
    // The lock of the database says that no other manager uses it.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(ServeError::file(&path))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, mode).map_err(ServeError::file(&path))?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    Ok(tokio::spawn(async move {
        loop {
            // Who comes when all are taken waits for one.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let manage = manage.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(&manage, stream).await {
                    tracing::debug!("control socket: {error}");
                }
                drop(slot);
            });
        }
    }))
}

async fn serve(manage: &Arc<Manage>, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(LIMIT as u64));
    let received = tokio::time::timeout(READ, reader.read_until(b'\n', &mut line)).await;
    if !matches!(received, Ok(Ok(_))) {
        return Ok(());
    }
    let request = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => request,
        Err(error) => return send(&mut write, &Reply::Failed(format!("Not a request: {error}"))).await,
    };
    let work = answer(manage, request);
    tokio::pin!(work);
    let mut passed = 0;
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = tokio::time::sleep(PROGRESS) => {
                passed += PROGRESS.as_secs();
                send(&mut write, &Reply::Progress(format!("still at it, {passed} s"))).await?;
            }
        }
    };
    send(&mut write, &result.map_or_else(Reply::Failed, Reply::Done)).await
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    text.push(b'\n');
    write.write_all(&text).await
}

fn json(value: impl Serialize) -> Result<serde_json::Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

async fn answer(manage: &Arc<Manage>, request: Request) -> Result<serde_json::Value, String> {
    let changes = request.changes();
    let done = carry_out(manage, request).await;
    // What an operator was told is not lost with the database's file.
    if changes && done.is_ok() {
        let zoned = manage.zoned.clone();
        let copied = tokio::task::spawn_blocking(move || zoned.copy()).await;
        if let Ok(Err(error @ DbError::Damaged(_))) = copied {
            return Err(error.to_string());
        }
    }
    done
}

async fn carry_out(manage: &Arc<Manage>, request: Request) -> Result<serde_json::Value, String> {
    match request {
        Request::Status => json(status::status(manage).map_err(|error| error.to_string())?),
        Request::VmStop { vm, force } => {
            let vm = manage.find(&vm)?;
            let _held = Held::new(manage, vm.id);
            want(manage, &vm, Wanted::Stopped)?;
            stop(manage, &vm, force).await
        }
        Request::VmStart { vm } => {
            let vm = manage.find(&vm)?;
            if vm.wanted == Wanted::Removed {
                return Err(format!("{} is no longer in the zone file", vm.name));
            }
            want(manage, &vm, Wanted::Running)?;
            json(())
        }
        Request::VmReboot { vm, force } => {
            let vm = manage.find(&vm)?;
            if vm.wanted != Wanted::Running {
                return Err(format!("{} is stopped; start it with `manage vm start`", vm.name));
            }
            let _held = Held::new(manage, vm.id);
            stop(manage, &vm, force).await
        }
        Request::RouterPush { vm, document } => push(manage, &vm, &document, "update_config.py", "").await,
        // The router takes a document whose name begins so away with its answer.
        Request::RouterDiff { vm, document } => push(manage, &vm, &document, "diff", "diff.").await,
        Request::Run { vm, script, arguments } => {
            let vm = manage.find(&vm)?;
            run(manage, &vm, &script, arguments, Vec::new()).await
        }
        Request::TemplateRegister { name, url, format, checksum, store } => {
            json(template::register(manage, &name, &url, &format, checksum.as_deref(), &store)?)
        }
        Request::TemplateList => json(manage.zoned.db.templates().map_err(|error| error.to_string())?),
        Request::SnapshotCopy { from_store, from_path, to_store, to_folder } => {
            json(template::copy(manage, (&from_store, &from_path), (&to_store, &to_folder)).await?)
        }
        Request::ConsoleUrl { vm, look } => json(console::url(manage, &vm, look).await?),
        Request::HostOff { host } => json(host_off(manage, &known(manage, &host)?.name)?),
        Request::Revoke { name } => json(renew::revoke(manage, &name)?),
        Request::Renew { name } => json(renew::by_hand(manage, &name).await?),
        Request::HostDrain { host } => json(drain(manage, &known(manage, &host)?.name, true)?),
        Request::HostResume { host } => json(drain(manage, &known(manage, &host)?.name, false)?),
        Request::Events { after } => {
            json(manage.zoned.db.events(EVENTS, after).map_err(|error| error.to_string())?)
        }
        Request::Groups { name } => json(groups::list(manage, name.as_deref())?),
        Request::Plan => json(apply::plan(manage)?.1),
        Request::Apply { plan } => json(apply::apply(manage, &plan)?),
        Request::HostToken { host } => {
            let host = known(manage, &host)?;
            json(join::write_join_file(&manage.zoned, &host).map_err(|error| error.to_string())?)
        }
    }
}

/// The host of that name.
fn known(manage: &Manage, host: &str) -> Result<Host, String> {
    let found = manage.zoned.zone().hosts.iter().find(|h| h.name == host).cloned();
    found.ok_or_else(|| format!("The zone file has no [[host]] {host:?}"))
}

/// The operator says that a host is powered off. It is not, where it is heard.
fn host_off(manage: &Manage, host: &str) -> Result<String, String> {
    let alone = manage.zoned.zone().hosts.len() == 1;
    if manage.links().hears(host, fence::now()) || alone && manage.agent(host).is_some() {
        return Err(format!("{host} is heard: it is not powered off; nothing was changed"));
    }
    vigil::lose(manage, host, "the operator says that it is powered off")
        .map_err(|error| error.to_string())?;
    Ok(format!("the system VMs of {host} are started elsewhere"))
}

fn drain(manage: &Manage, host: &str, drained: bool) -> Result<String, String> {
    manage.zoned.db.host_drained(host, drained).map_err(|error| error.to_string())?;
    manage.zoned.event(host, if drained { "is taken out of service" } else { "is in service again" });
    manage.poke.notify_one();
    Ok(if drained {
        format!("{host} gives its system VMs to other hosts, if there are any; its guests stay")
    } else {
        format!("{host} is in service again")
    })
}

fn want(manage: &Manage, vm: &Vm, wanted: Wanted) -> Result<(), String> {
    manage.zoned.db.want(vm.id, wanted).map_err(|error| error.to_string())?;
    // The operator's word begins anew what had failed.
    manage.seen().failed.remove(&vm.id);
    manage.poke.notify_one();
    Ok(())
}

/// Where a VM runs.
fn host_of(manage: &Manage, vm: &Vm) -> Result<Option<String>, String> {
    match super::drive::look_for(manage, vm) {
        Seen::On { host, .. } => Ok(Some(host)),
        Seen::Off => Ok(None),
        Seen::Unknown => Err(format!("The host of {} is not connected; its state is unknown", vm.name)),
    }
}

/// While it lives, nothing else is begun with a VM that is being stopped by hand.
struct Held<'a> {
    manage: &'a Manage,
    id: i64,
    /// Something was under way already and ends by itself.
    other: bool,
}

impl<'a> Held<'a> {
    fn new(manage: &'a Manage, id: i64) -> Self {
        let other = manage.seen().busy.contains_key(&id);
        if !other {
            manage.seen().busy.insert(id, "stopping");
        }
        Self { manage, id, other }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.other {
            self.manage.seen().busy.remove(&self.id);
        }
        self.manage.poke.notify_one();
    }
}

async fn stop(manage: &Manage, vm: &Vm, force: bool) -> Result<serde_json::Value, String> {
    if let Some(host) = host_of(manage, vm)? {
        act::stop(manage, vm, &host, force).await?;
    }
    json(())
}

/// Copies a document to a router and has a script deal with it.
async fn push(
    manage: &Manage,
    name: &str,
    document: &str,
    script: &str,
    prefix: &str,
) -> Result<serde_json::Value, String> {
    let vm = manage.find(name)?;
    if vm.kind != Kind::Router {
        return Err(format!("{name} is no router"));
    }
    let document = router::read(document).map_err(|error| error.to_string())?;
    let name = format!("{prefix}{}.json.{}", document.name, random_uuid());
    let file = File { name: name.clone(), content: document.json };
    run(manage, &vm, script, vec![name], vec![file]).await
}

async fn run(
    manage: &Manage,
    vm: &Vm,
    script: &str,
    arguments: Vec<String>,
    files: Vec<File>,
) -> Result<serde_json::Value, String> {
    if vm.kind == Kind::Guest {
        return Err(format!("{} is a guest; only system VMs take commands", vm.display()));
    }
    if script.is_empty() || !script.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(format!("{script:?} is not the name of a command"));
    }
    let host = host_of(manage, vm)?.ok_or_else(|| format!("{} does not run", vm.name))?;
    let answer = act::run_script(manage, vm, &host, script, arguments, files).await?;
    match answer.code {
        Some(code) => json(Script { code, stdout: answer.stdout, stderr: answer.stderr }),
        None => Err(answer.base.details.unwrap_or_else(|| "SSH failed".to_owned())),
    }
}
