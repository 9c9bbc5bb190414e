//! What happens before and when management starts the listeners.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use common::{
    channel::message::{Base, Message},
    command::{
        agent::{CheckHealthAnswer, CheckHealthCommand},
        console::{CheckConsoleProxyLoadCommand, ConsoleProxyLoadAnswer},
    },
    token::TokenKey,
};
use tests::lab::wait_tcp;

use tests::lab::cpvm::{LIMIT, PUBLIC, management::succeeded, run, until, viewer::Viewer};

const NO_CHAIN: &[u8] = include_bytes!("../../../cpvm/testdata/cpvm-nochain.jks");
const STORE: &[u8] = include_bytes!("../../../cpvm/testdata/cpvm.jks");
const STORE_PASSWORD: &str = "AAECAwQFBgcICQoLDA0ODw==";

fn open(address: &str) -> bool {
    std::net::TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(500)).is_ok()
}

#[test]
fn nothing_listens_before_management_says_so() {
    run("vncport=8080", false, async |lab| {
        let startup = lab.management.seen.lock().unwrap().startup.clone().unwrap();
        assert_eq!((startup.proxy_port, startup.proxy_vm_id), (80, 42));
        let who = startup.startup;
        assert_eq!((who.guid.as_str(), who.name.as_str()), ("Proxy.42-ConsoleProxyResource", "v-42-VM"));
        assert_eq!(who.kind, "ConsoleProxy");
        assert_eq!(who.public_ip_address.as_deref(), Some(PUBLIC));
        assert_eq!(who.private_ip_address.as_deref(), Some("10.1.1.22"));
        assert!(who.private_mac_address.is_some_and(|mac| mac.len() == 17));
        assert!(lab.paths().boot_done().exists());
        for port in [80, 443, 8080, 8443] {
            assert!(!open(&format!("{PUBLIC}:{port}")), "{port}");
        }
        assert!(!open("10.1.1.22:8001") && !open("169.254.3.4:8001"));
        assert!(lab.operator(&["status"]).await.stdout.contains("not started by management"));

        let start = lab.management.start_command(None, false);
        let answer = lab.management.ask(start.clone()).await;
        assert!(succeeded(&answer), "{answer:?}");
        lab.reachable();
        wait_tcp(format!("{PUBLIC}:80").parse().unwrap(), LIMIT);
        for inner in ["10.1.1.22:8001", "169.254.3.4:8001"] {
            wait_tcp(inner.parse().unwrap(), LIMIT);
        }
        for closed in ["203.0.113.5:443", "203.0.113.5:8443", "203.0.113.5:8001", "203.0.113.5:3922"] {
            assert!(!open(closed), "{closed}");
        }
        let status = lab.operator(&["status"]).await.stdout;
        assert!(status.contains("public 203.0.113.5:8080 plain: listening"), "{status}");
        assert!(status.ends_with("health: healthy\n"), "{status}");

        // On every later connect management sends it again.
        assert!(succeeded(&lab.management.ask(start).await));
        let bad = lab.management.start_command(Some((b"no store", "x")), false);
        let refused = lab.management.ask(bad).await;
        assert!(!succeeded(&refused) && refused.body["details"].as_str().unwrap().contains("keystoreBits"));

        let health = lab.management.ask(Message::wrap(&CheckHealthCommand::default())).await;
        assert!(health.read::<CheckHealthAnswer>().unwrap().answer.result);
        let check = CheckConsoleProxyLoadCommand {
            proxy_vm_id: 42,
            proxy_vm_name: "v-42-VM".into(),
            proxy_management_ip: "10.1.1.22".into(),
            proxy_cmd_port: 8001,
            base: Base::default(),
        };
        let load: ConsoleProxyLoadAnswer = lab.management.ask(Message::wrap(&check)).await.read().unwrap();
        assert_eq!(load.answer.details.as_deref(), Some("{\n  \"connections\": []\n}\n"));
        let elsewhere = CheckConsoleProxyLoadCommand { proxy_management_ip: "10.1.1.11".into(), ..check };
        assert!(!succeeded(&lab.management.ask(Message::wrap(&elsewhere)).await));
        let unknown = Message { class: "com.cloud.agent.api.Surprise".into(), body: Default::default() };
        assert!(lab.management.ask(unknown).await.class.ends_with("UnsupportedAnswer"));
    });
}

#[test]
fn listeners_come_back_after_either_half_died() {
    run("vncport=8080", true, async |lab| {
        lab.serve.kill();
        lab.serve = lab.half("serve");
        // The core's own copy would let a connection wait: the new serve has to take it.
        lab.serve.wait_line("listener=public 203.0.113.5:8080 plain", LIMIT);
        // While the core is away serve goes on; a new one starts from management's word.
        let before = lab.management.agent().unwrap().address();
        let announced_before = lab.announced(5901, |_| {}).await;
        lab.core.kill();
        assert!(open(&format!("{PUBLIC}:8080")));
        lab.core = lab.half("core");
        until("the proxy joins anew", LIMIT, async || {
            lab.management.agent().is_some_and(|agent| agent.is_ready() && agent.address() != before)
        })
        .await;
        lab.reachable();
        // What it was told before has to be told anew.
        let told = Viewer::refused(&format!("token={announced_before}"), "203.0.113.7").await;
        assert!(told.contains("expired or already used"), "{told}");
    });
}

