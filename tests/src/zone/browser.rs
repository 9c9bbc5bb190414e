//! A console in headless Chromium, driven through chromedriver in the internet's namespace.

use std::{fs, path::Path, time::Duration};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource as _, KeyAction, KeyActions},
    key::Key,
};
use serde_json::{Value, json};

use super::report::Failure;
use crate::lab::{Process, wait_tcp};

const DRIVER: &str = "127.0.0.1:9515";

/// Starts chromedriver in the namespace of this process.
pub fn driver() -> Result<Process, Failure> {
    let mut command = std::process::Command::new("chromedriver");
    command.args(["--port=9515", "--allowed-ips=127.0.0.1"]);
    let process = Process::start(command);
    wait_tcp(DRIVER.parse()?, Duration::from_secs(20));
    Ok(process)
}

/// Opens a window of its own with a new profile in `profile`.
pub async fn open(profile: &Path) -> Result<Client, Failure> {
    open_with(profile, false).await
}

/// The same; `careless`: certificates that nobody vouches for will do.
pub async fn open_with(profile: &Path, careless: bool) -> Result<Client, Failure> {
    let mut capabilities = serde_json::map::Map::new();
    capabilities.insert(
        "goog:chromeOptions".into(),
        json!({
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--window-size=1024,768", format!("--user-data-dir={}", profile.display()),
            ],
        }),
    );
    capabilities.insert("acceptInsecureCerts".into(), json!(careless));
    capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
    Ok(ClientBuilder::rustls()?.capabilities(capabilities).connect(&format!("http://{DRIVER}")).await?)
}

/// What the page shows as the state of its connection (`data-state` of its body).
pub async fn state(client: &Client) -> Result<String, Failure> {
    let value = client.execute("return document.body.dataset.state || ''", vec![]).await?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

/// Waits until the page is in one of `wanted` states.
pub async fn wait_state(client: &Client, wanted: &[&str], limit: Duration) -> Result<String, Failure> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        let now = state(client).await?;
        if wanted.contains(&now.as_str()) {
            return Ok(now);
        }
        if tokio::time::Instant::now() > end {
            let text = client.find(Locator::Css("body")).await?.text().await.unwrap_or_default();
            return Err(format!("the page is in state '{now}', not {wanted:?}; it shows: {text}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Types a line into whatever has the focus, and Enter.
pub async fn type_line(client: &Client, line: &str) -> Result<(), Failure> {
    let mut keys = KeyActions::new("keyboard".into());
    for value in line.chars().chain([char::from(Key::Enter)]) {
        keys = keys
            .then(KeyAction::Down { value })
            .then(KeyAction::Pause { duration: Duration::from_millis(40) })
            .then(KeyAction::Up { value })
            .then(KeyAction::Pause { duration: Duration::from_millis(40) });
    }
    client.perform_actions(keys).await?;
    Ok(())
}

/// How many colours the console's canvas shows, at most 64 counted.
pub async fn colours(client: &Client) -> Result<u64, Failure> {
    let script = "const c = document.querySelector('canvas'); if (!c || !c.width) return 0; \
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set(); \
        for (let i = 0; i < d.length && s.size < 64; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); \
        return s.size";
    match client.execute(script, vec![]).await? {
        Value::Number(n) => Ok(n.as_u64().unwrap_or(0)),
        _ => Ok(0),
    }
}

/// Saves what the window shows.
pub async fn screenshot(client: &Client, file: &Path) -> Result<(), Failure> {
    fs::write(file, client.screenshot().await?)?;
    Ok(())
}

/// Opens a console URL, waits for the picture, types `line`, saves a screenshot.
pub async fn console(url: &str, line: &str, file: &Path, profile: &Path) -> Result<String, Failure> {
    let client = open(profile).await?;
    let result = async {
        client.goto(url).await?;
        wait_state(&client, &["connected"], Duration::from_secs(30)).await?;
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while colours(&client).await? < 2 {
            if tokio::time::Instant::now() > end {
                return Err("the console shows one colour only".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        type_line(&client, line).await?;
        // The guest echoes the line on its screen: give the picture time to come back.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        screenshot(&client, file).await?;
        Ok(format!("{} colours on the screen", colours(&client).await?))
    }
    .await;
    if result.is_err() {
        let _ = screenshot(&client, file).await;
    }
    let _ = client.close().await;
    result
}

/// Opens a console URL that must be refused, and returns the reason that the user sees.
pub async fn refused(url: &str, file: &Path, profile: &Path) -> Result<String, Failure> {
    let client = open(profile).await?;
    let result = async {
        client.goto(url).await?;
        wait_state(&client, &["refused", "disconnected", "failed"], Duration::from_secs(30)).await?;
        screenshot(&client, file).await?;
        let text = client.find(Locator::Css("[role=status]")).await?.text().await?;
        Ok(text)
    }
    .await;
    let _ = client.close().await;
    result
}
