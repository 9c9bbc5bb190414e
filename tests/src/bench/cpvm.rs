//! Consoles: what they cost beside websockify, and what stays behind.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{Figure, Floor, Part, processor_seconds};
use crate::lab::{
    Process,
    cpvm::{
        LIMIT, Lab, PUBLIC, WORLD, run as in_lab,
        screen::{Act, BULK, screen},
        until,
    },
    wait_tcp,
};

/// Runs of each, in turns.
const RUNS: usize = 5;
/// Sessions that do nothing.
const IDLE: usize = 1000;
/// Sessions beside the one whose keys are timed, each of 1 MB/s.
const BUSY: usize = 50;
/// Keys that are timed on each way.
const KEYS: usize = 2000;
/// Consoles opened for the time to the first picture.
const FIRST: usize = 50;
/// Cycles and half-open connections of each kind.
const CYCLES: usize = 1000;
/// Addresses of browsers: an address has a bound of its own.
const ADDRESSES: usize = 10;
const STORE: &[u8] = include_bytes!("../../../cpvm/testdata/cpvm.jks");
const STORE_PASSWORD: &str = "AAECAwQFBgcICQoLDA0ODw==";

const PARTS: [Part; 6] = [
    ("bulk_plain", bulk_plain),
    ("bulk_tls", bulk_tls),
    ("idle", idle),
    ("first_frame", first_frame),
    ("key_latency", key_latency),
    ("leak", leak),
];

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).map_err(|e| e.to_string())?;
    super::run_parts(&PARTS, parts)
}

/// A browser's end.
struct Client<S> {
    socket: WebSocketStream<S>,
    bytes: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn open(stream: S, query: &str) -> Self {
        let url = format!("ws://{PUBLIC}/websockify?{query}");
        let mut request = url.into_client_request().expect("request");
        request.headers_mut().insert("sec-websocket-protocol", "binary".parse().expect("name"));
        let (socket, _) = client_async(request, stream).await.expect("a websocket");
        Self { socket, bytes: Vec::new() }
    }

    /// As far as the description of the screen.
    async fn shown(stream: S, query: &str) -> Self {
        let mut client = Self::open(stream, query).await;
        client.read(12).await;
        client.send(b"RFB 003.008\n").await;
        let offered = client.read(2).await;
        assert_eq!(offered, [1, 1], "the console is refused");
        client.send(&[1]).await;
        client.read(4).await;
        client.send(&[1]).await;
        let init = client.read(24).await;
        client.read(usize::from(init[23])).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.expect("sent");
    }

    async fn read(&mut self, count: usize) -> Vec<u8> {
        while self.bytes.len() < count {
            match tokio::time::timeout(LIMIT, self.socket.next()).await.expect("in time") {
                Some(Ok(Message::Binary(more))) => self.bytes.extend_from_slice(&more),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("wanted bytes, got {other:?}"),
            }
        }
        self.bytes.drain(..count).collect()
    }

    /// Asks for the screen.
    async fn ask(&mut self) {
        self.send(&[3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90]).await;
    }

    /// Asks for the screen and takes a whole flood; seconds.
    async fn flood(mut self) -> f64 {
        let begun = Instant::now();
        self.ask().await;
        // As it comes from the wire: taking the frames apart would cost the client more than the proxy. What the
        // client has read ahead is less than the margin.
        let mut stream = self.socket.into_inner();
        let mut buffer = vec![0; 256 * 1024];
        let mut left = BULK - 512 * 1024;
        while left > 0 {
            let count = stream.read(&mut buffer).await.expect("bytes");
            assert!(count > 0, "{left} bytes are missing");
            left = left.saturating_sub(count);
        }
        begun.elapsed().as_secs_f64()
    }
}

async fn connect(to: &str, from: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    let from = format!("203.0.113.{}", 10 + from % ADDRESSES);
    socket.bind(SocketAddr::new(from.parse().expect("address"), 0)).expect("an address of the world");
    let stream = socket.connect(to.parse().expect("address")).await.expect("connected");
    stream.set_nodelay(true).expect("option");
    stream
}

