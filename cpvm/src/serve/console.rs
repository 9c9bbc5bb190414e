//! One console, from the answered upgrade to the end.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};

use super::{App, sessions::Session};
use crate::{
    end::End,
    relay::{Filters, Timing, relay, tape::Tape},
    rfb::{
        Version,
        browser::Browser,
        hypervisor::{Error, Ready, authenticate, initialise},
        view::ViewOnly,
    },
    screen::{Credentials, Duplex, Screen, secured, tunnel, websocket},
    ticket::{Order, Query},
    wire::{OPEN, TAPE, Verdict},
};

/// For each step that the browser has to take.
const BROWSER_LIMIT: Duration = Duration::from_secs(10);
/// For the core: ten seconds each for management and the hypervisor, and some to spare.
const CORE_LIMIT: Duration = Duration::from_secs(25);
/// For each half of the handshake with the hypervisor.
const HYPERVISOR_LIMIT: Duration = Duration::from_secs(10);
/// For saying good-bye.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A console that is not opened: what the user is told, and the word for the counters.
pub(super) struct Turned {
    pub(super) text: String,
    label: &'static str,
    /// Whether it counts against the address.
    suspicious: bool,
}

impl Turned {
    fn not_now(text: &str, label: &'static str) -> Self {
        Self { text: text.to_owned(), label, suspicious: false }
    }

    /// Writes it down.
    pub(super) fn count(&self, app: &App, client: IpAddr) {
        tracing::info!(%client, reason = self.label, "console refused");
        app.counters.refused(self.label);
        if self.suspicious {
            app.limits.failed(client, Instant::now());
        }
    }
}

/// Runs a console until it ends.
pub(super) async fn run<S>(app: &App, mut browser: Browser<S>, query: &Query, client: IpAddr)
where
    S: Duplex,
{
    let since = Instant::now();
    let checked = check(app, query, client).and_then(|order| {
        if order.picture {
            return Err(Turned::not_now("this address is good for a picture, not for a console", "picture"));
        }
        Ok(order)
    });
    // VMware speaks to the browser itself.
    let through = matches!(&checked, Ok(order) if matches!(order.screen, Screen::Websocket { .. }));
    let mut version = None;
    if !through {
        match in_time(browser.greet()).await {
            Ok(greeted) => version = Some(greeted),
            Err(end) => {
                let _ = timeout(CLOSE_LIMIT, browser.close(end)).await;
                return;
            }
        }
    }
    let admitted = match checked {
        Ok(order) => admit(app, order).await,
        Err(turned) => Err(turned),
    };
    match admitted {
        Ok((order, session, socket)) => {
            session_of(app, browser, version, &order, session, socket, since).await
        }
        Err(turned) => {
            turned.count(app, client);
            let told = refuse(&mut browser, version, &turned.text).await;
            let end = told.err().unwrap_or(End::Refused);
            let _ = timeout(CLOSE_LIMIT, browser.close(end)).await;
        }
    }
}

/// Tells why there is no console; `version` is the browser's, once it has greeted.
async fn refuse<S>(browser: &mut Browser<S>, version: Option<Version>, text: &str) -> Result<(), End>
where
    S: Duplex,
{
    let version = match version {
        Some(version) => version,
        None => in_time(browser.greet()).await?,
    };
    in_time(browser.refuse(version, text)).await
}

/// What can be checked without asking anybody.
pub(super) fn check(app: &App, query: &Query, client: IpAddr) -> Result<Order, Turned> {
    let Some(settings) = app.settings.load_full() else {
        return Err(Turned::not_now("the console proxy is not ready, try again later", "not_ready"));
    };
    let refused = |refusal: crate::ticket::Refusal| Turned {
        text: refusal.to_string(),
        label: refusal.label(),
        suspicious: true,
    };
    let token = query.open(&settings.key).map_err(refused)?;
    let mut order = query.order(token, client, settings.source_check).map_err(refused)?;
    order.open.key = app.sessions.key();
    app.sessions.place(&order).map_err(|full| Turned::not_now(&full.to_string(), full.label()))?;
    Ok(order)
}

/// Asks the core, which asks management and connects.
pub(super) async fn admit(app: &App, order: Order) -> Result<(Order, Session, OwnedFd), Turned> {
    match app.core.ask_with_socket(OPEN, &order.open, CORE_LIMIT).await {
        Ok((verdict @ (Verdict::Granted | Verdict::Recorded), Some(socket))) => {
            let order = Order { recorded: verdict == Verdict::Recorded, ..order };
            let session = app.sessions.enter(&order);
            Ok((order, session, socket))
        }
        Ok((Verdict::Denied(denial), _)) => Err(Turned {
            text: denial.to_string(),
            label: denial.label(),
            suspicious: denial.is_suspicious(),
        }),
        Ok((Verdict::Granted | Verdict::Recorded, None)) => {
            Err(Turned::not_now("the console proxy failed, see its log", "core"))
        }
        Err(error) => {
            tracing::warn!(%error, "a console was not opened");
            Err(Turned::not_now("the console proxy failed, try again later", "core"))
        }
    }
}

