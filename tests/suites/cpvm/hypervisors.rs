//! The ways to a screen: VNC with certificates of real QEMU servers; XenServer's interface and VMware's websocket,
//! played by the test.

use std::sync::{Arc, Mutex};

use common::channel::tls::{Authority, KeyKind, certificates, private_key, provider};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use tests::lab::cpvm::{LIMIT, Lab, WORLD, issued, run, run_logging, until, viewer::Viewer};

const BROWSER: &str = "203.0.113.7";

async fn refused(lab: &Lab, port: u16) -> String {
    let token = lab.announced(port, |_| {}).await;
    Viewer::refused(&format!("token={token}"), BROWSER).await
}

#[test]
fn certificates_secure_the_way_to_the_hypervisor() {
    run("vncport=8080", true, async |lab| {
        let folder = tempfile::tempdir().unwrap();
        let other = Authority::open(folder.path(), "other.example", KeyKind::P256).unwrap();
        let own = lab.credentials("own", &lab.management.authority);
        let strange = lab.credentials("strange", &other);
        let x509 =
            |folder: &str| format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={folder}");
        let _password = lab.machine_with(5901, Some("Secr3tPw"), Some(&x509(&own)));
        let _none = lab.machine_with(5902, None, Some(&x509(&own)));
        let _strange = lab.machine_with(5903, None, Some(&x509(&strange)));
        let _anonymous = lab.machine_with(5904, None, Some("tls-creds-anon,id=tls,endpoint=server"));

        let told = refused(lab, 5901).await;
        assert!(told.contains("no certificate of its own"), "{told}");
        // Management gives the proxy a certificate: the next session has it.
        lab.certify(&lab.management.authority);
        for port in [5901, 5902] {
            let token = lab.announced(port, |_| {}).await;
            let (mut viewer, init) = Viewer::shown(&token).await;
            assert_eq!(&init[24..], b"web 01 (TLS backend)", "{port}");
            let (width, height) = viewer.picture().await;
            assert!(width >= 640 && height >= 400, "{width}x{height}");
        }
        // Where the operator asks for it, no other screen is shown.
        let _plain = lab.machine(5905, Some("Secr3tPw"));
        lab.options(r#"{"require_tls": true}"#);
        let told = refused(lab, 5905).await;
        assert!(told.contains("without TLS, which the operator does not allow"), "{told}");
        let token = lab.announced(5901, |_| {}).await;
        Viewer::shown(&token).await.0.picture().await;
        lab.options("{}");
        let token = lab.announced(5905, |_| {}).await;
        Viewer::shown(&token).await.0.picture().await;
        for (port, why) in [(5903, "TLS was not agreed on"), (5904, "none with certificates")] {
            let told = refused(lab, port).await;
            assert!(told.contains(why), "{told}");
        }
        lab.certify(&other);
        let told = refused(lab, 5902).await;
        assert!(told.contains("cannot be opened"), "{told}");
        // Renewed, also by a server that now trusts it.
        lab.certify(&lab.management.authority);
        let token = lab.announced(5902, |_| {}).await;
        Viewer::shown(&token).await.0.picture().await;
    });
}

/// TLS with a certificate that `authority` has issued.
fn acceptor(authority: &Authority) -> TlsAcceptor {
    let issued = issued(authority);
    let config =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let chain = certificates("certificate", &issued.certificate).unwrap();
    let key = private_key("key", &issued.private_key).unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()).into()
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Serves each connection at a port of the world by `serve`.
async fn listen<F>(tls: Option<TlsAcceptor>, serve: impl Fn(Box<dyn Duplex>) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((WORLD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => drop(tokio::spawn(serve(Box::new(stream)))),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        tokio::spawn(serve(Box::new(stream)));
                    }
                }
            }
        }
    });
    port
}

