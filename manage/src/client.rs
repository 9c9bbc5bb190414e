//! The subcommands that talk to `manage serve`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use crate::{
    api::{ConsoleUrl, Event, GroupStatus, LIMIT, Look, Reply, Request, Script, SnapshotCopied, Status},
    cli::{Group, Router, Snapshot, Template as TemplateCommand, To, Vm},
    db::{Template, TemplateState},
    show,
};

/// Between two looks at something that takes its time.
const POLL: Duration = Duration::from_millis(500);

/// Why a subcommand failed: what was wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No manager.
    #[error("No `manage serve` answers at {path} ({source}). Is it running with this --state?")]
    NoServer {
        /// Its socket.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The manager refused, or it failed.
    #[error("{0}")]
    Failed(String),
    /// The connection broke off.
    #[error("The connection to `manage serve` broke off: {0}")]
    Broken(String),
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A command in a VM failed; its output is printed already.
    #[error("The command ended with code {0}")]
    Script(i32),
}

type Done = Result<(), ClientError>;

fn failed(text: impl Into<String>) -> ClientError {
    ClientError::Failed(text.into())
}

/// Sends a request and waits for its outcome; progress goes to standard error.
fn ask<T: DeserializeOwned>(to: &To, request: &Request) -> Result<T, ClientError> {
    let path = to.state.join("manage.sock");
    let mut stream = UnixStream::connect(&path)
        .map_err(|source| ClientError::NoServer { path: path.display().to_string(), source })?;
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    let mut line = serde_json::to_vec(request).map_err(|error| broken(&error))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| broken(&error))?;
    // The manager says every few seconds that it goes on; a silent one is dead.
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(|error| broken(&error))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(16 * LIMIT as u64).read_until(b'\n', &mut line).map_err(|error| broken(&error))?;
        if line.is_empty() {
            return Err(broken(&"no answer"));
        }
        match serde_json::from_slice(&line).map_err(|error| broken(&error))? {
            Reply::Progress(text) => eprintln!("… {text}"),
            Reply::Done(value) => return serde_json::from_value(value).map_err(|error| broken(&error)),
            Reply::Failed(text) => return Err(failed(text)),
        }
    }
}