/// An admitted console: handshakes, then the relay.
async fn session_of<S>(
    app: &App,
    mut browser: Browser<S>,
    version: Option<Version>,
    order: &Order,
    mut session: Session,
    socket: OwnedFd,
    since: Instant,
) where
    S: Duplex,
{
    let end = match ready(app, &mut browser, version, order, socket).await {
        Ok((hypervisor, init)) => {
            session.shown(since);
            let meter = std::sync::Arc::clone(&session.meter);
            let filters = Filters {
                view_only: order.view_only.then(ViewOnly::default),
                tape: if order.recorded { tape(app, order, init).await } else { None },
            };
            relay(browser, hypervisor, filters, &mut session.orders, &meter, Timing::default()).await
        }
        Err(end) => {
            let _ = timeout(CLOSE_LIMIT, browser.close(end)).await;
            end
        }
    };
    session.end(end);
}

/// The file for what this console shows; `init` is how its screen was described. A console that cannot be recorded is
/// shown all the same, and the log says so.
async fn tape(app: &App, order: &Order, init: Option<Vec<u8>>) -> Option<Tape> {
    let session = &order.open.session;
    let Some(init) = init else {
        tracing::error!(session, "not recorded: VMware describes its screen to the browser alone");
        return None;
    };
    match app.core.ask_with_socket::<_, Option<u64>>(TAPE, &order.open.key, CORE_LIMIT).await {
        Ok((Some(limit), Some(file))) => Some(Tape::new(session, file.into(), limit, init)),
        Ok(_) => None,
        Err(error) => {
            tracing::error!(session, %error, "not recorded");
            None
        }
    }
}

/// Both handshakes: the screen, and how it was described where the proxy has read that. The hypervisor's comes first,
/// so that its refusal can still be told.
async fn ready<S>(
    app: &App,
    browser: &mut Browser<S>,
    version: Option<Version>,
    order: &Order,
    socket: OwnedFd,
) -> Result<(Box<dyn Duplex>, Option<Vec<u8>>), End>
where
    S: Duplex,
{
    let Ready { mut stream, tls, .. } = match reach(app, order, socket).await {
        Ok(ready) => ready,
        Err(error) => {
            let text = format!("the screen of this virtual machine cannot be opened: {error}");
            refuse(browser, version, &text).await?;
            return Err(End::HypervisorRefused);
        }
    };
    let Some(version) = version else { return Ok((stream, None)) };
    let shared = in_time(browser.admit(version)).await?;
    match timeout(HYPERVISOR_LIMIT, initialise(&mut stream, shared)).await.unwrap_or_else(|_| Err(late())) {
        Ok(init) => {
            // The pages of CloudStack look for this word.
            let name = format!("{} {}", order.name, if tls { "(TLS backend)" } else { "" });
            let init = init.named(&name);
            in_time(browser.send(&init)).await?;
            Ok((stream, Some(init)))
        }
        Err(error) => {
            tracing::warn!(host = %order.open.to.0, port = order.open.to.1, %error, "no screen");
            Err(End::HypervisorGone)
        }
    }
}

/// The way to the screen, up to where a VNC server waits for the client's initialisation, or VMware for the browser.
pub(super) async fn reach(app: &App, order: &Order, socket: OwnedFd) -> Result<Ready, Error> {
    let credentials = app.credentials.load_full();
    let reached = timeout(HYPERVISOR_LIMIT, layers(order, socket, &credentials)).await;
    let (host, port) = &order.open.to;
    match reached.unwrap_or_else(|_| Err(late())) {
        Ok(ready) => {
            if ready.open && !order.open.password.is_empty() {
                tracing::warn!(%host, port, vm = %order.open.vm, "this screen has a password and did not ask for it");
            }
            Ok(ready)
        }
        Err(error) => {
            tracing::warn!(%host, port, %error, "the hypervisor refused");
            Err(error)
        }
    }
}

async fn layers(order: &Order, socket: OwnedFd, credentials: &Credentials) -> Result<Ready, Error> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let stream: Box<dyn Duplex> = Box::new(TcpStream::from_std(stream)?);
    let layered = async |stream: Box<dyn Duplex>, tls: bool| match tls {
        true => secured(stream, &credentials.web).await,
        false if credentials.required => Err(Error::Unprotected),
        false => Ok(stream),
    };
    match &order.screen {
        Screen::Direct => {
            authenticate(stream, &order.open.password, &credentials.vnc, credentials.required).await
        }
        Screen::Tunnel { tls, host, path, session } => {
            let mut stream = layered(stream, *tls).await?;
            tunnel::connect(&mut *stream, host, path, session).await?;
            let ready = authenticate(stream, &order.open.password, &credentials.vnc, false).await?;
            // Behind the interface no server asks for anything.
            Ok(Ready { tls: *tls, open: false, ..ready })
        }
        Screen::Websocket { tls, url } => {
            let stream = layered(stream, *tls).await?;
            Ok(Ready { stream: Box::new(websocket::connect(stream, url).await?), tls: *tls, open: false })
        }
    }
}

fn late() -> Error {
    Error::Io(std::io::ErrorKind::TimedOut.into())
}

async fn in_time<T>(step: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    timeout(BROWSER_LIMIT, step).await.unwrap_or(Err(End::BrowserLate))
}
