//! What an operator sees: `status`, and the check that has always been there.

use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

use common::{
    channel::agent::AgentHandle,
    program,
    shim::wire::{Reply, Request},
};
use futures_util::future::join_all;
use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

use super::{
    Core,
    jobs::{Stand, new_id},
};
use crate::order::{Outcome, Task};

/// Longest time for one look.
const LOOK: Duration = Duration::from_secs(3);
/// Longest time for a store.
const STORE: Duration = Duration::from_secs(20);

/// Answers a command line of the host or operator.
pub(super) async fn command(core: Arc<Core>, agent: AgentHandle, request: Request) -> Reply {
    match request.words.first().map(String::as_str) {
        Some("status") => Reply { stdout: status(&core, &agent), ..Reply::default() },
        Some("ssvm-check.sh") => check(&core).await,
        // The shim says that new certificates are there.
        Some("agent") if request.words.get(1).is_some_and(|word| word == "reload") => {
            agent.reload().await;
            Reply::default()
        }
        Some(other) => Reply {
            stderr: format!("{other}: not a command of a secondary storage VM\n"),
            code: 127,
            ..Reply::default()
        },
        None => Reply { stderr: "no command\n".into(), code: 1, ..Reply::default() },
    }
}

fn status(core: &Core, agent: &AgentHandle) -> String {
    let mut text = String::new();
    let seen = agent.status().borrow().clone();
    let channel = match (&seen.server, seen.ready) {
        (Some(server), true) => format!("ready at {server}"),
        (Some(server), false) => format!("connected to {server}"),
        (None, _) => format!("not connected ({})", seen.last_error.as_deref().unwrap_or("not tried yet")),
    };
    let serve = if core.workshop.is_connected() { "connected" } else { "not connected" };
    let settings = core.state.get();
    // Writing into a string does not fail.
    let _ = writeln!(text, "name: {}\nchannel: {channel}\nserve: {serve}", core.identity.name);
    text.push_str(&core.health.text());
    for (name, export) in &settings.exports {
        let _ = writeln!(text, "store: {} at {name}", export.url);
    }
    let _ = writeln!(
        text,
        "may copy from here: {}",
        settings.peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    );
    for job in core.jobs.all() {
        let record = job.record();
        let stand = match &record.stand {
            Stand::Open => format!("{} %, {} bytes/s", job.percent(), job.rate()),
            Stand::Installed(stored) => format!("installed as {}", stored.path),
            Stand::Failed(reason) | Stand::Refused(reason) => format!("failed: {}", reason.trim()),
            Stand::Aborted => "aborted".to_owned(),
        };
        let folder = record.command.install_path.as_deref().unwrap_or_default();
        let _ = writeln!(text, "job: {} {folder}: {stand}", record.id);
    }
    text.push_str(&core.uploads.text());
    for (name, link) in &settings.links {
        // Who knows the folder of a link has the file.
        let name = name.rsplit('/').next().unwrap_or_default();
        let _ = writeln!(text, "link: {name} to {}", link.path);
    }
    text
}

/// Whether an address answers a ping.
async fn answers(address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let words = ["-c", "1", "-n", "-q", "-W", "3"].map(str::to_owned);
    let ping = move || {
        let words = words.into_iter().chain([address.to_string()]);
        program::run("ping", words, b"", Duration::from_secs(5)).is_ok()
    };
    spawn_blocking(ping).await.unwrap_or(false)
}

/// Exit codes: 2 no name resolution, 3 the daemon is not whole, 4 no way to a management server.
async fn check(core: &Core) -> Reply {
    let mut text = String::new();
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let resolvers = ["internaldns1", "internaldns2", "dns1", "dns2"];
    if let Some(first) = resolvers.iter().find_map(|key| core.identity.get(key)) {
        match answers(first).await {
            true => say(&format!("Good: name server {first} answers")),
            false => say(&format!("WARNING: name server {first} does not answer (ping)")),
        }
    }
    let name = timeout(LOOK, tokio::net::lookup_host(("cloudstack.apache.org", 80))).await;
    let mut code = 0;
    if matches!(name, Ok(Ok(_))) {
        say("Good: DNS resolves cloudstack.apache.org");
    } else {
        say("ERROR: DNS does not resolve cloudstack.apache.org");
        code = 2;
    }
    let looks = core.known_stores().await.into_iter().map(|(name, store)| async {
        let looked = match store {
            Ok(store) => {
                let probe = Task::Probe { store, job: new_id() };
                core.workshop.call(probe, STORE).await.map_err(|f| f.text)
            }
            Err(reason) => Err(reason),
        };
        (name, looked)
    });
    let looked = join_all(looks).await;
    if looked.is_empty() {
        say("WARNING: no store is known yet");
        let servers = core.identity.list("secondaryStorageServerAddress");
        let near = if servers.is_empty() { core.identity.list("storagegateway") } else { servers };
        for address in near {
            match answers(address).await {
                true => say(&format!("Good: {address} answers")),
                false => say(&format!("WARNING: {address} does not answer (ping)")),
            }
        }
    }
    for (name, looked) in looked {
        match looked {
            Ok(Outcome::Usage { capacity, used }) => {
                say(&format!("Good: {name} answers and can be written, {used} of {capacity} bytes in use"));
            }
            Ok(_) => {}
            Err(reason) => say(&format!("ERROR: {name}: {reason}")),
        }
    }
    let port: u16 = core.identity.parsed("port").unwrap_or(8250);
    for host in core.identity.list("host") {
        let host = host.split('@').next().unwrap_or(host);
        if matches!(timeout(LOOK, TcpStream::connect((host, port))).await, Ok(Ok(_))) {
            say(&format!("Good: {host}:{port} can be reached"));
        } else {
            say(&format!("ERROR: {host}:{port} cannot be reached"));
            code = if code == 0 { 4 } else { code };
        }
    }
    if core.workshop.is_connected() {
        say("Good: the daemon is whole");
    } else {
        say("ERROR: the serve process is not there");
        code = if code == 0 { 3 } else { code };
    }
    Reply { stdout: text, stderr: String::new(), code }
}
