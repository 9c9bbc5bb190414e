//! A server that misbehaves in every way, and what comes of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Serves each connection with the next script: what to write, and whether to hold the line then.
async fn server(scripts: Vec<(Vec<u8>, bool)>) -> (String, Arc<tokio::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let requests = Arc::clone(&seen);
    tokio::spawn(async move {
        let next = AtomicUsize::new(0);
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let at = next.fetch_add(1, Ordering::Relaxed).min(scripts.len() - 1);
            requests.lock().await.push(request(&mut stream).await);
            let (bytes, hold) = &scripts[at];
            let _ = stream.write_all(bytes).await;
            if *hold {
                held.push(stream);
            }
        }
    });
    (format!("http://{address}/images/x.qcow2"), seen)
}

async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).to_lowercase()
}

fn order(url: &str) -> HttpOrder {
    HttpOrder {
        url: Secret::new(url),
        user: None,
        proxy: None,
        follow_redirects: false,
        policy: Policy { loopback: true, ..Policy::default() },
        trust: vec![],
        stall: 1,
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), b"\r\n\r\n", body].concat()
}

async fn fetched(order: &HttpOrder) -> Result<Vec<u8>, String> {
    let mut source = HttpSource::open(order, 1 << 20).await.map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    while let Some(chunk) = source.chunk().await.map_err(|e| e.to_string())? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_broken_connection_goes_on_where_it_broke() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"a\"";
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\nContent-Range: bytes 4-9/10";
    let (url, seen) = server(vec![(answer(head, b"0123"), false), (answer(rest, b"456789"), false)]).await;
    assert_eq!(fetched(&order(&url)).await.unwrap(), b"0123456789");
    let seen = seen.lock().await;
    assert!(seen[0].contains("accept-encoding: identity"), "{}", seen[0]);
    assert!(seen[1].contains("range: bytes=4-") && seen[1].contains("if-range: \"a\""), "{}", seen[1]);
}

#[tokio::test]
async fn a_stall_is_a_broken_connection() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4";
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 2-3/4";
    let (url, _) = server(vec![(answer(head, b"01"), true), (answer(rest, b"23"), false)]).await;
    assert_eq!(fetched(&order(&url)).await.unwrap(), b"0123");
}

#[tokio::test]
async fn a_stall_for_ever_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"a\"";
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 2-3/4";
    let (url, seen) = server(vec![(answer(head, b"01"), true), (answer(rest, b""), true)]).await;
    let error = fetched(&order(&url)).await.unwrap_err();
    assert_eq!(error, "Downloaded 2 bytes (incomplete download): no byte for 1 s");
    assert_eq!(seen.lock().await.len(), 5);
}

#[tokio::test]
async fn a_server_that_starts_over_never_gives_a_file() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10";
    let (url, _) = server(vec![(answer(head, b"0123"), false), (answer(head, b"0123456789"), false)]).await;
    assert_eq!(fetched(&order(&url)).await.unwrap_err(), "HTTP Server does not support partial get");
    let other = "HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\nContent-Range: bytes 3-9/10";
    let (url, _) = server(vec![(answer(head, b"0123"), false), (answer(other, b"456789"), false)]).await;
    assert!(fetched(&order(&url)).await.unwrap_err().contains("another part"));
}

#[tokio::test]
async fn a_server_that_lies_about_the_length_ends_in_an_error() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10";
    let gone = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0";
    let (url, _) = server(vec![(answer(head, b"0123"), false), (answer(gone, b""), false)]).await;
    assert_eq!(fetched(&order(&url)).await.unwrap_err(), "HTTP Server does not support partial get");
    let more = answer("HTTP/1.1 200 OK\r\nContent-Length: 4", b"0123456789");
    let (url, _) = server(vec![(more, false)]).await;
    assert_eq!(fetched(&order(&url)).await.unwrap(), b"0123");
}

#[tokio::test]
async fn texts_for_users() {
    let of = async |head: &str| {
        let (url, _) = server(vec![(answer(head, b""), false)]).await;
        (fetched(&order(&url)).await.unwrap_err(), url)
    };
    let (text, _) = of("HTTP/1.1 404 Not Found\r\nContent-Length: 0").await;
    assert_eq!(text, " HTTP Server returned 404 (expected 200 OK) ");
    let (text, url) = of("HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0").await;
    assert_eq!(text, format!("Failed to download {url} due to redirection, response code: 302"));
    assert_eq!(of("HTTP/1.0 200 OK\r\nConnection: close").await.0, " Failed to receive length of download ");
    assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 99999999").await.0, "Download file size is too large");
    for (url, text) in [
        ("ftp://h/x", "Scheme is not supported ftp://h/x"),
        ("http://169.254.169.254/x", "Illegal host specified in URL."),
        ("http://[::1]/x", "IPv6 addresses are not supported (::1)."),
        ("http://no-such-host.invalid/x", "Unable to resolve no-such-host.invalid."),
        ("http://2852039166/x", "Illegal host specified in URL."),
    ] {
        assert_eq!(fetched(&order(url)).await.unwrap_err(), text, "{url}");
    }
}

