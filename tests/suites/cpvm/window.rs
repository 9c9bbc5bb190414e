//! The page as a window on the machine: full screen, both clipboards, the keyboard of a phone. The server is the
//! test's own, which notes all that the page sends.

use std::sync::{Arc, Mutex};

use fantoccini::Locator;
use tests::lab::cpvm::{
    LIMIT, PUBLIC, WORLD,
    browser::{chromium, in_state},
    run, until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// What a viewer has sent.
#[derive(Default)]
struct Seen {
    keys: Vec<(bool, u32)>,
    texts: Vec<String>,
}

/// A VNC server for one viewer, which puts a text into the viewer's clipboard.
async fn server() -> (u16, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind((WORLD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let notes = Arc::clone(&seen);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"RFB 003.008\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stream.write_all(&[1, 1]).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        stream.write_all(&[0; 4]).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        let format = [2, 0x80, 1, 0x90, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        stream.write_all(&[&format[..], &[0, 0, 0, 1], b"x"].concat()).await.unwrap();
        let text = b"from the machine";
        stream.write_all(&[&[3, 0, 0, 0, 0, 0, 0, text.len() as u8][..], text].concat()).await.unwrap();
        // Until the viewer is gone.
        while let Ok(kind) = stream.read_u8().await {
            let mut rest = vec![0; [19, 0, 3, 9, 7, 5, 7][usize::from(kind)]];
            stream.read_exact(&mut rest).await.unwrap();
            let number = |at: usize, bytes: usize| {
                rest[at..at + bytes].iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte))
            };
            match kind {
                2 => {
                    let encodings = number(1, 2) as usize * 4;
                    stream.read_exact(&mut vec![0; encodings]).await.unwrap();
                }
                4 => notes.lock().unwrap().keys.push((rest[0] == 1, number(3, 4))),
                6 => {
                    let mut text = vec![0; number(3, 4) as usize];
                    stream.read_exact(&mut text).await.unwrap();
                    notes.lock().unwrap().texts.push(String::from_utf8(text).unwrap());
                }
                _ => {}
            }
        }
    });
    (port, seen)
}

#[test]
fn full_screen_clipboards_and_the_keyboard_of_a_phone() {
    run("vncport=8080", true, async |lab| {
        let (port, seen) = server().await;
        let (_driver, client) = chromium(lab).await;
        let token = lab.announced(port, |_| {}).await;
        client
            .goto(&format!("http://{PUBLIC}/resource/noVNC/vnc.html?port=8080&token={token}"))
            .await
            .unwrap();
        in_state(&client, "connected").await;
        let click = async |css: &str| client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
        let asked = async |script: &str| client.execute(script, vec![]).await.unwrap();

        until("the machine's text", LIMIT, async || {
            asked("return document.getElementById('paste-text').value").await == "from the machine"
        })
        .await;
        click("#paste").await;
        asked("document.getElementById('paste-text').value = 'for the machine'").await;
        click("#clip-send").await;
        until("the text arrives", LIMIT, async || seen.lock().unwrap().texts == ["for the machine"]).await;
        assert!(seen.lock().unwrap().keys.is_empty(), "no key is pressed for that");

        let full = "return document.fullscreenElement !== null && \
            document.getElementById('full').ariaPressed === 'true'";
        click("#full").await;
        until("the whole screen", LIMIT, async || asked(full).await == true).await;
        click("#full").await;
        until("the window", LIMIT, async || asked(full).await == false).await;

        client.set_window_size(412, 800).await.unwrap();
        click("#touch").await;
        assert_eq!(asked("return document.activeElement.id").await, "soft");
        let field = client.active_element().await.unwrap();
        field.send_keys("a\u{e9}").await.unwrap();
        field.send_keys("\u{e003}").await.unwrap();
        let pressed = [0x61, 0xe9, 0xff08].map(|key| [(true, key), (false, key)]).concat();
        until("the keys arrive", LIMIT, async || seen.lock().unwrap().keys == pressed).await;
        client.close().await.unwrap();
    });
}
