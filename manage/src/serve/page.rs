//! A page that shows the zone, for reading only, and its figures for Prometheus.

use std::{convert::Infallible, fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

use super::{Manage, status};
use crate::api::Status;

/// Connections at once.
const AT_ONCE: usize = 32;
/// For a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(300);
/// Bytes of a request's headers.
const HEADER_BYTES: usize = 16 * 1024;
/// The page runs its own script and asks its own server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the page until the task is aborted. Without a place to listen there is none, and the zone goes on.
pub(super) async fn open(manage: Arc<Manage>) -> JoinHandle<()> {
    let listener = match manage.zoned.zone().management.page {
        Some(at) => TcpListener::bind(at)
            .await
            .inspect_err(|error| tracing::warn!("no status page at {at}: {error}"))
            .ok()
            .inspect(|_| tracing::info!("status page: http://{at}/")),
        None => None,
    };
    tokio::spawn(async move {
        let Some(listener) = listener else { return };
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let manage = manage.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let response = answer(&manage, &request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(HEADER_BYTES);
                let connection = server.serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = tokio::time::timeout(LIFE, connection).await {
                    tracing::debug!(%peer, %error, "a reader of the page broke");
                }
                drop(slot);
            });
        }
    })
}

fn answer(manage: &Manage, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if *request.method() != Method::GET {
        return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Only GET\n".into());
    }
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    if !host.is_some_and(is_plain) {
        let text = "Ask by an address or as localhost: a name may be somebody else's\n";
        return response(StatusCode::MISDIRECTED_REQUEST, "text/plain", text.into());
    }
    let ok = |kind, text: Bytes| response(StatusCode::OK, kind, text);
    match request.uri().path() {
        "/" => ok("text/html; charset=utf-8", include_str!("../../page/index.html").into()),
        "/page.js" => ok("text/javascript; charset=utf-8", include_str!("../../page/page.js").into()),
        "/page.css" => ok("text/css; charset=utf-8", include_str!("../../page/page.css").into()),
        path @ ("/status.json" | "/metrics") => match status::status(manage) {
            Ok(status) if path == "/metrics" => ok("text/plain; version=0.0.4", metrics(&status).into()),
            Ok(status) => ok("application/json", serde_json::to_vec(&status).unwrap_or_default().into()),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
        },
        _ => response(StatusCode::NOT_FOUND, "text/plain", "Not found\n".into()),
    }
}

/// Whether a Host header is an address or `localhost`. Any other name may be one that a stranger's page has had
/// point here, to read what is shown.
fn is_plain(host: &str) -> bool {
    let name = host.parse::<SocketAddr>().map_or_else(
        |_| host.split_once(':').map_or(host, |(name, _)| name).to_owned(),
        |socket| socket.ip().to_string(),
    );
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[')
}

fn response(code: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The state as figures in the text form of Prometheus.
fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut figure = |name: &str, help: &str, rows: Vec<(String, bool)>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(text, "{name}{labels} {}", u8::from(value));
        }
    };
    figure("trivium_zone_ready", "All that shall run is ready.", vec![(String::new(), status.ready)]);
    figure(
        "trivium_manager_ok",
        "Nothing is wrong with the manager itself.",
        vec![(String::new(), status.trouble.is_none())],
    );
    let hosts = || status.hosts.iter().map(|host| (format!("{{host=\"{}\"}}", host.name), host));
    figure("trivium_host_up", "Its agent is up.", hosts().map(|(l, host)| (l, host.up)).collect());
    let in_service =
        |(l, host): (String, &crate::api::HostStatus)| (l, host.standing == crate::api::IN_SERVICE);
    figure("trivium_host_in_service", "Heard, not lost, not drained.", hosts().map(in_service).collect());
    let vms = status.vms.iter().map(|vm| {
        let labels = format!("{{vm=\"{}\",kind=\"{}\",wanted=\"{}\"}}", vm.name, vm.kind, vm.wanted);
        (labels, vm.state == "ready")
    });
    figure("trivium_vm_ready", "It runs and has all it needs.", vms.collect());
    let stores = status.stores.iter().map(|s| (format!("{{store=\"{}\"}}", s.name), s.error.is_none()));
    figure("trivium_store_attached", "The SSVM has it.", stores.collect());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_names_of_this_page() {
        for plain in ["localhost", "localhost:8254", "127.0.0.1:8254", "192.0.2.1", "[::1]:8254"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in ["evil.example", "evil.example:8254", "localhost.evil.example", ""] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