#[tokio::test]
async fn redirections_are_followed_where_allowed_and_only_to_allowed_places() {
    let with = |code: u16, to: &str| {
        answer(&format!("HTTP/1.1 {code} x\r\nLocation: {to}\r\nContent-Length: 0"), b"")
    };
    let redirect = |to: &str| with(307, to);
    let body = answer("HTTP/1.1 200 OK\r\nContent-Length: 2", b"ok");
    let follow = |url: &str| HttpOrder { follow_redirects: true, ..order(url) };
    for code in [301, 302, 303, 307, 308] {
        let (url, _) = server(vec![(with(code, "/y"), false), (body.clone(), false)]).await;
        assert_eq!(fetched(&follow(&url)).await.unwrap(), b"ok", "{code}");
        let (url, seen) = server(vec![(with(code, "/y"), false)]).await;
        assert!(fetched(&order(&url)).await.unwrap_err().ends_with(&format!("response code: {code}")));
        assert_eq!(seen.lock().await.len(), 1);
    }
    for target in ["http://169.254.169.254/latest", "http://0.0.0.0/", "http://[::ffff:169.254.169.254]/"] {
        let (url, _) = server(vec![(redirect(target), false)]).await;
        assert_eq!(fetched(&follow(&url)).await.unwrap_err(), "Illegal host specified in URL.", "{target}");
    }
    let (url, _) = server(vec![(redirect("file:///etc/passwd"), false)]).await;
    assert!(fetched(&follow(&url)).await.unwrap_err().starts_with("Scheme is not supported"));
    let (url, seen) = server(vec![(redirect("/again"), false)]).await;
    assert_eq!(fetched(&follow(&url)).await.unwrap_err(), "More than 10 redirections");
    assert_eq!(seen.lock().await.len(), 11);
}

#[tokio::test]
async fn chunked_bodies_end_where_they_say() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-amz-meta-size: 5";
    let (url, _) = server(vec![(answer(head, b"5\r\n01234\r\n0\r\n\r\n"), false)]).await;
    let source = HttpSource::open(&order(&url), 1 << 20).await.unwrap();
    assert_eq!(source.size(), Some(5));
    assert_eq!(fetched(&order(&url)).await.unwrap(), b"01234");
}

#[tokio::test]
async fn credentials_go_to_their_host_with_the_first_request() {
    let (url, seen) = server(vec![(answer("HTTP/1.1 200 OK\r\nContent-Length: 1", b"x"), false)]).await;
    let order = HttpOrder { user: Some(("u".into(), Secret::new("p"))), ..order(&url) };
    fetched(&order).await.unwrap();
    assert!(seen.lock().await[0].contains("authorization: basic dtpw"));
}

#[tokio::test]
async fn a_proxy_gets_the_whole_url_and_its_own_credentials() {
    let (proxy, seen) = server(vec![(answer("HTTP/1.1 200 OK\r\nContent-Length: 1", b"x"), false)]).await;
    let port = proxy.trim_start_matches("http://127.0.0.1:").split('/').next().unwrap().parse().unwrap();
    let spec = ProxySpec { host: "127.0.0.1".into(), port, user: Some(("u".into(), Secret::new("p"))) };
    let order = HttpOrder { proxy: Some(spec), ..order("http://images.example.org/x.qcow2") };
    assert_eq!(fetched(&order).await.unwrap(), b"x");
    let seen = seen.lock().await;
    assert!(seen[0].starts_with("get http://images.example.org/x.qcow2"), "{}", seen[0]);
    assert!(seen[0].contains("proxy-authorization: basic dtpw"), "{}", seen[0]);
}

#[tokio::test]
async fn https_goes_through_a_proxy_unseen() {
    let refusal = answer("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0", b"");
    let (proxy, seen) = server(vec![(refusal, false)]).await;
    let port = proxy.trim_start_matches("http://127.0.0.1:").split('/').next().unwrap().parse().unwrap();
    let spec = ProxySpec { host: "127.0.0.1".into(), port, user: Some(("u".into(), Secret::new("p"))) };
    let order = HttpOrder { proxy: Some(spec), ..order("https://images.example.org/secret-path.qcow2") };
    assert!(fetched(&order).await.is_err());
    let seen = seen.lock().await;
    assert!(seen[0].starts_with("connect images.example.org:443 "), "{}", seen[0]);
    assert!(seen[0].contains("proxy-authorization: basic dtpw") && !seen[0].contains("secret-path"));
}

#[test]
fn content_ranges() {
    assert_eq!(content_range("bytes 4-9/10"), Some((4, Some(10))));
    assert_eq!(content_range("bytes 4-9/*"), Some((4, None)));
    for bad in ["", "bytes", "bytes */10", "4-9/10", "bytes x-9/10"] {
        assert_eq!(content_range(bad), None, "{bad}");
    }
}
