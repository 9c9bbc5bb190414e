//! The page in headless Chromium.

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::json;

use super::{LIMIT, Lab, PUBLIC, until};
use crate::lab::{Process, wait_tcp};

const DRIVER: &str = "127.0.0.1:9515";

/// Chromium without a screen, and what drives it; its user reads English.
///
/// # Panics
/// Where it does not start.
pub async fn chromium(lab: &Lab) -> (Process, Client) {
    speaking(lab, "en").await
}

/// One whose user reads this language.
///
/// # Panics
/// Where it does not start.
pub async fn speaking(lab: &Lab, language: &str) -> (Process, Client) {
    with(lab, &[format!("--accept-lang={language}")]).await
}

/// One that trusts this certificate, and finds all hosts of `names` at the proxy.
///
/// # Panics
/// Where it does not start.
pub async fn trusting(lab: &Lab, root: &str, names: &str) -> (Process, Client) {
    let (file, store) = (lab.picture("root.pem"), lab.picture(".pki/nssdb"));
    std::fs::write(&file, root).unwrap();
    std::fs::create_dir_all(&store).unwrap();
    let store = format!("sql:{}", store.display());
    lab.world.ok(&format!("certutil -N --empty-password -d {store}"));
    lab.world.ok(&format!("certutil -A -d {store} -n root -t C,, -i {}", file.display()));
    with(lab, &[format!("--host-resolver-rules=MAP {names} {PUBLIC}")]).await
}

async fn with(lab: &Lab, more: &[String]) -> (Process, Client) {
    let mut driver = lab.world.command("chromedriver");
    driver.args(["--port=9515", "--allowed-ips=127.0.0.1"]).env("HOME", lab.folder.path());
    let driver = Process::start(driver);
    wait_tcp(DRIVER.parse().unwrap(), LIMIT);
    let profile = lab.picture("profile");
    let mut capabilities = serde_json::map::Map::new();
    let profile = format!("--user-data-dir={}", profile.display());
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1024,768",
        &profile,
    ];
    let arguments: Vec<&str> = arguments.into_iter().chain(more.iter().map(String::as_str)).collect();
    capabilities
        .insert("goog:chromeOptions".into(), json!({ "binary": "/usr/bin/chromium", "args": arguments }));
    capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
    let mut builder = ClientBuilder::rustls().unwrap();
    let client = builder.capabilities(capabilities).connect(&format!("http://{DRIVER}")).await.unwrap();
    (driver, client)
}

/// What the page says of itself.
///
/// # Panics
/// Where the browser is gone.
pub async fn state(client: &Client) -> String {
    let state = client.execute("return document.body.dataset.state ?? ''", vec![]).await.unwrap();
    state.as_str().unwrap().to_owned()
}

/// Waits until the page says this of itself.
///
/// # Panics
/// Where it does not.
pub async fn in_state(client: &Client, wanted: &str) {
    until(wanted, LIMIT, async || state(client).await == wanted).await;
}

/// The text of an element.
///
/// # Panics
/// Where there is none.
pub async fn text(client: &Client, element: &str) -> String {
    client.find(Locator::Css(element)).await.unwrap().text().await.unwrap()
}

/// Keeps a picture of the page where somebody wants to look at it.
///
/// # Panics
/// Where it cannot be written.
pub async fn keep(client: &Client, name: &str) {
    if let Some(folder) = std::env::var_os("TRIVIUM_PICTURES") {
        let picture = client.screenshot().await.unwrap();
        std::fs::write(std::path::Path::new(&folder).join(name), &picture).unwrap();
    }
}

/// Has the page type a text as the keys of this keyboard.
///
/// # Panics
/// Where it has no such keyboard.
pub async fn paste(client: &Client, layout: &str, typed: &str) {
    client.find(Locator::Css("#paste")).await.unwrap().click().await.unwrap();
    let choose = format!(
        "const s = document.getElementById('layout'); s.value = '{layout}'; s.dispatchEvent(new Event('change'))"
    );
    client.execute(&choose, vec![]).await.unwrap();
    let fill = "document.getElementById('paste-text').value = arguments[0]";
    client.execute(fill, vec![typed.into()]).await.unwrap();
    client.find(Locator::Css("#paste-send")).await.unwrap().click().await.unwrap();
}
