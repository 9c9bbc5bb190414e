//! Consoles: URLs for operators, and the decision whether a browser may see a screen
//! (console proxy 2.3 and 3).

use std::time::Duration;

use common::{
    channel::{
        message::{AnswerBase, Base, Message},
        server::AttachedAgent,
    },
    command::{
        agent::{AgentControlAnswer, Answer},
        console::{
            AllowConsoleAccessCommand, ConsoleAccessAuthenticationAnswer, ConsoleAccessAuthenticationCommand,
            ConsoleProxyLoadReportCommand, LoadInfo, StartConsoleProxyAgentHttpHandlerCommand,
        },
        host::{GetVncPortAnswer, GetVncPortCommand, Power, Traffic},
    },
    token::{Token, ticket},
};
use subtle::ConstantTimeEq;

use super::{Manage, answer::ask, crew};
use crate::{
    api::{ConsoleUrl, Look},
    db::{ConsoleSession, Kind, Redeem, Vm, random_word},
    ids::random_uuid,
};

/// Port of the websocket.
const WEBSOCKET: u16 = 8080;
const ASK: Duration = Duration::from_secs(10);
/// Bytes of a key store password before base64 (console proxy 2.2).
const PASSWORD: usize = 16;

/// What a CPVM is told when it joins: the key of tokens. It begins to listen then.
pub(super) fn setup(manage: &Manage) -> Message {
    Message::wrap(&StartConsoleProxyAgentHttpHandlerCommand {
        keystore_password: base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            random_word(PASSWORD),
        ),
        encryptor_password: manage.token_key.encryptor_password().to_string(),
        is_source_ip_check_enabled: false,
        keystore_bits: None,
        base: Base::default(),
    })
}

