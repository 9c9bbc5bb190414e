//! What consoles show is recorded where the operator wants that, and played back by the page.

use fantoccini::{Client, Locator};
use rustix::process::{Pid, Signal, kill_process};
use tests::lab::cpvm::{
    LIMIT, Lab, PUBLIC,
    browser::{chromium, in_state, keep, text},
    run, until,
    viewer::Viewer,
};

/// What the console's canvas shows.
async fn shown(client: &Client) -> String {
    let script = "return document.querySelector('#screen canvas')?.toDataURL() ?? ''";
    client.execute(script, vec![]).await.unwrap().as_str().unwrap().to_owned()
}

/// The recordings: bytes, state, file.
async fn recordings(lab: &Lab) -> Vec<(usize, String, String)> {
    let listed = lab.operator(&["recordings"]).await.stdout;
    let fields = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].parse().unwrap(), words[1].to_owned(), words[2].to_owned())
    };
    listed.lines().skip(1).map(fields).collect()
}

/// The picture once it stands still.
async fn still(client: &Client) -> String {
    let mut last = shown(client).await;
    until("the picture stands still", LIMIT, async || {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let now = shown(client).await;
        std::mem::replace(&mut last, now.clone()) == now && now.len() > 1000
    })
    .await;
    last
}

#[test]
fn a_console_is_recorded_and_played_back() {
    run("vncport=8080", true, async |lab| {
        let machine = lab.machine(5901, Some("Secr3tPw"));
        let (_driver, client) = chromium(lab).await;
        lab.options(r#"{"recording": {"vms": ["vm-5901"], "session_mib": 8, "total_mib": 32}}"#);
        let token = lab.announced(5901, |_| {}).await;
        let url = format!("http://{PUBLIC}/resource/noVNC/vnc.html?port=8080&token={token}");
        client.goto(&url).await.unwrap();
        in_state(&client, "connected").await;
        let first = still(&client).await;
        // The firmware takes the key, and shows something else for it.
        client.find(Locator::Css("[data-press=Escape]")).await.unwrap().click().await.unwrap();
        until("another picture", LIMIT, async || shown(&client).await != first).await;
        // A machine that is stopped changes its screen no more.
        kill_process(Pid::from_raw(machine.id() as i32).unwrap(), Signal::STOP).unwrap();
        let last = still(&client).await;
        keep(&client, "recorded.png").await;
        assert_eq!(recordings(lab).await[0].1, "recording");
        let listed = lab.operator(&["sessions"]).await.stdout;
        let number = listed.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
        lab.operator(&["cut", &number]).await;
        in_state(&client, "disconnected").await;
        until("its file is whole", LIMIT, async || recordings(lab).await[0].1 == "ended").await;
        let (size, _, file) = recordings(lab).await.remove(0);
        assert!(size > 500, "{size}");
        assert!(std::fs::read(&file).unwrap().starts_with(b"FBS 001.001\n"));

        client.goto(&format!("http://{PUBLIC}/resource/noVNC/play.html")).await.unwrap();
        client.find(Locator::Css("#speed option[value='0']")).await.unwrap().click().await.unwrap();
        client.find(Locator::Css("#file")).await.unwrap().send_keys(&file).await.unwrap();
        in_state(&client, "ended").await;
        until("the last picture", LIMIT, async || shown(&client).await == last).await;
        assert!(client.title().await.unwrap().starts_with("web 01"));
        keep(&client, "played.png").await;
        // In its own time it is on its way, and can be held.
        client.find(Locator::Css("#speed option[value='1']")).await.unwrap().click().await.unwrap();
        let again = "document.getElementById('file').dispatchEvent(new Event('change'))";
        client.execute(again, vec![]).await.unwrap();
        in_state(&client, "playing").await;
        client.find(Locator::Css("#pause")).await.unwrap().click().await.unwrap();
        assert_eq!(text(&client, "#status").await, "Playing");
        let wrong = lab.picture("wrong.fbs");
        std::fs::write(&wrong, "something else").unwrap();
        client.find(Locator::Css("#file")).await.unwrap().send_keys(wrong.to_str().unwrap()).await.unwrap();
        in_state(&client, "failed").await;
        assert!(text(&client, "#status").await.contains("no recording"));
        client.close().await.unwrap();
    });
}

#[test]
fn only_what_the_operator_names_is_recorded() {
    run("vncport=8080", true, async |lab| {
        let _machines = [lab.machine(5901, None), lab.machine(5902, None)];
        let show = async |port| {
            let token = lab.announced(port, |_| {}).await;
            let (mut viewer, _) = Viewer::shown(&token).await;
            viewer.picture().await;
            viewer
        };
        show(5901).await;
        assert_eq!(recordings(lab).await, []);
        lab.options(r#"{"recording": {"vms": ["vm-5902"]}}"#);
        let _not = show(5901).await;
        let _recorded = show(5902).await;
        let all = recordings(lab).await;
        assert!(all.len() == 1 && all[0].2.contains(".vm-5902."), "{all:?}");
        // What cannot be read changes nothing, and is said.
        lab.options(r#"{"recording": {"vms": "all"}}"#);
        let _again = show(5902).await;
        let status = lab.operator(&["status"]).await.stdout;
        assert!(status.contains("console.json") && status.contains("stays in force"), "{status}");
        assert_eq!(recordings(lab).await.len(), 2);
        lab.options("{}");
        let _without = show(5902).await;
        assert!(!lab.operator(&["status"]).await.stdout.contains("console.json"));
        let (_, _, file) = recordings(lab).await.remove(0);
        assert_eq!(lab.operator(&["recordings", "remove", &file]).await.code, 0);
        assert_eq!(lab.operator(&["recordings", "remove", &file]).await.code, 1);
        assert_eq!(recordings(lab).await.len(), 1);
    });
}
