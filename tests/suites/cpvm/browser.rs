//! The page in headless Chromium, from management's URL to the picture.

use std::time::Duration;

use fantoccini::{Client, Locator};
use serde_json::json;
use tests::lab::{
    cpvm::{
        LIMIT, PUBLIC,
        browser::{chromium, in_state, keep, speaking, state, text, trusting},
        management::succeeded,
        run, until,
    },
    wait_tcp,
};

/// Colours on the console's canvas, at most 16 counted.
async fn colours(client: &Client) -> u64 {
    let script = "const c = document.querySelector('canvas'); if (!c || !c.width) return 0; \
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set(); \
        for (let i = 0; i < d.length && s.size < 16; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); \
        return s.size";
    client.execute(script, vec![]).await.unwrap().as_u64().unwrap()
}

#[test]
fn the_page_works_below_a_path_on_a_phone_and_in_another_language() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let config = lab.picture("nginx.conf");
        std::fs::write(
            &config,
            format!(
                "daemon off; user root; pid {0}.pid; error_log {0}.log;\nevents {{}}\nhttp {{ access_log off; server {{ \
                 listen 203.0.113.7:8088; location /cloud/console/ {{ proxy_pass http://{PUBLIC}/; \
                 proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                 proxy_set_header Connection upgrade; }} }} }}\n",
                config.display()
            ),
        )
        .unwrap();
        let _proxy = lab.world.spawn("nginx", &["-c", config.to_str().unwrap()]);
        wait_tcp("203.0.113.7:8088".parse().unwrap(), LIMIT);
        let (_driver, client) = speaking(lab, "de").await;
        client.set_window_size(412, 800).await.unwrap();
        let token = lab.announced(5901, |_| {}).await;
        let place = "http://203.0.113.7:8088/cloud/console/resource/noVNC/vnc.html";
        client.goto(&format!("{place}?port=8080&token={token}")).await.unwrap();
        in_state(&client, "connected").await;
        assert!(text(&client, "[role=status]").await.contains("Verbunden (unverschlüsselt): web 01"));
        assert_eq!(text(&client, "#paste").await, "Text einfügen");
        // The buttons make room, and every one has a name and fits.
        let wide = "return [...document.querySelectorAll('button, select, textarea')].filter((e) => \
            e.getBoundingClientRect().right > innerWidth + 1 || !(e.textContent.trim() || e.labels?.length || e.ariaHidden)) \
            .map((e) => e.id || e.textContent)";
        assert_eq!(client.execute(wide, vec![]).await.unwrap(), json!([]));
        keep(&client, "phone.png").await;
        client.find(Locator::Css("#menu")).await.unwrap().click().await.unwrap();
        assert!(!client.find(Locator::Css("#cad")).await.unwrap().is_displayed().await.unwrap());
        keep(&client, "phone-closed.png").await;
        client.goto(&format!("{place}?token={token}")).await.unwrap();
        in_state(&client, "refused").await;
        assert!(text(&client, "#ended-reason").await.contains("abgelaufen oder wurde schon benutzt"));
        client.close().await.unwrap();
    });
}

#[test]
fn the_page_shows_the_screen_and_says_why_it_does_not() {
    run("vncport=8080", true, async |lab| {
        let mut machine = lab.machine(5901, Some("Secr3tPw"));
        let (_driver, client) = chromium(lab).await;
        let token = lab.announced(5901, |_| {}).await;
        let url = format!(
            "http://{PUBLIC}/resource/noVNC/vnc.html?autoconnect=true&show_dot=true&port=8080&token={token}"
        );
        client.goto(&url).await.unwrap();
        in_state(&client, "connected").await;
        until("more than one colour", LIMIT, async || colours(&client).await > 1).await;
        assert!(client.title().await.unwrap().starts_with("web 01"));
        assert!(text(&client, "[role=status]").await.contains("(unencrypted): web 01"));
        let address = client.current_url().await.unwrap();
        assert!(address.query().is_none(), "the token is gone from the address: {address}");
        let picture = client.screenshot().await.unwrap();
        assert!(picture.len() > 5000, "a picture of {} bytes", picture.len());
        keep(&client, "console.png").await;
        // Its buttons and typed text reach the machine.
        let before = lab.operator(&["sessions"]).await.stdout;
        assert_eq!(before.lines().count(), 2, "{before}");
        client.find(Locator::Css("#cad")).await.unwrap().click().await.unwrap();
        client.find(Locator::Css("#paste")).await.unwrap().click().await.unwrap();
        client.find(Locator::Css("#paste-text")).await.unwrap().send_keys("aB1!").await.unwrap();
        client.find(Locator::Css("#paste-send")).await.unwrap().click().await.unwrap();
        assert_eq!(state(&client).await, "connected");

        machine.kill();
        in_state(&client, "disconnected").await;
        assert!(text(&client, "#ended-reason").await.contains("screen was closed"));

        client.goto(&url).await.unwrap();
        in_state(&client, "refused").await;
        assert!(text(&client, "[role=status]").await.contains("already used"));
        client.goto(&format!("http://{PUBLIC}/resource/noVNC/vnc.html")).await.unwrap();
        in_state(&client, "failed").await;
        tokio::time::timeout(Duration::from_secs(20), client.close()).await.unwrap().unwrap();
    });
}

#[test]
fn over_tls_the_page_and_its_stream_are_trusted() {
    run("vncport=8443 premium=true", false, async |lab| {
        let store = include_bytes!("../../../cpvm/testdata/cpvm.jks");
        let start = lab.management.start_command(Some((store, "AAECAwQFBgcICQoLDA0ODw==")), false);
        assert!(succeeded(&lab.management.ask(start).await));
        let x509 = lab.credentials("own", &lab.management.authority);
        let x509 = format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={x509}");
        let _machine = lab.machine_with(5901, Some("Secr3tPw"), Some(&x509));
        lab.certify(&lab.management.authority);
        let line = format!("openssl s_client -connect {PUBLIC}:443 -showcerts </dev/null 2>/dev/null");
        let chain = lab.world.ok(&line);
        let root = &chain[chain.rfind("-----BEGIN").unwrap()..];
        let root = &root[..root.find("-----END CERTIFICATE-----").unwrap() + 26];
        let (_driver, client) = trusting(lab, root, "*.console.example.com").await;
        let token = lab.announced(5901, |_| {}).await;
        // As management writes it for this address.
        let url = format!(
            "https://203-0-113-5.console.example.com/resource/noVNC/vnc.html?autoconnect=true&show_dot=true&port=8443&token={token}"
        );
        client.goto(&url).await.unwrap();
        in_state(&client, "connected").await;
        let status = text(&client, "[role=status]").await;
        assert!(status.contains("(encrypted): web 01 (TLS backend)"), "{status}");
        let streams = lab.proxy.ok("ss -Htn state established sport = :8443");
        assert_eq!(streams.lines().count(), 1, "{streams}");
        until("more than one colour", LIMIT, async || colours(&client).await > 1).await;
        keep(&client, "tls.png").await;
        // The name has to be one of the certificate's.
        let _ = client.goto(&format!("https://{PUBLIC}/resource/noVNC/vnc.html")).await;
        assert_eq!(client.title().await.unwrap(), "Privacy error");
        client.close().await.unwrap();
    });
}