fn print<T: serde::Serialize>(to: &To, value: &T, human: impl FnOnce(&T) -> String) {
    let text = if to.json { serde_json::to_string_pretty(value).unwrap_or_default() } else { human(value) };
    // A reader that has closed its end has seen what it wanted.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// `manage status`
pub(crate) fn status(wait: Option<u64>, to: &To) -> Done {
    let Some(seconds) = wait else {
        print(to, &ask::<Status>(to, &Request::Status)?, show::status);
        return Ok(());
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut shown = 0;
    loop {
        match ask::<Status>(to, &Request::Status) {
            Ok(status) => {
                for event in status.events.iter().filter(|e| e.at >= shown) {
                    if event.at > shown || shown == 0 {
                        eprintln!("{}", show::event(event));
                    }
                }
                shown = status.events.last().map_or(shown, |e| e.at);
                if status.ready || Instant::now() >= until {
                    print(to, &status, show::status);
                    return if status.ready {
                        Ok(())
                    } else {
                        Err(failed(format!("Not ready after {seconds} s; see above what is missing")))
                    };
                }
            }
            // It may still be on its way up.
            Err(ClientError::NoServer { .. }) if Instant::now() < until => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(POLL);
    }
}

/// `manage vm`
pub(crate) fn vm(command: Vm) -> Done {
    match command {
        Vm::List { to } => {
            let status: Status = ask(&to, &Request::Status)?;
            print(&to, &status.vms, |vms| show::vms(vms));
            Ok(())
        }
        Vm::Stop { vm, force, to } => done(&to, Request::VmStop { vm, force }, "stopped"),
        Vm::Start { vm, to } => done(&to, Request::VmStart { vm }, "will be started"),
        Vm::Reboot { vm, force, to } => {
            done(&to, Request::VmReboot { vm, force }, "stopped, and is started again")
        }
        Vm::Run { vm, words, to } => {
            let mut words = words.into_iter();
            let script = words.next().unwrap_or_default();
            script_done(&to, &Request::Run { vm, script, arguments: words.collect() })
        }
    }
}

fn done(to: &To, request: Request, what: &str) -> Done {
    ask::<()>(to, &request)?;
    print(to, &(), |()| what.to_owned());
    Ok(())
}

fn script_done(to: &To, request: &Request) -> Done {
    let script: Script = ask(to, request)?;
    if to.json {
        print(to, &script, |_| String::new());
    } else {
        let _ = write!(std::io::stdout(), "{}", script.stdout);
        eprint!("{}", script.stderr);
    }
    if script.code == 0 { Ok(()) } else { Err(ClientError::Script(script.code)) }
}

/// `manage router`
pub(crate) fn router(command: Router) -> Done {
    match command {
        Router::Push { vm, document, to } => {
            let text = read(&document)?;
            script_done(&to, &Request::RouterPush { vm, document: text })
        }
        Router::Diff { vm, document, to } => {
            let text = read(&document)?;
            script_done(&to, &Request::RouterDiff { vm, document: text })
        }
        Router::Show { vm, to } => {
            script_done(&to, &Request::Run { vm, script: "status".to_owned(), arguments: Vec::new() })
        }
    }
}

fn read(path: &Path) -> Result<String, ClientError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().take(LIMIT as u64).read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|source| ClientError::File { path: path.display().to_string(), source })
}

/// `manage group`
pub(crate) fn group(command: Group) -> Done {
    let (name, to) = match command {
        Group::List { to } => (None, to),
        Group::Show { name, to } => (Some(name), to),
    };
    let one = name.is_some();
    let groups: Vec<GroupStatus> = ask(&to, &Request::Groups { name })?;
    if one {
        let group = groups.first().ok_or_else(|| failed("It is gone"))?;
        print(&to, group, show::group);
    } else {
        print(&to, &groups, |groups| show::groups(groups));
    }
    Ok(())
}

/// `manage template`
pub(crate) fn template(command: TemplateCommand) -> Done {
    match command {
        TemplateCommand::Register { name, url, format, checksum, store, no_wait, to } => {
            let request = Request::TemplateRegister { name, url, format, checksum, store };
            let mut template: Template = ask(&to, &request)?;
            let mut shown = -1;
            while !no_wait && template.state == TemplateState::Downloading {
                std::thread::sleep(POLL);
                let all: Vec<Template> = ask(&to, &Request::TemplateList)?;
                template =
                    all.into_iter().find(|t| t.id == template.id).ok_or_else(|| failed("It is gone"))?;
                if template.percent != shown {
                    shown = template.percent;
                    eprintln!("… {shown} %");
                }
            }
            finish(&to, &template)
        }
        TemplateCommand::List { to } => {
            let all: Vec<Template> = ask(&to, &Request::TemplateList)?;
            print(&to, &all, |all| show::templates(all));
            Ok(())
        }
        TemplateCommand::Status { name, store, to } => {
            let all: Vec<Template> = ask(&to, &Request::TemplateList)?;
            let fits = |t: &&Template| t.name == name && store.as_ref().is_none_or(|store| *store == t.store);
            let found: Vec<Template> = all.iter().filter(fits).cloned().collect();
            match found.as_slice() {
                [one] => finish(&to, one),
                [] => Err(failed(format!("There is no template {name:?}; see `manage template list`"))),
                _ => Err(failed(format!("More than one store has {name:?}; say which with --store"))),
            }
        }
    }
}

fn finish(to: &To, template: &Template) -> Done {
    print(to, template, |template| show::templates(std::slice::from_ref(template)));
    match &template.error {
        Some(error) => Err(failed(format!("Template {} failed: {error}", template.name))),
        None => Ok(()),
    }
}

/// `manage snapshot`
pub(crate) fn snapshot(command: Snapshot) -> Done {
    let Snapshot::Copy { from, to_place, to } = command;
    let place = |text: &str| {
        let split = text.split_once(':').map(|(store, path)| (store.to_owned(), path.to_owned()));
        split.ok_or_else(|| failed(format!("{text:?} is not STORE:PATH")))
    };
    let ((from_store, from_path), (to_store, to_folder)) = (place(&from)?, place(&to_place)?);
    let request = Request::SnapshotCopy { from_store, from_path, to_store, to_folder };
    let copied: SnapshotCopied = ask(&to, &request)?;
    print(&to, &copied, |copied| format!("{}:{}", copied.store, copied.path));
    Ok(())
}

/// `manage console-url`
pub(crate) fn console_url(vm: String, look: Look, to: &To) -> Done {
    let url: ConsoleUrl = ask(to, &Request::ConsoleUrl { vm, look })?;
    print(to, &url, |url| url.url.clone());
    Ok(())
}

fn shown(plan: &[String]) -> String {
    if plan.is_empty() { "nothing changes".to_owned() } else { plan.join("\n") }
}

/// `manage events`
pub(crate) fn events(follow: bool, to: &To) -> Done {
    let mut after = 0;
    loop {
        let events: Vec<Event> = ask(to, &Request::Events { after })?;
        for event in &events {
            // With --json a line each, for programs that follow.
            let line =
                if to.json { serde_json::to_string(event).unwrap_or_default() } else { show::event(event) };
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(());
            }
        }
        after = events.last().map_or(after, |event| event.id);
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// `manage plan`
pub(crate) fn plan(to: &To) -> Done {
    let plan: Vec<String> = ask(to, &Request::Plan)?;
    print(to, &plan, |plan| shown(plan));
    Ok(())
}

/// `manage apply`
pub(crate) fn apply(yes: bool, to: &To) -> Done {
    let plan: Vec<String> = ask(to, &Request::Plan)?;
    if plan.is_empty() || !to.json {
        print(to, &plan, |plan| shown(plan));
    }
    if plan.is_empty() {
        return Ok(());
    }
    if !yes {
        eprint!("Apply this? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(failed("Nothing was applied"));
        }
    }
    let applied: Vec<String> = ask(to, &Request::Apply { plan })?;
    print(to, &applied, |_| "applied".to_owned());
    Ok(())
}

/// `manage host-off`, `host-drain` and `host-resume`: what the manager does about it.
pub(crate) fn host_word(request: Request, to: &To) -> Done {
    let done: String = ask(to, &request)?;
    print(to, &done, Clone::clone);
    Ok(())
}

/// `manage host-token`
pub(crate) fn host_token(host: String, to: &To) -> Done {
    let path: String = ask(to, &Request::HostToken { host })?;
    print(to, &path, Clone::clone);
    Ok(())
}
