//! The console page and the VNC client that it is built around, from inside the binary. A name is
//! looked up as it stands, so that no path leads anywhere else.

use std::{collections::HashMap, sync::LazyLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use sha2::{Digest as _, Sha256};

/// Where management's URLs look for the page.
pub const PREFIX: &str = "/resource/noVNC/";

/// Name, whether the name carries a version, bytes.
static FILES: &[(&str, bool, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

static ASSETS: LazyLock<HashMap<&str, Asset>> = LazyLock::new(|| {
    let asset = |(name, versioned, bytes): &(&'static str, bool, &'static [u8])| {
        let digest = Sha256::digest(bytes);
        let tag = HeaderValue::from_str(&format!("\"{}\"", hex::encode(&digest[..12])));
        let asset = Asset { kind: kind(name), versioned: *versioned, bytes, tag: tag.ok() };
        (*name, asset)
    };
    FILES.iter().map(asset).collect()
});

struct Asset {
    kind: &'static str,
    versioned: bool,
    bytes: &'static [u8],
    tag: Option<HeaderValue>,
}

/// Media type by the end of the name.
fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Answers a request for `path`; `head` where only the headers are wanted.
pub fn answer(path: &str, headers: &HeaderMap, head: bool) -> Response<Full<Bytes>> {
    let Some(asset) = path.strip_prefix(PREFIX).and_then(|name| ASSETS.get(name)) else {
        return plain(StatusCode::NOT_FOUND, "Not found\n");
    };
    let known = asset.tag.is_some() && headers.get(header::IF_NONE_MATCH) == asset.tag.as_ref();
    let body = if known || head { Bytes::new() } else { Bytes::from_static(asset.bytes) };
    let mut response = Response::new(Full::new(body));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let caching = if asset.versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut set = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
    set(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    set(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Some(tag) = &asset.tag {
        set(header::ETAG, tag.clone());
    }
    if head && !known {
        set(header::CONTENT_LENGTH, asset.bytes.len().into());
    }
    if let Ok(policy) = HeaderValue::from_str(&policy(headers)) {
        set(header::CONTENT_SECURITY_POLICY, policy);
    }
    protect(response)
}

/// A short text.
pub fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = fresh("text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

/// A text made just now.
pub fn fresh(kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    protect(response)
}

/// Headers of every answer: types are not guessed, and the page's address, which holds the token, is
/// told to nobody.
fn protect(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Only what the page itself brings, and streams from the host that it came from, on any port. Portals
/// may put the page into a frame.
fn policy(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(without_port);
    let streams = match host.filter(|host| is_host(host)) {
        Some(host) => format!("ws://{host}:* wss://{host}:*"),
        None => "ws: wss:".to_owned(),
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
         connect-src 'self' {streams}; base-uri 'none'; form-action 'none'"
    )
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Names and IPv4 addresses; a policy cannot name an IPv6 address.
fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http_body_util::BodyExt as _;

    use super::*;

    fn get(path: &str) -> Response<Full<Bytes>> {
        answer(path, &HeaderMap::new(), false)
    }

    /// Names that a file asks for, relative to its folder.
    fn named(path: &str, text: &str) -> Vec<String> {
        if path.ends_with(".js") {
            let import = |line: &str| {
                let line = line.trim_start();
                let from = line.rsplit_once("from ").map(|(_, from)| from)?;
                let name = from.split(['"', '\'']).nth(1)?.to_owned();
                name.starts_with('.').then_some(name)
            };
            text.lines().filter_map(import).collect()
        } else {
            let values = |attribute: &'static str| text.split(attribute).skip(1);
            let links = values("src=\"").chain(values("href=\""));
            links.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
        }
    }

    #[tokio::test]
    async fn the_page_and_all_that_it_imports_are_there() {
        let mut wanted = vec![format!("{PREFIX}vnc.html")];
        let mut seen = HashSet::new();
        while let Some(path) = wanted.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let response = get(&path);
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            for name in named(&path, &String::from_utf8_lossy(&bytes)) {
                let mut parts: Vec<&str> = path.split('/').collect();
                parts.pop();
                for part in name.split('/') {
                    match part {
                        "." => {}
                        ".." => drop(parts.pop()),
                        part => parts.push(part),
                    }
                }
                wanted.push(parts.join("/"));
            }
        }
        assert!(seen.len() > 40, "{seen:?}");
        assert!(seen.iter().any(|path| path.ends_with("/core/rfb.js")));
    }

    #[test]
    fn types_caching_and_protection() {
        let versioned = FILES.iter().find(|(name, ..)| name.ends_with("/core/rfb.js")).unwrap().0;
        for (name, kind, caching) in [
            ("vnc.html", "text/html; charset=utf-8", "no-cache"),
            ("app.js", "text/javascript; charset=utf-8", "no-cache"),
            ("style.css", "text/css; charset=utf-8", "no-cache"),
            ("icon.svg", "image/svg+xml", "no-cache"),
            (versioned, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ] {
            let path = format!("{PREFIX}{name}");
            let response = get(&path);
            let headers = response.headers();
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            assert_eq!(headers["content-type"], kind, "{name}");
            assert_eq!(headers["cache-control"], caching, "{name}");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            let again = HeaderMap::from_iter([(header::IF_NONE_MATCH, headers["etag"].clone())]);
            assert_eq!(answer(&path, &again, false).status(), StatusCode::NOT_MODIFIED);
        }
    }

    #[test]
    fn no_path_leads_elsewhere() {
        for path in [
            "/",
            "/resource/",
            "/resource/noVNC",
            "/resource/noVNC/",
            "/resource/noVNC/core",
            "/resource/noVNC/../noVNC/vnc.html",
            "/resource/noVNC/%2e%2e/vnc.html",
            "/resource/noVNC/%252e%252e/x",
            "/resource/noVNC//vnc.html",
            "/resource/noVNC/./vnc.html",
            "/resource/noVNC/vnc.html/",
            "/resource/noVNC/VNC.HTML",
            "/resource/noVNC/\\vnc.html",
            "/resource/noVNC/vnc.html\0",
            "/resource/logs/x",
            "/resource/conf/agent.properties",
            "//etc/passwd",
            "/ajax",
            "/ajaximg",
            "/getscreen",
        ] {
            assert_eq!(get(path).status(), StatusCode::NOT_FOUND, "{path:?}");
        }
    }

    #[test]
    fn streams_are_allowed_from_the_own_host_only() {
        let with = |host: &str| {
            policy(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]))
        };
        let named = with("console.example.com:443");
        assert!(named.contains("connect-src 'self' ws://console.example.com:* wss://console.example.com:*;"));
        assert!(with("203.0.113.5").contains("ws://203.0.113.5:*"));
        for odd in ["x; script-src *", "[2001:db8::1]:80", "", "*"] {
            assert!(with(odd).contains("connect-src 'self' ws: wss:;"), "{odd}");
        }
    }
}
