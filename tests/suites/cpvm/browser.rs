//! The page in headless Chromium, from management's URL to the picture.

use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::json;
use tests::lab::{Process, wait_tcp};

use super::lab::{LIMIT, Lab, PUBLIC, run, until};

const DRIVER: &str = "127.0.0.1:9515";

async fn chromium(lab: &Lab) -> (Process, Client) {
    let mut driver = lab.world.command("chromedriver");
    driver.args(["--port=9515", "--allowed-ips=127.0.0.1"]);
    let driver = Process::start(driver);
    wait_tcp(DRIVER.parse().unwrap(), LIMIT);
    let profile = lab.picture("profile");
    let mut capabilities = serde_json::map::Map::new();
    let arguments = json!([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1024,768",
        format!("--user-data-dir={}", profile.display())
    ]);
    capabilities
        .insert("goog:chromeOptions".into(), json!({ "binary": "/usr/bin/chromium", "args": arguments }));
    capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
    let mut builder = ClientBuilder::rustls().unwrap();
    let client = builder.capabilities(capabilities).connect(&format!("http://{DRIVER}")).await.unwrap();
    (driver, client)
}

async fn state(client: &Client) -> String {
    let state = client.execute("return document.body.dataset.state ?? ''", vec![]).await.unwrap();
    state.as_str().unwrap().to_owned()
}

async fn in_state(client: &Client, wanted: &str) {
    until(wanted, LIMIT, async || state(client).await == wanted).await;
}

async fn text(client: &Client, element: &str) -> String {
    client.find(Locator::Css(element)).await.unwrap().text().await.unwrap()
}

/// Colours on the console's canvas, at most 16 counted.
async fn colours(client: &Client) -> u64 {
    let script = "const c = document.querySelector('canvas'); if (!c || !c.width) return 0; \
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set(); \
        for (let i = 0; i < d.length && s.size < 16; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); \
        return s.size";
    client.execute(script, vec![]).await.unwrap().as_u64().unwrap()
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
        assert!(text(&client, "[role=status]").await.contains("to web 01"));
        let address = client.current_url().await.unwrap();
        assert!(address.query().is_none(), "the token is gone from the address: {address}");
        let picture = client.screenshot().await.unwrap();
        assert!(picture.len() > 5000, "a picture of {} bytes", picture.len());
        if let Some(folder) = std::env::var_os("TRIVIUM_PICTURES") {
            std::fs::write(std::path::Path::new(&folder).join("console.png"), &picture).unwrap();
        }
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
