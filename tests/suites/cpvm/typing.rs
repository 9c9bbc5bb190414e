//! Text pasted into the page, as the keys that a real machine is given, read as a machine with that keyboard reads them.

use std::collections::HashMap;

use fantoccini::{Client, Locator};
use tests::lab::{
    Process,
    cpvm::{
        LIMIT, Lab, PUBLIC,
        browser::{self, chromium, in_state, keep, text},
        run, until,
    },
};

/// What a keyboard writes: symbols of each key, alone, with Shift, with AltGr, with both, as XKB knows it.
fn keyboard(layout: &str, model: &str) -> HashMap<String, Vec<String>> {
    let out = std::process::Command::new("xkbcli")
        .args(["compile-keymap", "--layout", layout, "--model", model])
        .output()
        .expect("xkbcli (package libxkbcommon-tools)");
    let map = String::from_utf8(out.stdout).unwrap();
    let key = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("key <")?.split_once('>')?;
        let symbols = rest.rsplit_once('[')?.1.split_once(']')?.0;
        Some((name.to_owned(), symbols.split(',').map(|symbol| symbol.trim().to_owned()).collect()))
    };
    // A key of several lines has its symbols on a line of its own.
    let joined = map.replace("{\n", "{").replace(",\n", ",");
    joined.lines().filter_map(key).collect()
}

/// XKB's name of a key that QEMU was given.
fn place(key: &str) -> Option<String> {
    let row = |prefix: &str, keys: &[&str]| {
        keys.iter().position(|name| *name == key).map(|at| format!("{prefix}{:02}", at + 1))
    };
    let letters = |text: &'static str| -> Vec<&'static str> { text.split(' ').collect() };
    row("AE", &letters("1 2 3 4 5 6 7 8 9 0 minus equal"))
        .or_else(|| row("AD", &letters("q w e r t y u i o p bracket_left bracket_right")))
        .or_else(|| row("AC", &letters("a s d f g h j k l semicolon apostrophe")))
        .or_else(|| row("AB", &letters("z x c v b n m comma dot slash")))
        .or_else(|| {
            let others = [
                ("grave_accent", "TLDE"),
                ("backslash", "BKSL"),
                ("less", "LSGT"),
                ("spc", "SPCE"),
                ("yen", "AE13"),
                ("ro", "AB11"),
                ("ret", "RTRN"),
            ];
            others.iter().find(|(name, _)| *name == key).map(|(_, place)| (*place).to_owned())
        })
}

/// The symbols that a machine with this keyboard writes for the keys in QEMU's trace.
fn written(trace: &str, keyboard: &HashMap<String, Vec<String>>) -> Vec<String> {
    let (mut shift, mut alt_gr) = (false, false);
    let mut symbols = Vec::new();
    for line in trace.lines().filter(|line| line.contains("input_event_key_qcode")) {
        let after = |word: &str| line.split_once(word).unwrap().1.split([',', ' ']).next().unwrap().trim();
        let (key, down) = (after("key qcode "), after(", down ") == "1");
        match key {
            "shift" => shift = down,
            "alt_r" => alt_gr = down,
            _ if !down => {}
            key => {
                let place = place(key).unwrap_or_else(|| panic!("an unknown key: {line}"));
                let level = usize::from(shift) + 2 * usize::from(alt_gr);
                symbols.push(keyboard[&place].get(level).unwrap_or_else(|| panic!("{line}")).clone());
            }
        }
    }
    assert!(!shift && !alt_gr, "nothing stays held");
    symbols
}

async fn paste(lab: &Lab, client: &Client, machine: &Process, layout: &str, typed: &str) -> String {
    let before = machine.output().len();
    browser::paste(client, layout, typed).await;
    until("all is typed", LIMIT, async || {
        machine.output()[before..].contains("qcode ret, down 0") && lab.connections_to(5901) == 1
    })
    .await;
    machine.output()[before..].to_owned()
}

#[test]
fn pasted_text_arrives_on_the_machines_keyboard() {
    run("vncport=8080", true, async |lab| {
        let machine = lab.machine(5901, Some("Secr3tPw"));
        let (_driver, client) = chromium(lab).await;
        let token = lab.announced(5901, |_| {}).await;
        let url = format!("http://{PUBLIC}/resource/noVNC/vnc.html?port=8080&token={token}");
        client.goto(&url).await.unwrap();
        in_state(&client, "connected").await;
        for (layout, xkb, model, typed, wanted) in [
            (
                "de",
                "de",
                "pc105",
                "zyZ@äß€{~^1\n",
                "z y Z at adiaeresis ssharp EuroSign braceleft asciitilde dead_circumflex space 1",
            ),
            ("tr", "tr", "pc105", "iıİğş@#q\n", "i idotless Iabovedot gbreve scedilla at numbersign q"),
            ("fr", "fr", "pc105", "azAéê1@[m\n", "a z A eacute dead_circumflex e 1 at bracketleft m"),
            (
                "jp",
                "jp",
                "jp106",
                "y@[]:_|^\"\n",
                "y at bracketleft bracketright colon underscore bar asciicircum quotedbl",
            ),
            ("us", "us", "pc105", "aB1!~\n", "a B 1 exclam asciitilde"),
        ] {
            let trace = paste(lab, &client, &machine, layout, typed).await;
            let symbols = written(&trace, &keyboard(xkb, model));
            assert_eq!(symbols.join(" "), format!("{wanted} Return"), "{layout} {typed:?}");
        }
        // What the keyboard cannot write is said.
        paste(lab, &client, &machine, "us", "a日\n").await;
        until("it is said", LIMIT, async || text(&client, "[role=status]").await.contains("日")).await;

        // Who looks presses nothing.
        let before = machine.output().len();
        client.find(Locator::Css("#look")).await.unwrap().click().await.unwrap();
        for button in ["#cad", "#paste", "#more", "[data-press=Tab]"] {
            assert!(
                !client.find(Locator::Css(button)).await.unwrap().is_enabled().await.unwrap(),
                "{button}"
            );
        }
        client.find(Locator::Css("canvas")).await.unwrap().click().await.unwrap();
        client.find(Locator::Css("#look")).await.unwrap().click().await.unwrap();
        client.find(Locator::Css("#cad")).await.unwrap().click().await.unwrap();
        until("the three keys arrive", LIMIT, async || {
            let said = machine.output()[before..].to_owned();
            ["ctrl", "alt", "delete"].iter().all(|key| said.contains(&format!("qcode {key}, down 1")))
        })
        .await;
        // Of the other keys, one with a modifier.
        client.find(Locator::Css("#more")).await.unwrap().click().await.unwrap();
        keep(&client, "keys.png").await;
        client.find(Locator::XPath("//button[text()='Ctrl+Alt+F2']")).await.unwrap().click().await.unwrap();
        until("the key arrives", LIMIT, async || machine.output()[before..].contains("qcode f2, down 0"))
            .await;
        assert!(machine.output()[before..].contains("qcode ctrl, down 0"));
        client.close().await.unwrap();
    });
}
