//! The page over HTTP, as a stranger asks for it.

use tests::lab::cpvm::run;

#[test]
fn the_page_is_served_and_nothing_else() {
    run("vncport=8080", true, async |lab| {
        let ask = |options: &str, path: &str| {
            let line = format!("curl -s -i --path-as-is {options} 'http://203.0.113.5{path}'");
            lab.world.ok(&line)
        };
        let page = ask("", "/resource/noVNC/vnc.html?autoconnect=true&port=8080&token=a+b/c==");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>Console</title>"), "{page}");
        let lower = page.to_lowercase();
        for header in [
            "content-type: text/html; charset=utf-8",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-cache",
            "connect-src 'self' ws://203.0.113.5:* wss://203.0.113.5:*",
        ] {
            assert!(lower.contains(header), "{header}: {page}");
        }
        assert!(lower.contains("default-src 'none'") && !lower.contains("unsafe-"), "{page}");
        let head = ask("--head", "/resource/noVNC/app.js");
        assert!(head.contains("200 OK") && head.to_lowercase().contains("text/javascript"), "{head}");
        assert!(ask("-X POST", "/resource/noVNC/vnc.html").starts_with("HTTP/1.1 405"));
        for path in [
            "/",
            "/resource/noVNC/",
            "/resource/noVNC/../noVNC/vnc.html",
            "/resource/noVNC/%2e%2e/conf/agent.properties",
            "/resource//etc/passwd",
            "/resource/logs/cloud.log",
            "/ajax?token=x",
            "/ajaximg?token=x",
            "/getscreen?host=10.1.1.11&port=5901",
            "/cmd/getstatus",
            "/metrics",
        ] {
            assert!(ask("", path).starts_with("HTTP/1.1 404"), "{path}");
        }
        for address in ["203.0.113.5", "10.1.1.22:8001"] {
            let health = lab.world.ok(&format!("curl -s -w '%{{http_code}}' http://{address}/health"));
            assert_eq!(health, "ok\n200");
        }
        let upgrade = "-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Key: x'";
        let old = ask(&format!("{upgrade} -H 'Sec-WebSocket-Version: 12'"), "/websockify");
        assert!(old.starts_with("HTTP/1.1 400"), "{old}");
        assert!(old.to_lowercase().contains("sec-websocket-version: 13"), "{old}");
        let line = format!(
            "curl -s -i --max-time 2 {upgrade} -H 'Sec-WebSocket-Version: 13' http://203.0.113.5/ || true"
        );
        let none = lab.world.ok(&line);
        assert!(none.contains("101 Switching"), "{none}");
        assert!(!none.to_lowercase().contains("sec-websocket-protocol"), "not offered, not answered: {none}");
    });
}
