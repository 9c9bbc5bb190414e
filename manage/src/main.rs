//! `manage`: the management end of a zone. `serve` keeps the zone as its file says, `host` runs VMs
//! on a machine, everything else talks to `serve`.

mod api;
mod bootargs;
mod cli;
mod client;
mod db;
mod fence;
mod groups;
mod host;
mod ids;
mod index;
mod machine;
mod plan;
mod router;
mod scale;
mod serve;
mod show;
mod zone;

use std::process::ExitCode;

use api::Request;
use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve { zone, state } => daemon(async { serve::run(&zone, &state).await.map_err(text) }),
        Command::Host { join, state } => {
            daemon(async { host::run(&state, join.as_deref()).await.map_err(text) })
        }
        Command::Guard { state } => {
            common::log::init();
            fence::guard::run(&state).map_err(text)
        }
        Command::Check { zone } => check(&zone),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "manage", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder).map_err(text),
        Command::Events { follow, to } => client::events(follow, &to).map_err(text),
        Command::Plan { to } => client::plan(&to).map_err(text),
        Command::Apply { yes, to } => client::apply(yes, &to).map_err(text),
        Command::Status { wait, to } => client::status(wait, &to).map_err(text),
        Command::Vm(command) => client::vm(command).map_err(text),
        Command::Router(command) => client::router(command).map_err(text),
        Command::Group(command) => client::group(command).map_err(text),
        Command::Template(command) => client::template(command).map_err(text),
        Command::Snapshot(command) => client::snapshot(command).map_err(text),
        Command::ConsoleUrl { vm, view_only, picture, to } => {
            let look = match (view_only, picture) {
                (true, _) => api::Look::ViewOnly,
                (_, true) => api::Look::Picture,
                _ => api::Look::Console,
            };
            client::console_url(vm, look, &to).map_err(text)
        }
        Command::HostToken { host, to } => client::host_token(host, &to).map_err(text),
        Command::HostOff { host, to } => client::host_word(Request::HostOff { host }, &to).map_err(text),
        Command::HostDrain { host, to } => client::host_word(Request::HostDrain { host }, &to).map_err(text),
        Command::Revoke { name, to } => client::host_word(Request::Revoke { name }, &to).map_err(text),
        Command::Renew { name, to } => client::host_word(Request::Renew { name }, &to).map_err(text),
        Command::HostResume { host, to } => {
            client::host_word(Request::HostResume { host }, &to).map_err(text)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("manage: {text}");
            ExitCode::FAILURE
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn check(path: &std::path::Path) -> Result<(), String> {
    let zone = zone::Zone::load(path).map_err(text)?;
    println!(
        "{}: zone {} with {} hosts, {} networks, {} guests, {} stores",
        path.display(),
        zone.name,
        zone.hosts.len(),
        zone.networks.len(),
        zone.guests.len(),
        zone.stores.len()
    );
    Ok(())
}

/// Runs what lasts until it is told to end.
fn daemon(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    common::log::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(text)?;
    runtime.block_on(work)
}

/// Waits for SIGTERM or SIGINT.
async fn until_terminated() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(error) => {
            tracing::error!("{error}");
            return;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
