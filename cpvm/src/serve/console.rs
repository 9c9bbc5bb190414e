//! One console, from the answered upgrade to the end.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{App, sessions::Session};
use crate::{
    end::End,
    relay::{Timing, relay},
    rfb::{
        Version,
        browser::Browser,
        hypervisor::{self, authenticate, initialise},
    },
    ticket::{Order, Query},
    wire::{OPEN, Verdict},
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
struct Turned {
    text: String,
    label: &'static str,
    /// Whether it counts against the address.
    suspicious: bool,
}

/// Runs a console until it ends.
pub(super) async fn run<S>(app: &App, stream: S, query: &Query, client: IpAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let since = Instant::now();
    let mut browser = Browser::new(stream).await;
    let end = match in_time(browser.greet()).await {
        Err(end) => end,
        Ok(version) => match admit(app, query, client).await {
            Err(turned) => {
                tracing::info!(%client, reason = turned.label, "console refused");
                app.counters.refused(turned.label);
                if turned.suspicious {
                    app.limits.failed(client, Instant::now());
                }
                let told = in_time(browser.refuse(version, &turned.text)).await;
                told.err().unwrap_or(End::Refused)
            }
            Ok((order, session, socket)) => {
                return session_of(browser, version, &order, session, socket, since).await;
            }
        },
    };
    let _ = timeout(CLOSE_LIMIT, browser.close(&end)).await;
}

/// All checks, cheapest first; the core is asked last.
async fn admit(app: &App, query: &Query, client: IpAddr) -> Result<(Order, Session, OwnedFd), Turned> {
    let not_now = |text: &str, label| Turned { text: text.to_owned(), label, suspicious: false };
    let Some(settings) = app.settings.load_full() else {
        return Err(not_now("the console proxy is not ready, try again later", "not_ready"));
    };
    let refused = |refusal: crate::ticket::Refusal| Turned {
        text: refusal.to_string(),
        label: refusal.label(),
        suspicious: true,
    };
    let token = query.open(&settings.key).map_err(refused)?;
    let mut order = query.order(token, client, settings.source_check).map_err(refused)?;
    order.open.key = app.sessions.key();
    app.sessions.place(&order).map_err(|full| not_now(&full.to_string(), full.label()))?;
    match app.core.ask_with_socket(OPEN, &order.open, CORE_LIMIT).await {
        Ok((Verdict::Granted, Some(socket))) => {
            let session = app.sessions.enter(&order);
            Ok((order, session, socket))
        }
        Ok((Verdict::Denied(denial), _)) => Err(Turned {
            text: denial.to_string(),
            label: denial.label(),
            suspicious: denial.is_suspicious(),
        }),
        Ok((Verdict::Granted, None)) => Err(not_now("the console proxy failed, see its log", "core")),
        Err(error) => {
            tracing::warn!(%error, "a console was not opened");
            Err(not_now("the console proxy failed, try again later", "core"))
        }
    }
}

/// An admitted console: handshakes, then the relay.
async fn session_of<S>(
    mut browser: Browser<S>,
    version: Version,
    order: &Order,
    mut session: Session,
    socket: OwnedFd,
    since: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let end = match ready(&mut browser, version, order, socket).await {
        Ok(hypervisor) => {
            session.shown(since);
            let meter = std::sync::Arc::clone(&session.meter);
            relay(browser, hypervisor, &mut session.orders, &meter, Timing::default()).await
        }
        Err(end) => {
            let _ = timeout(CLOSE_LIMIT, browser.close(&end)).await;
            end
        }
    };
    session.end(end);
}

/// Both handshakes. The hypervisor's comes first, so that its refusal can still be told.
async fn ready<S>(
    browser: &mut Browser<S>,
    version: Version,
    order: &Order,
    socket: OwnedFd,
) -> Result<TcpStream, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = std::net::TcpStream::from(socket);
    let opened = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let mut hypervisor = match opened {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(%error, "the hypervisor's connection cannot be used");
            return Err(End::HypervisorGone);
        }
    };
    let authenticated = timeout(HYPERVISOR_LIMIT, authenticate(&mut hypervisor, &order.open.password)).await;
    if let Err(error) = authenticated.unwrap_or_else(|_| Err(late())) {
        tracing::warn!(host = %order.open.host, port = order.open.port, %error, "the hypervisor refused");
        let text = format!("the screen of this virtual machine cannot be opened: {error}");
        in_time(browser.refuse(version, &text)).await?;
        return Err(End::HypervisorRefused);
    }
    let shared = in_time(browser.admit(version)).await?;
    match timeout(HYPERVISOR_LIMIT, initialise(&mut hypervisor, shared)).await.unwrap_or_else(|_| Err(late()))
    {
        Ok(init) => {
            in_time(browser.send(init.named(&format!("{} ", order.name)))).await?;
            Ok(hypervisor)
        }
        Err(error) => {
            tracing::warn!(host = %order.open.host, port = order.open.port, %error, "no screen");
            Err(End::HypervisorGone)
        }
    }
}

fn late() -> hypervisor::Error {
    hypervisor::Error::Io(std::io::ErrorKind::TimedOut.into())
}

async fn in_time<T>(step: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    timeout(BROWSER_LIMIT, step).await.unwrap_or(Err(End::BrowserLate))
}
