//! What serve asks: may this session be opened, and with which connection?

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use common::{
    channel::{message::Message, tls::AgentFiles},
    command::console::{ConsoleAccessAuthenticationAnswer, ConsoleAccessAuthenticationCommand},
    handover::Event,
    program,
};
use rustix::net::sockopt;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Proxy,
    gate::Leave,
    options::{self, Options},
    plan, recordings, report,
};
use crate::wire::{Alive, Denial, Ended, Open, TRUST, Trust, Verdict, now};

/// For management's answer.
const MANAGEMENT_LIMIT: Duration = Duration::from_secs(10);
/// For the connection to the hypervisor.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ROUTE_LIMIT: Duration = Duration::from_secs(5);
/// A hypervisor that acknowledges nothing for so long is gone: milliseconds.
const UNANSWERED_MS: u32 = 60_000;
/// For serve to take the certificates.
const TRUST_LIMIT: Duration = Duration::from_secs(2);
/// Certificates of XenServer and VMware, or of who vouches for them, where the operator has copied them.
const WEB_CERTIFICATES: &str = "hypervisors.pem";

/// Answers [`crate::wire::OPEN`].
pub(super) async fn open(proxy: Arc<Proxy>, event: Event) {
    let open: Open = match event.parse() {
        Ok(open) => open,
        Err(error) => return event.refuse(error.to_string()),
    };
    match admit(&proxy, &open).await {
        Ok(socket) => {
            let recording = options(&proxy).recording.is_some_and(|recording| recording.covers(&open.vm));
            proxy.state().ledger.open(open, Instant::now(), now());
            let verdict = if recording { Verdict::Recorded } else { Verdict::Granted };
            event.answer_with(&verdict, Some(socket));
            report::change(&proxy).await;
        }
        Err(denial) => {
            tracing::info!(?open, reason = denial.label(), "console denied");
            event.answer(&Verdict::Denied(denial));
        }
    }
}

async fn admit(proxy: &Proxy, open: &Open) -> Result<OwnedFd, Denial> {
    let leave = proxy.state().gate.take(open, Instant::now()).ok_or(Denial::Unknown)?;
    if leave == Leave::Fresh && open.ask {
        ask(proxy, open).await?;
    }
    trust(proxy).await;
    match timeout(CONNECT_LIMIT, connect(proxy, open)).await.unwrap_or_else(|late| Err(late.into())) {
        Ok(socket) => Ok(socket),
        Err(error) => {
            tracing::warn!(host = %open.to.0, port = open.to.1, %error, "the hypervisor cannot be reached");
            // Management counts the session as used.
            proxy.state().ledger.removed(open.session.clone(), None);
            Err(Denial::Unreachable)
        }
    }
}

/// The operator's options as they are now.
fn options(proxy: &Proxy) -> Options {
    let before = proxy.state().options.clone();
    let read = options::read(&proxy.paths.cache(), before.as_ref());
    proxy.health.report("options", read.as_ref().map(drop).map_err(|(_, wrong)| wrong.clone()));
    match read {
        Ok(options) => {
            proxy.state().options = Some(options.clone());
            options
        }
        Err((options, _)) => options,
    }
}

/// Answers [`crate::wire::TAPE`].
pub(super) fn tape(proxy: &Proxy, event: Event) {
    let key: u64 = match event.parse() {
        Ok(key) => key,
        Err(error) => return event.refuse(error.to_string()),
    };
    let recording = options(proxy).recording;
    let mut state = proxy.state();
    let (Some(recording), Some(open)) = (recording, state.ledger.granted(key)) else {
        return event.answer(&None::<u64>);
    };
    let written = state.tapes.values().cloned().collect();
    let begun = recordings::begin(&proxy.paths.recordings(), &recording, open, &written, SystemTime::now());
    proxy.health.report("recording", begun.as_ref().map(drop).map_err(ToString::to_string));
    match begun {
        Ok((name, file)) => {
            tracing::info!(key, recording = name, "recording a console");
            state.tapes.insert(key, name);
            event.answer_with(&Some(recording.session_mib << 20), Some(file));
        }
        Err(error) => {
            tracing::error!(key, %error, "a console is not recorded");
            event.answer(&None::<u64>);
        }
    }
}