#[test]
fn keys_and_certificates_change_while_consoles_run() {
    run("vncport=8080 premium=true", false, async |lab| {
        let _machine = lab.machine(5901, None);
        let start = lab.management.start_command(Some((STORE, STORE_PASSWORD)), false);
        assert!(succeeded(&lab.management.ask(start).await));
        lab.reachable();
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        let mut before = lab.world.command("openssl");
        before.args(["s_client", "-quiet", "-connect", &format!("{PUBLIC}:443")]);
        before.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut before = before.spawn().unwrap();
        let mut said = BufReader::new(before.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("verify")), "the handshake is over");

        // Another key, and a certificate without its issuers.
        let key = TokenKey::generate().unwrap();
        let mut start = lab.management.start_command(Some((NO_CHAIN, STORE_PASSWORD)), false);
        start.body.insert("encryptorPassword".into(), key.encryptor_password().to_string().into());
        assert!(succeeded(&lab.management.ask(start).await));
        let line = format!("openssl s_client -connect {PUBLIC}:443 -showcerts </dev/null 2>/dev/null");
        assert_eq!(lab.world.ok(&line).matches("BEGIN CERTIFICATE").count(), 1);
        // A connection from before is as good as ever, and so is the console.
        let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        before.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        before.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        before.wait().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        viewer.picture().await;

        let old = lab.announced(5901, |_| {}).await;
        assert!(Viewer::refused(&format!("token={old}"), "203.0.113.7").await.contains("not valid"));
        let token = lab.token(5901, |token| token.session_requires_new_viewer = true);
        lab.management.allow(token.session_uuid.as_deref().unwrap()).await;
        let (mut second, _) = Viewer::shown(&key.seal(&token).unwrap()).await;
        second.picture().await;
        viewer.picture().await;
    });
}

#[test]
fn the_public_side_answers_pings_and_tells_no_time() {
    run("vncport=8080", true, async |lab| {
        for address in [PUBLIC, "10.1.1.22"] {
            lab.world.ok(&format!("ping -c 1 -W 10 {address}"));
        }
        // A timestamp request is sent, and nothing comes back but the answer to the echo after it.
        let ask = r#"
import socket, struct, sys
def icmp(kind, body):
    head = struct.pack("!BBHHH", kind, 0, 0, 7, 1)
    total = sum(struct.unpack("!%dH" % ((len(head) + len(body)) // 2), head + body))
    total = (total >> 16) + (total & 0xffff)
    return struct.pack("!BBHHH", kind, 0, ~(total + (total >> 16)) & 0xffff, 7, 1) + body
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
one.settimeout(10)
one.sendto(icmp(13, bytes(12)), (sys.argv[1], 0))
one.sendto(icmp(8, bytes(12)), (sys.argv[1], 0))
while True:
    kind = one.recv(2000)[20]
    print(kind, flush=True)
    if kind == 0:
        break
"#;
        let file = lab.picture("icmp.py");
        std::fs::write(&file, ask).unwrap();
        let seen = lab.world.ok(&format!("python3 {} {PUBLIC}", file.display()));
        assert_eq!(seen.lines().collect::<Vec<_>>(), ["0"], "14 would be the time");
    });
}

#[test]
fn browsers_get_the_delivered_certificate() {
    run("vncport=8443 premium=true", false, async |lab| {
        let without = lab.management.ask(lab.management.start_command(None, false)).await;
        assert!(!succeeded(&without), "TLS is wanted and there is no certificate");
        assert!(!open(&format!("{PUBLIC}:443")) && !open(&format!("{PUBLIC}:80")));
        let start = lab.management.start_command(Some((STORE, STORE_PASSWORD)), false);
        let answer = lab.management.ask(start).await;
        assert!(succeeded(&answer), "{answer:?}");
        for port in [443, 8443] {
            let line = format!("openssl s_client -connect {PUBLIC}:{port} -showcerts </dev/null 2>/dev/null");
            assert_eq!(lab.world.ok(&line).matches("BEGIN CERTIFICATE").count(), 3, "{port}");
        }
        let page = format!("https://{PUBLIC}/resource/noVNC/vnc.html");
        for version in ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"] {
            assert!(lab.world.ok(&format!("curl -sk {version} {page}")).contains("<title>Console</title>"));
        }
        let old = lab.world.sh(&format!("curl -sk --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0 {page}"));
        assert!(!old.status.success());
        assert!(!open(&format!("{PUBLIC}:80")) && !open(&format!("{PUBLIC}:8080")));
    });
}