/// Takes any certificate.
#[derive(Debug)]
struct Trusting(Vec<SignatureScheme>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// TLS as a browser speaks it: of the ciphers it names AES with 128 bits first, as Chromium and Firefox do. Each server
/// chooses by its own rules.
async fn secure(stream: TcpStream) -> TlsStream<TcpStream> {
    let mut provider = (*common::channel::tls::provider()).clone();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Trusting(schemes)))
        .with_no_client_auth();
    let name = ServerName::try_from("console.example").expect("name");
    TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.expect("TLS")
}

fn addresses(lab: &Lab) {
    for n in 0..ADDRESSES {
        lab.world.address("p0", &format!("203.0.113.{}/24", 10 + n));
    }
}

/// The query of a console of its own.
async fn console(lab: &Lab, port: u16) -> String {
    let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
    format!("token={token}")
}

/// Processor seconds of both halves so far.
fn cost(lab: &Lab) -> f64 {
    processor_seconds(lab.core.id()) + processor_seconds(lab.serve.id())
}

fn bulk_plain() {
    in_lab("vncport=8080", true, async |lab| {
        addresses(lab);
        let port = screen(Act::Flood).await;
        let peer = websockify(lab, 443, port, &[]);
        bulk(
            lab,
            &peer,
            "plain",
            0.6,
            async |via| match via {
                Some(query) => {
                    Client::shown(connect(&format!("{PUBLIC}:8080"), 0).await, &query).await.flood().await
                }
                None => Client::shown(connect(&format!("{PUBLIC}:443"), 0).await, "").await.flood().await,
            },
            port,
        )
        .await;
    });
}

fn bulk_tls() {
    in_lab("vncport=8443 premium=true", false, async |lab| {
        addresses(lab);
        let start = lab.management.start_command(Some((STORE, STORE_PASSWORD)), false);
        lab.management.ask(start).await;
        let certificate = lab.folder.path().join("websockify.pem");
        let file = certificate.display();
        lab.world.ok(&format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=peer -keyout {file} -out {file}.crt 2>/dev/null && \
             cat {file}.crt >> {file}"
        ));
        let port = screen(Act::Flood).await;
        let peer = websockify(lab, 80, port, &["--cert", &file.to_string(), "--ssl-only"]);
        bulk(
            lab,
            &peer,
            "tls",
            0.75,
            async |via| {
                let to = if via.is_some() { 8443 } else { 80 };
                let stream = secure(connect(&format!("{PUBLIC}:{to}"), 0).await).await;
                Client::shown(stream, &via.unwrap_or_default()).await.flood().await
            },
            port,
        )
        .await;
    });
}

/// The peer, in the proxy's place: before the same VNC server, behind the same firewall, at a port that is open and
/// not the proxy's.
fn websockify(lab: &Lab, at: u16, port: u16, more: &[&str]) -> Process {
    let mut command = lab.proxy.command("websockify");
    command.args(more).args([format!("{PUBLIC}:{at}"), format!("{WORLD}:{port}")]);
    let process = Process::start(command);
    wait_tcp(format!("{PUBLIC}:{at}").parse().expect("address"), LIMIT);
    process
}

