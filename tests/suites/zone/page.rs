//! The status page in headless Chromium, and what it refuses.

use std::{path::Path, time::Duration};

use tests::{
    lab::{Namespace, wait_until},
    zone::browser::{driver, open, wait_state},
};

use crate::Lab;

const PAGE: &str = "http://127.0.0.1:8254";
const LIMIT: Duration = Duration::from_secs(30);

fn curl(net: &Namespace, words: &str) -> String {
    net.ok(&format!("curl -s -m 10 -o - -w '\\n%{{http_code}}' {words}"))
}

/// Runs a visit with a browser in the lab's namespace.
fn visit(net: &Namespace, errand: impl AsyncFnOnce() + Send) {
    net.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _driver = driver().unwrap();
            errand().await;
        });
    });
}

#[test]
fn the_page_shows_the_zone_as_it_goes_and_says_when_it_is_old() {
    let lab = Lab::new();
    let mut serve = lab.serve();
    let _host = lab.host("host1");
    lab.wait_up("host1");
    let profile = lab.path("profile");
    visit(&lab.net, async || {
        let client = open(&profile).await.unwrap();
        client.goto(PAGE).await.unwrap();
        wait_state(&client, &["live"], LIMIT).await.unwrap();
        let shown = async || {
            let text = client.execute("return document.body.innerText", vec![]).await.unwrap();
            text.as_str().unwrap_or_default().to_owned()
        };
        let text = shown().await;
        assert!(text.contains("Zone empty") && text.contains("not ready"), "{text}");
        assert!(text.contains("host1 (192.168.100.1)") && text.contains("host2 (192.168.100.2)"), "{text}");
        assert!(text.contains("not connected") && text.contains("has joined the zone"), "{text}");
        picture(&client).await;

        serve.kill();
        wait_state(&client, &["stale"], LIMIT).await.unwrap();
        let text = shown().await;
        assert!(
            text.contains("The manager does not answer") && text.contains("host1 (192.168.100.1)"),
            "{text}"
        );
        client.close().await.unwrap();
    });
}

/// Keeps a picture for people to look at.
async fn picture(client: &fantoccini::Client) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/out/pictures");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("zone.png"), client.screenshot().await.unwrap()).unwrap();
}

#[test]
fn the_page_is_for_reading_and_for_nobody_elses_name() {
    let lab = Lab::new();
    let _serve = lab.serve();
    wait_until("the page", LIMIT, || lab.net.sh(&format!("curl -sf {PAGE}/")).status.success());
    let figures = curl(&lab.net, &format!("{PAGE}/metrics"));
    for figure in ["trivium_zone_ready 0", "trivium_host_up{host=\"host1\"} 0", "\n200"] {
        assert!(figures.contains(figure), "{figure}: {figures}");
    }
    let status = curl(&lab.net, &format!("{PAGE}/status.json"));
    assert!(status.contains("\"zone\":\"empty\"") && status.ends_with("200"), "{status}");
    for (words, code) in [
        (format!("-X POST {PAGE}/status.json"), "405"),
        (format!("{PAGE}/../etc/passwd"), "404"),
        (format!("-H 'Host: evil.example' {PAGE}/status.json"), "421"),
    ] {
        let answer = curl(&lab.net, &words);
        assert!(answer.ends_with(code) && !answer.contains("host1"), "{words}: {answer}");
    }
    let head = lab.net.ok(&format!("curl -s -D - -o /dev/null {PAGE}/"));
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
}