/// Sees to it that serve has the certificates towards hypervisors as they are now.
async fn trust(proxy: &Proxy) {
    let texts = AgentFiles::new(proxy.paths.agent()).texts();
    let texts = texts.map_err(|error| error.to_string());
    proxy.health.report("certificates", texts.as_ref().map(drop).map_err(Clone::clone));
    let Ok(texts) = texts else { return };
    let web = std::fs::read_to_string(proxy.paths.cache().join(WEB_CERTIFICATES)).unwrap_or_default();
    let trust = Trust {
        authorities: texts.authorities.unwrap_or_default(),
        chain: texts.certificate.unwrap_or_default(),
        key: texts.key.unwrap_or_default(),
        web,
        required: options(proxy).require_tls,
    };
    match proxy.serve.publish(TRUST, &trust) {
        Ok(version) => {
            proxy.serve.applied(version, TRUST_LIMIT).await;
        }
        Err(error) => tracing::error!(%error, "serve does not get the certificates"),
    }
}

/// Asks management, which only now marks the session as used.
async fn ask(proxy: &Proxy, open: &Open) -> Result<(), Denial> {
    let command = ConsoleAccessAuthenticationCommand {
        host: open.host.clone(),
        port: open.port.to_string(),
        vm: open.vm.clone(),
        password: open.password.clone(),
        ticket: open.ticket.clone(),
        session: Some(open.session.clone()),
        client: open.client.to_string(),
        reauthenticating: false,
        base: common::channel::message::Base::default(),
    };
    let agent = proxy.agent.get().ok_or(Denial::Silent)?;
    if agent.status().borrow().server.is_none() {
        return Err(Denial::Silent);
    }
    let answer = agent.request(Message::wrap(&command), MANAGEMENT_LIMIT).await;
    let answer = answer.inspect_err(|error| tracing::warn!(%error, "a console was not authenticated"));
    let answer = answer.map_err(|_| Denial::Silent)?;
    match answer.read::<ConsoleAccessAuthenticationAnswer>() {
        Ok(answer) if answer.success => Ok(()),
        Ok(_) => Err(Denial::Denied),
        Err(error) => {
            tracing::warn!(%error, "management's answer cannot be read");
            Err(Denial::Denied)
        }
    }
}

async fn connect(proxy: &Proxy, open: &Open) -> io::Result<OwnedFd> {
    if let Some((host, gateway)) = plan::route(&proxy.identity, &open.to.0) {
        let words = ["-4", "route", "replace", &host.to_string(), "via", &gateway.to_string(), "dev", "eth1"]
            .map(str::to_owned);
        let added = tokio::task::spawn_blocking(move || program::run("ip", words, b"", ROUTE_LIMIT)).await;
        let outcome =
            added.map_err(|error| error.to_string()).and_then(|done| done.map_err(|e| e.to_string()));
        proxy.health.report("route", outcome.map(drop));
    }
    let stream = TcpStream::connect((open.to.0.as_str(), open.to.1)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&stream, 3)?;
    // A key on its way to a host that has vanished is no reason to wait longer.
    sockopt::set_tcp_user_timeout(&stream, UNANSWERED_MS)?;
    stream.into_std().map(OwnedFd::from)
}

/// Takes [`crate::wire::ENDED`].
pub(super) fn ended(proxy: &Proxy, event: &Event) {
    match event.parse::<Ended>() {
        Ok(ended) => {
            tracing::debug!(key = ended.key, cause = %ended.end, "serve says that a console has ended");
            close(proxy, ended.key);
        }
        Err(error) => tracing::error!(%error, "serve's word on an ended console cannot be read"),
    }
}

/// Takes [`crate::wire::ALIVE`].
pub(super) fn alive(proxy: &Proxy, event: &Event) {
    match event.parse::<Vec<Alive>>() {
        Ok(listed) => {
            let lost = proxy.state().ledger.alive(listed, Instant::now());
            for key in lost {
                tracing::warn!(key, "serve has lost a console");
                close(proxy, key);
            }
        }
        Err(error) => tracing::error!(%error, "serve's list of consoles cannot be read"),
    }
}

fn close(proxy: &Proxy, key: u64) {
    let now = Instant::now();
    let mut state = proxy.state();
    state.tapes.remove(&key);
    if let Some(open) = state.ledger.close(key) {
        let session = open.session.clone();
        let until = state.gate.ended(open, now).then(|| now + proxy.window);
        state.ledger.removed(session, until);
    }
}