/// From server to browser, in turns: through the proxy (with a query) and through the peer.
async fn bulk(
    lab: &Lab,
    peer: &Process,
    kind: &str,
    floor: f64,
    flood: impl AsyncFn(Option<String>) -> f64,
    port: u16,
) {
    let gb = BULK as f64 / 1e9;
    let (mut cpu, mut rate, mut peer_cpu, mut peer_rate) = (vec![], vec![], vec![], vec![]);
    for _ in 0..RUNS {
        let query = console(lab, port).await;
        let before = cost(lab);
        rate.push(gb * 1000.0 / flood(Some(query)).await);
        until("the session has ended", LIMIT, async || lab.connections_to(port) == 0).await;
        cpu.push((cost(lab) - before) / gb);
        let before = processor_seconds(peer.id());
        peer_rate.push(gb * 1000.0 / flood(None).await);
        // Its work is done by a child, which counts when it has ended.
        let children = format!("/proc/{0}/task/{0}/children", peer.id());
        until("the peer's child has ended", LIMIT, async || {
            std::fs::read_to_string(&children).is_ok_and(|list| list.trim().is_empty())
        })
        .await;
        peer_cpu.push((processor_seconds(peer.id()) - before) / gb);
    }
    Figure::host(format!("cpu_per_gb_{kind}"), "s", cpu, Some(Floor::RatioAtMost(floor)))
        .against("websockify", peer_cpu)
        .print();
    Figure::host(format!("throughput_{kind}"), "MB/s", rate, Some(Floor::RatioAtLeast(1.1)))
        .against("websockify", peer_rate)
        .print();
}

fn idle() {
    in_lab("vncport=8080", true, async |lab| {
        addresses(lab);
        let port = screen(Act::Answer).await;
        let mut held = Vec::new();
        let open = async |n| {
            let query = console(lab, port).await;
            Client::shown(connect(&format!("{PUBLIC}:8080"), n).await, &query).await
        };
        // What comes with the first session is no session's.
        held.push(open(0).await);
        let before = lab.memory() as f64;
        for n in 0..IDLE {
            held.push(open(n).await);
        }
        let each = (lab.memory() as f64 - before) / IDLE as f64;
        let mut shares = Vec::new();
        for _ in 0..RUNS {
            let (before, begun) = (cost(lab), Instant::now());
            tokio::time::sleep(Duration::from_secs(10)).await;
            shares.push((cost(lab) - before) / begun.elapsed().as_secs_f64() * 100.0);
        }
        Figure::host("idle_kib", "KiB", vec![each], Some(Floor::AtMost(256.0))).print();
        Figure::host("idle_cpu", "%", shares, Some(Floor::AtMost(1.0))).print();
    });
}

fn first_frame() {
    in_lab("vncport=8080", true, async |lab| {
        addresses(lab);
        let port = screen(Act::Answer).await;
        let mut times = Vec::new();
        for n in 0..FIRST {
            let query = console(lab, port).await;
            let begun = Instant::now();
            let mut client = Client::shown(connect(&format!("{PUBLIC}:8080"), n).await, &query).await;
            client.ask().await;
            client.read(16).await;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Figure::host("first_frame", "ms", times, Some(Floor::AtMost(150.0))).print();
    });
}

/// Keys and their answers, one after the other; milliseconds, in order of size.
async fn keys(mut ask: impl AsyncFnMut()) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..KEYS {
        let begun = Instant::now();
        ask().await;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn key_latency() {
    in_lab("vncport=8080", true, async |lab| {
        addresses(lab);
        let (busy, port) = (screen(Act::Paced).await, screen(Act::Answer).await);
        for n in 0..BUSY {
            let query = console(lab, busy).await;
            let mut client = Client::shown(connect(&format!("{PUBLIC}:8080"), n).await, &query).await;
            client.ask().await;
            let mut stream = client.socket.into_inner();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
            });
        }
        let query = console(lab, port).await;
        let mut client = Client::shown(connect(&format!("{PUBLIC}:8080"), 1).await, &query).await;
        let mut direct = TcpStream::connect((WORLD, port)).await.expect("connected");
        direct.set_nodelay(true).expect("option");
        direct.write_all(b"RFB 003.008\n\x01\x01").await.expect("sent");
        direct.read_exact(&mut [0; 12 + 2 + 4 + 25]).await.expect("a description");
        let key = [4, 1, 0, 0, 0, 0, 0, 0x61];
        let (mut median, mut late) = (vec![], vec![]);
        for _ in 0..RUNS {
            let with = keys(async || {
                client.send(&key).await;
                client.read(16).await;
            })
            .await;
            let without = keys(async || {
                direct.write_all(&key).await.expect("sent");
                direct.read_exact(&mut [0; 16]).await.expect("an answer");
            })
            .await;
            median.push(with[KEYS / 2] - without[KEYS / 2]);
            late.push(with[KEYS * 99 / 100] - without[KEYS * 99 / 100]);
        }
        Figure::host("key_latency_median", "ms", median, Some(Floor::AtMost(1.0))).print();
        Figure::host("key_latency_p99", "ms", late, Some(Floor::AtMost(5.0))).print();
    });
}