/// XenServer's interface: takes one session, then speaks RFB 3.3 and echoes what comes, up to a `q`.
async fn xapi(mut stream: Box<dyn Duplex>, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    seen.lock().unwrap().push(request.clone());
    if !request.contains("session_id=OpaqueRef:1234\r\n") {
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\n\r\nRFB 003.003\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"RFB 003.003\n");
    stream.write_all(&[0, 0, 0, 1]).await.unwrap();
    stream.read_exact(&mut answer[..1]).await.unwrap();
    let format = [2, 0x80, 1, 0x90, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    stream.write_all(&[&format[..], &[0, 0, 0, 5], b"XenVM"].concat()).await.unwrap();
    while let Ok(byte @ (0..=b'p' | b'r'..)) = stream.read_u8().await {
        stream.write_all(&[byte]).await.unwrap();
    }
}

#[test]
fn xenservers_screens_come_through_its_interface() {
    run_logging("trace", "vncport=8080", true, async |lab| {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let serve = |seen: &Arc<Mutex<Vec<String>>>| {
            let seen = Arc::clone(seen);
            move |stream| xapi(stream, Arc::clone(&seen))
        };
        let plain = listen(None, serve(&seen)).await;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), "xen.example", KeyKind::P256).unwrap();
        let secure = listen(Some(acceptor(&authority)), serve(&seen)).await;
        let token = async |url: String, session: &str| {
            let session = Some(session.to_owned());
            lab.announced(1, |token| {
                (token.port, token.tunnel_url, token.tunnel_session) = (-1, Some(url), session);
            })
            .await
        };
        let plain = format!("http://{WORLD}:{plain}/console?uuid=abc-def");
        let (mut viewer, init) = Viewer::shown(&token(plain.clone(), "OpaqueRef:1234").await).await;
        assert_eq!(&init[24..], b"web 01 ");
        viewer.send(b"echo").await;
        assert_eq!(viewer.read(4).await, b"echo");
        let wanted = format!(
            "CONNECT /console?uuid=abc-def HTTP/1.0\r\nHost: {WORLD}\r\nCookie: session_id=OpaqueRef:1234\r\n\r\n"
        );
        assert_eq!(seen.lock().unwrap()[0], wanted);
        let asked = lab.management.asked();
        assert_eq!((asked[0].host.as_str(), asked[0].port.as_str()), (WORLD, "-1"));
        // XenServer closes: the browser is told.
        viewer.send(b"q").await;
        assert_eq!(viewer.closed().await.unwrap().0, 4002);

        let told = Viewer::refused(&format!("token={}", token(plain, "OpaqueRef:9").await), BROWSER).await;
        assert!(told.contains("HTTP/1.1 403 Forbidden"), "{told}");

        // Nobody vouches for a certificate: it will do, unless the operator has said who has to.
        let secure = format!("https://{WORLD}:{secure}/console?uuid=abc-def");
        let (_, init) = Viewer::shown(&token(secure.clone(), "OpaqueRef:1234").await).await;
        assert_eq!(&init[24..], b"web 01 (TLS backend)");
        let trusted = lab.paths().cache().join("hypervisors.pem");
        std::fs::write(&trusted, lab.management.authority.certificate_pem()).unwrap();
        let wrong = token(secure.clone(), "OpaqueRef:1234").await;
        let told = Viewer::refused(&format!("token={wrong}"), BROWSER).await;
        assert!(told.contains("TLS was not agreed on"), "{told}");
        std::fs::write(&trusted, authority.certificate_pem()).unwrap();
        Viewer::shown(&token(secure, "OpaqueRef:1234").await).await;
        let said = lab.serve.output() + &lab.core.output();
        assert!(!said.contains("OpaqueRef"), "{said}");
    });
}

/// VMware's host: greets, then echoes messages up to a `quit`.
async fn esxi(stream: Box<dyn Duplex>, path: Arc<Mutex<String>>) {
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let check = |request: &Request, mut response: Response| {
        assert_eq!(request.headers()["sec-websocket-protocol"], "binary");
        *path.lock().unwrap() = request.uri().path().to_owned();
        response.headers_mut().insert("sec-websocket-protocol", "binary".parse().unwrap());
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, check).await.unwrap();
    socket.send(Message::binary(&b"RFB 003.008\n"[..])).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary() && message.clone().into_data() != b"quit"[..] {
            socket.send(message).await.unwrap();
        } else if message.is_binary() {
            socket.close(None).await.unwrap();
        }
    }
}

#[test]
fn vmwares_websockets_are_passed_on() {
    run("vncport=8080", true, async |lab| {
        let path: Arc<Mutex<String>> = Arc::default();
        let seen = Arc::clone(&path);
        let tls = acceptor(&lab.management.authority);
        let port = listen(Some(tls), move |stream| esxi(stream, Arc::clone(&seen))).await;
        let url = format!("wss://{WORLD}:{port}/ticket/5b3f");
        let announced = async || lab.announced(443, |token| token.websocket_url = Some(url.clone())).await;
        let token = announced().await;
        let mut viewer = Viewer::open(&format!("token={token}"), BROWSER).await.unwrap();
        // Before the way is open.
        viewer.send(b"early").await;
        assert_eq!(viewer.read(17).await, b"RFB 003.008\nearly");
        assert_eq!(*path.lock().unwrap(), "/ticket/5b3f");
        assert!(lab.management.asked().is_empty(), "the ticket stands for management's word");
        viewer.send(&[7; 50_000]).await;
        assert_eq!(viewer.read(50_000).await, [7; 50_000]);
        viewer.send(b"quit").await;
        assert_eq!(viewer.closed().await.unwrap().0, 4002);

        // The announced session is good once, here too.
        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("already used"), "{told}");
        let token = announced().await;
        let mut viewer = Viewer::open(&format!("token={token}"), BROWSER).await.unwrap();
        assert_eq!(viewer.read(12).await, b"RFB 003.008\n");
        viewer.socket.close(None).await.unwrap();
        until("the way is closed", LIMIT, async || lab.connections_to(port) == 0).await;

        let hyperv = lab.announced(2179, |token| token.hyperv_host = Some("10.1.1.40".into())).await;
        let told = Viewer::refused(&format!("token={hyperv}"), BROWSER).await;
        assert!(told.contains("on Hyper-V are not supported"), "{told}");
    });
}
