//! Requests and what answers them.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    files::{self, Body, text},
    listen::App,
    upload,
};
use crate::{layout::StorePath, store::job_of_temporary};

/// For a request's head, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a request's head; metadata of an upload is a part of it.
const HEAD_BYTES: usize = 64 * 1024;
/// Headers that a browser may send with an upload.
const ALLOWED_HEADERS: &str = "x-requested-with, content-type, origin, authorization, accept, \
                               client-security-token, x-signature, x-metadata, x-expires";

/// Serves one connection until it closes.
pub(super) async fn connection<S>(app: Arc<App>, stream: S, peer: IpAddr, https: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(answer(&app, request, peer, https).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

async fn answer(app: &Arc<App>, request: Request<Incoming>, peer: IpAddr, https: bool) -> Response<Body> {
    let in_force = app.in_force.borrow().clone();
    let site = &in_force.site;
    let uploads = https == site.upload_by_https;
    let path = decoded(request.uri().path());
    let words: Vec<&str> = path.as_deref().unwrap_or_default().split('/').skip(1).collect();
    let mut response = match words.as_slice() {
        ["userdata", rest @ ..] => match (read_only(&request), site.links.get(&rest.join("/"))) {
            (None, _) => only_to_be_read(),
            (Some(_), None) => not_found(),
            (Some(head_only), Some(link)) => {
                let folder = format!("{}/{}", site.parent, link.mount);
                files::file(&folder, &link.path, request.headers(), head_only).await
            }
        },
        ["copy", ..] if !is_peer(site, peer) => text(StatusCode::FORBIDDEN, "Not for this address\n"),
        // Nothing lies there; who has a login is told so.
        ["copy", "template", ..] if !is_known(site, request.headers()) => {
            let mut response = text(StatusCode::UNAUTHORIZED, "A user and a password are needed\n");
            let realm = HeaderValue::from_static("Basic realm=\"Authentication Required\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
            response
        }
        ["copy", "SecStorage", mount, rest @ ..] => match (read_only(&request), copied(rest)) {
            (None, _) => only_to_be_read(),
            (Some(head_only), Some(path)) if site.mounts.contains(*mount) => {
                let folder = format!("{}/{mount}", site.parent);
                files::file(&folder, &path, request.headers(), head_only).await
            }
            (Some(_), _) => not_found(),
        },
        ["upload", uuid] if uploads => {
            if *request.method() == Method::OPTIONS {
                text(StatusCode::OK, "")
            } else {
                let uuid = (*uuid).to_owned();
                upload::receive(app, request, &uuid, https).await
            }
        }
        _ => not_found(),
    };
    if uploads {
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "Not found\n")
}

/// `true` where only the head is asked for; `None` where something is to be written.
fn read_only(request: &Request<Incoming>) -> Option<bool> {
    match *request.method() {
        Method::GET => Some(false),
        Method::HEAD => Some(true),
        _ => None,
    }
}

fn only_to_be_read() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn is_peer(site: &super::Site, peer: IpAddr) -> bool {
    matches!(peer.to_canonical(), IpAddr::V4(address) if site.peers.contains(&address))
}

/// Whether a request brings the login of the copy service.
fn is_known(site: &super::Site, headers: &HeaderMap) -> bool {
    let given =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let given = given.and_then(|text| STANDARD.decode(text.trim()).ok()).unwrap_or_default();
    site.copy_login.as_ref().is_some_and(|(user, password)| {
        let known = format!("{user}:{}", password.expose());
        aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), &given).is_ok()
    })
}

/// A path below a store as another VM may ask for it: no hidden files, nothing that is still being written.
fn copied(words: &[&str]) -> Option<StorePath> {
    let hidden = |word: &&str| word.starts_with('.') || job_of_temporary(word).is_some();
    (!words.iter().any(hidden)).then(|| StorePath::parse(&words.join("/")).ok()).flatten()
}

/// A path with its `%` sequences undone; `None` where they are not UTF-8.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                bytes.push(digit(high)? * 16 + digit(low)?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_of_requests() {
        assert_eq!(decoded("/a%20b/%C3%A4").as_deref(), Some("/a b/ä"));
        for bad in ["/%", "/%4", "/%zz", "/%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
        assert_eq!(copied(&["template", "tmpl", "x.iso"]).unwrap().as_str(), "template/tmpl/x.iso");
        for bad in [&["template", ".htaccess"][..], &["..", "x"], &[], &["a", "dnldjtmp_"], &["a\0"]] {
            assert_eq!(copied(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_store(text in ".{0,80}") {
            let path = decoded(&text).unwrap_or_default();
            let words: Vec<&str> = path.split('/').collect();
            if let Some(path) = copied(&words) {
                prop_assert!(path.components().all(|c| !c.starts_with('.')));
            }
        }
    }
}
