//! HTTP towards strangers: the page and the upgrade to a console; and, on the management side,
//! status and metrics.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{App, console, limits::Place, page, picture};
use crate::{rfb::browser::Browser, screen::Duplex, ticket::Query, wire::Purpose};

/// Where health is asked for.
const HEALTH: &str = "/health";
/// For a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's headers; a token takes up to 16 KiB.
const HEADER_BYTES: usize = 64 * 1024;

/// Serves one connection until it closes or becomes a console.
pub(super) async fn connection<S>(app: Arc<App>, stream: S, peer: SocketAddr, purpose: Purpose, place: Place)
where
    S: Duplex + 'static,
{
    let place = Arc::new(place);
    let service = service_fn(|request: Request<Incoming>| {
        let (app, place) = (Arc::clone(&app), Arc::clone(&place));
        async move {
            let response = match purpose {
                Purpose::Public => public::<S>(&app, request, peer, place).await,
                Purpose::Status => status(&app, &request),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(HEADER_BYTES);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

/// Requests of strangers over a connection of kind `S`.
async fn public<S>(
    app: &Arc<App>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    place: Arc<Place>,
) -> Response<Full<Bytes>>
where
    S: Duplex + 'static,
{
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = page::plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let client = peer.ip().to_canonical();
    match request.uri().path() {
        picture::PATH if *request.method() == Method::GET => {
            return picture::answer(app, request.uri().query().unwrap_or_default(), client).await;
        }
        HEALTH => return health(app),
        _ => {}
    }
    if !names(request.headers(), "upgrade", "websocket") {
        return page::answer(request.uri().path(), request.headers(), *request.method() == Method::HEAD);
    }
    let key = match upgrade_key(&request) {
        Ok(key) => key,
        Err(wrong) => {
            let mut response = page::plain(StatusCode::BAD_REQUEST, wrong);
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return response;
        }
    };
    if app.limits.must_wait(client, Instant::now()) {
        app.counters.turned_away("refused_too_often");
        return page::plain(StatusCode::TOO_MANY_REQUESTS, "Too many refused consoles, wait a minute\n");
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if names(request.headers(), "sec-websocket-protocol", "binary") {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let app = Arc::clone(app);
    tokio::spawn(async move {
        match hyper::upgrade::on(&mut request).await {
            // The connection itself, without what HTTP needed.
            Ok(upgraded) => match upgraded.downcast::<TokioIo<S>>() {
                Ok(parts) => {
                    let browser = Browser::new(parts.io.into_inner(), &parts.read_buf);
                    console::run(&app, browser, &query, client).await;
                }
                Err(_) => tracing::error!(%peer, "an upgrade of an unknown kind"),
            },
            Err(error) => tracing::debug!(%peer, %error, "an upgrade broke"),
        }
        drop(place);
    });
    response
}

/// The answer to the key of a valid upgrade (RFC 6455 4.2.1), else what is wrong with it.
fn upgrade_key(request: &Request<Incoming>) -> Result<HeaderValue, &'static str> {
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("Only version 13 of the websocket protocol\n");
    }
    if *request.method() != Method::GET || !names(headers, "connection", "upgrade") {
        return Err("Not a websocket upgrade\n");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("No websocket key\n")?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| "Bad websocket key\n")
}

/// Whether one of the comma-separated words of a header is this one, whatever its case.
fn names(headers: &HeaderMap, header: &str, word: &str) -> bool {
    let values = headers.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
}

/// Whether consoles can be opened: what a balancer or a proxy before this one asks.
fn health(app: &App) -> Response<Full<Bytes>> {
    match app.settings.load().is_some() {
        true => page::plain(StatusCode::OK, "ok\n"),
        false => page::plain(StatusCode::SERVICE_UNAVAILABLE, "not started by management yet\n"),
    }
}

fn status(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if *request.method() != Method::GET {
        return page::plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET\n");
    }
    match request.uri().path() {
        HEALTH => health(app),
        "/cmd/getstatus" => page::fresh("text/plain", app.sessions.load().text().into()),
        "/metrics" => page::fresh("text/plain; version=0.0.4", app.counters.text().into()),
        _ => page::plain(StatusCode::NOT_FOUND, "Not found\n"),
    }
}