fn minute() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ticket::minute(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Makes a URL that is good for one connection within the next minute.
pub(super) async fn url(manage: &Manage, name: &str, look: Look) -> Result<ConsoleUrl, String> {
    let vm = manage.find(name)?;
    if vm.kind != Kind::Guest {
        return Err(format!("{name} has no screen: only guests have"));
    }
    let host = running_on(manage, &vm).ok_or_else(|| format!("{name} does not run"))?;
    let (proxy, cpvm) = crew::pick(manage, Kind::Cpvm)?;
    let public = proxy.address(Traffic::Public).ok_or("The CPVM has no public address")?;
    // Counted from now on, so that the proxy is not stopped before the browser is there.
    manage.seen().work.hand_out(&proxy.name);
    let hypervisor = manage.agent(&host).ok_or_else(|| format!("Host {host} is not connected"))?;

    let id = u64::try_from(vm.id).unwrap_or_default();
    let command = GetVncPortCommand { id, name: vm.name.clone(), ..GetVncPortCommand::default() };
    let screen: GetVncPortAnswer = ask(&hypervisor, Message::wrap(&command), ASK).await?;
    let session = ConsoleSession { uuid: random_uuid(), vm: vm.uuid.clone() };
    let mut token = Token {
        host: Some(screen.address),
        port: i32::from(screen.port),
        password: Some(vm.vnc_password.clone()),
        tag: Some(vm.uuid.clone()),
        display_name: Some(vm.display().to_owned()),
        session_uuid: Some(session.uuid.clone()),
        view_only: look == Look::ViewOnly,
        picture: look == Look::Picture,
        ..Token::default()
    };
    token.ticket = Some(ticket::ticket(&manage.ticket_secret, &token, minute()));
    let sealed = manage.token_key.seal(&token).map_err(|error| error.to_string())?;
    manage.zoned.db.add_console_session(&session).map_err(|error| error.to_string())?;
    let allow = AllowConsoleAccessCommand { session_uuid: session.uuid.clone(), base: Base::default() };
    ask::<Answer>(&cpvm, Message::wrap(&allow), ASK).await?;
    let page = format!("resource/noVNC/vnc.html?autoconnect=true&show_dot=true&port={WEBSOCKET}");
    let place = match look {
        Look::Console => format!("{page}&token={sealed}"),
        Look::ViewOnly => format!("{page}&view_only=true&token={sealed}"),
        Look::Picture => format!("picture?token={sealed}"),
    };
    Ok(ConsoleUrl {
        vm: vm.display().to_owned(),
        url: format!("http://{public}/{place}"),
        session: session.uuid,
    })
}

fn running_on(manage: &Manage, vm: &Vm) -> Option<String> {
    let seen = manage.seen();
    let runs = |vms: &std::collections::BTreeMap<String, common::command::host::VmReport>| {
        vms.get(&vm.name).is_some_and(|report| report.state == Power::PowerOn)
    };
    seen.reports.iter().find(|(_, vms)| runs(vms)).map(|(host, _)| host.clone())
}

/// Decides on a browser that a CPVM asks about.
pub(super) async fn authenticate(manage: &Manage, command: &Message) -> Message {
    let decided = match command.read::<ConsoleAccessAuthenticationCommand>() {
        Ok(asked) if asked.reauthenticating => follow(manage, &asked).await,
        Ok(asked) => {
            let refused = decide(manage, &asked);
            let text = match &refused {
                Ok(()) => format!("{} sees the console", asked.client),
                Err(reason) => format!("{} may not see the console: {reason}", asked.client),
            };
            manage.zoned.event(&display(manage, &asked.vm), &text);
            ConsoleAccessAuthenticationAnswer::decided(refused.is_ok())
        }
        Err(error) => {
            tracing::warn!("{error}");
            ConsoleAccessAuthenticationAnswer::decided(false)
        }
    };
    Message::wrap(&decided)
}

fn display(manage: &Manage, tag: &str) -> String {
    let vms = manage.zoned.db.vms().unwrap_or_default();
    vms.iter().find(|vm| vm.uuid == tag).map_or("console", Vm::display).to_owned()
}

/// The checks in the order of the contract; the first one uses up the session.
fn decide(manage: &Manage, asked: &ConsoleAccessAuthenticationCommand) -> Result<(), String> {
    let given = asked.ticket.as_deref().ok_or("no ticket")?;
    let session = asked.session.as_deref().ok_or("no session")?;
    let redeemed = manage.zoned.db.redeem_console_session(session, &asked.client);
    let session = match redeemed.map_err(|error| error.to_string())? {
        Redeem::Granted(session) => session,
        Redeem::Used => return Err("the session was used before".to_owned()),
        Redeem::Unknown => return Err("the session is unknown or has ended".to_owned()),
    };
    let token = Token {
        host: Some(asked.host.clone()),
        port: asked.port.parse().map_err(|_| "the port is no number")?,
        password: Some(asked.password.clone()),
        tag: Some(asked.vm.clone()),
        session_uuid: Some(session.uuid.clone()),
        ..Token::default()
    };
    if !ticket::verify(&manage.ticket_secret, &token, minute(), given) {
        return Err("the ticket is wrong or has expired".to_owned());
    }
    let vm = screen(manage, &asked.vm)?;
    if session.vm != vm.uuid {
        return Err("the session is for another VM".to_owned());
    }
    if !bool::from(asked.password.as_bytes().ct_eq(vm.vnc_password.as_bytes())) {
        return Err("the password of the screen is another one".to_owned());
    }
    Ok(())
}

fn screen(manage: &Manage, tag: &str) -> Result<Vm, String> {
    let vms = manage.zoned.db.vms().map_err(|error| error.to_string())?;
    let vm =
        vms.into_iter().find(|vm| vm.kind == Kind::Guest && (vm.uuid == tag || vm.id.to_string() == tag));
    vm.ok_or_else(|| "the VM is unknown".to_owned())
}

/// Where the screen of a VM is now, for a proxy that lost it.
async fn follow(
    manage: &Manage,
    asked: &ConsoleAccessAuthenticationCommand,
) -> ConsoleAccessAuthenticationAnswer {
    let refused = || ConsoleAccessAuthenticationAnswer::decided(false);
    let Ok(vm) = screen(manage, &asked.vm) else { return refused() };
    if !bool::from(asked.password.as_bytes().ct_eq(vm.vnc_password.as_bytes())) {
        return refused();
    }
    let Some(agent) = running_on(manage, &vm).and_then(|host| manage.agent(&host)) else { return refused() };
    let id = u64::try_from(vm.id).unwrap_or_default();
    let command = GetVncPortCommand { id, name: vm.name.clone(), ..GetVncPortCommand::default() };
    match ask::<GetVncPortAnswer>(&agent, Message::wrap(&command), ASK / 2).await {
        Ok(screen) => ConsoleAccessAuthenticationAnswer {
            reauthenticating: true,
            host: Some(screen.address),
            port: i32::from(screen.port),
            ..ConsoleAccessAuthenticationAnswer::decided(true)
        },
        Err(_) => refused(),
    }
}

/// Takes the load report of a CPVM: sessions that have ended.
pub(super) fn report(manage: &Manage, cpvm: &AttachedAgent, command: &Message) -> Message {
    let load = command
        .read::<ConsoleProxyLoadReportCommand>()
        .map_err(|error| error.to_string())
        .and_then(|report| LoadInfo::parse(&report.load_info).map_err(|error| error.to_string()));
    match load {
        Ok(load) => {
            manage.seen().work.told(cpvm.name(), load.connections.len());
            for session in load.removed_sessions.unwrap_or_default() {
                if let Err(error) = manage.zoned.db.end_console_session(&session) {
                    tracing::error!("{error}");
                }
            }
        }
        Err(error) => tracing::warn!("load report: {error}"),
    }
    Message::wrap(&AgentControlAnswer { answer: AnswerBase::ok() })
}
