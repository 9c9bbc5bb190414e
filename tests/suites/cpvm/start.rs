//! What happens before and when management starts the listeners.

use std::time::Duration;

use common::{
    channel::message::{Base, Message},
    command::{
        agent::{CheckHealthAnswer, CheckHealthCommand},
        console::{CheckConsoleProxyLoadCommand, ConsoleProxyLoadAnswer},
    },
};
use tests::lab::wait_tcp;

use tests::lab::cpvm::{LIMIT, PUBLIC, management::succeeded, run, until};

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
        let again = |half: &str| {
            let mut command = lab.proxy.command(tests::lab::binary("cpvm"));
            command.arg(half).env("TRIVIUM_ROOT", lab.folder.path());
            tests::lab::Process::start(command)
        };
        lab.serve.kill();
        lab.serve = again("serve");
        // The core's own copy would let a connection wait: the new serve has to take it.
        lab.serve.wait_line("listener=public 203.0.113.5:8080 plain", LIMIT);
        // While the core is away serve goes on; a new one starts from management's word.
        let before = lab.management.agent().unwrap().address();
        lab.core.kill();
        assert!(open(&format!("{PUBLIC}:8080")));
        lab.core = again("core");
        until("the proxy joins anew", LIMIT, async || {
            lab.management.agent().is_some_and(|agent| agent.is_ready() && agent.address() != before)
        })
        .await;
        lab.reachable();
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