fn leak() {
    in_lab("vncport=8443 premium=true", false, async |lab| {
        addresses(lab);
        let start = lab.management.start_command(Some((STORE, STORE_PASSWORD)), false);
        lab.management.ask(start).await;
        let (port, to) = (screen(Act::Answer).await, format!("{PUBLIC}:8443"));
        let cycle = async |n| {
            let query = console(lab, port).await;
            let stream = secure(connect(&to, n).await).await;
            let mut client = Client::shown(stream, &query).await;
            client.ask().await;
            client.read(16).await;
            client.socket.close(None).await.expect("closed");
        };
        // What is allocated once is there after some of each.
        let all = async |count: usize| {
            for n in 0..count {
                cycle(n).await;
            }
            half_open(&to, count).await;
            until("all connections have ended", LIMIT, async || {
                let listed =
                    lab.proxy.ok(&format!("ss -Htn state established sport = :8443 or dport = :{port}"));
                listed.trim().is_empty()
            })
            .await;
        };
        all(100).await;
        let (files, kib) = (lab.descriptors(), settled(lab).await);
        all(CYCLES).await;
        let (before, begun) = (cost(lab), Instant::now());
        let first = settled(lab).await;
        let share = (cost(lab) - before) / begun.elapsed().as_secs_f64() * 100.0;
        Figure::host("half_open_cpu", "%", vec![share], Some(Floor::AtMost(5.0))).print();
        let more = lab.descriptors() as f64 - files as f64;
        Figure::host("leak_descriptors", "count", vec![more], Some(Floor::AtMost(0.0))).print();
        Figure::host("leak_kib", "KiB", vec![first - kib], Some(Floor::AtMost(4096.0))).print();
        // What is lost is lost each time.
        all(CYCLES).await;
        let second = settled(lab).await;
        Figure::host("leak_kib_again", "KiB", vec![second - first], Some(Floor::AtMost(4096.0))).print();
    });
}

/// Memory of both halves once it falls no more, KiB: it is given back within seconds, as the processes go on.
async fn settled(lab: &Lab) -> f64 {
    let (mut least, mut since) = (lab.memory(), Instant::now());
    while since.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = lab.memory();
        if now + 256 < least {
            (least, since) = (now, Instant::now());
        }
    }
    lab.memory() as f64
}

/// Connections of each kind that go no further: TCP alone, the beginning of TLS, half a request, a websocket that never
/// greets. Returns when the proxy has cut them all.
async fn half_open(to: &str, count: usize) {
    let mut plain = Vec::new();
    for n in 0..count {
        plain.push(connect(to, n).await);
        let mut begun = connect(to, n).await;
        begun.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("sent");
        plain.push(begun);
    }
    cut(plain).await;
    let mut secured = Vec::new();
    for n in 0..count {
        let mut stream = secure(connect(to, n).await).await;
        stream.write_all(b"GET /resource/noVNC/vnc.html HTTP/1.1\r\nHost: x\r\n").await.expect("sent");
        stream.flush().await.expect("sent");
        secured.push(stream);
    }
    for n in 0..count {
        let client = Client::open(secure(connect(to, n).await).await, "token=x").await;
        secured.push(client.socket.into_inner());
    }
    cut(secured).await;
}

/// Waits until each has been closed by the other side.
async fn cut<S: AsyncRead + Unpin>(streams: Vec<S>) {
    for mut stream in streams {
        let mut buffer = [0; 1024];
        let ended = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
        tokio::time::timeout(LIMIT, ended).await.expect("half-open connections are cut");
    }
}
