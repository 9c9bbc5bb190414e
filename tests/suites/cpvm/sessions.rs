//! Consoles of real machines, from the first byte to the report of their end.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use tests::lab::cpvm::{LIMIT, WORLD, run, until, viewer::Viewer};

const BROWSER: &str = "203.0.113.7";
/// A side that ends ends the other within this time; the machine may be busy.
const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
fn a_console_shows_the_screen_opens_once_and_is_reported_once() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, init) = Viewer::shown(&token).await;
        assert_eq!(&init[24..], b"web 01 ");
        let (width, height) = viewer.picture().await;
        assert!(width >= 640 && height >= 400, "{width}x{height}");

        let asked = lab.management.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!((asked[0].host.as_str(), asked[0].port.as_str()), (WORLD, "5901"));
        assert_eq!((asked[0].vm.as_str(), asked[0].password.as_str()), ("vm-5901", "Secr3tPw"));
        assert_eq!((asked[0].client.as_str(), asked[0].reauthenticating), (BROWSER, false));
        let session = asked[0].session.clone().unwrap();

        let report = lab.management.next_report(|info| info.removed_sessions.is_some()).await;
        assert_eq!(report.connections.len(), 1);
        assert_eq!(report.connections[0].session_uuid.as_ref(), Some(&session));
        assert_eq!((report.connections[0].host.as_str(), report.connections[0].port), (WORLD, 5901));
        let status = lab.world.ok("curl -s http://10.1.1.22:8001/cmd/getstatus");
        assert!(status.contains(&session) && !status.contains("removedSessions"), "{status}");
        let listed = lab.operator(&["sessions"]).await.stdout;
        assert!(listed.contains("vm-5901 10.1.1.11:5901"), "{listed}");
        until("traffic is counted while the session is open", LIMIT, async || {
            let listed = lab.operator(&["sessions"]).await.stdout;
            let words: Vec<&str> = listed.lines().nth(1).unwrap().split(' ').collect();
            words[3] == BROWSER && words[6].parse::<usize>().unwrap() >= width as usize * height as usize * 4
        })
        .await;
        let metrics = lab.world.ok("curl -s http://10.1.1.22:8001/metrics");
        assert!(metrics.contains("trivium_console_bytes_total{direction=\"up\"} 1"), "{metrics}");

        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("already used"), "{told}");
        viewer.picture().await;

        assert_eq!(lab.connections_to(5901), 1);
        viewer.socket.close(None).await.unwrap();
        until("the VNC connection ends", AT_ONCE, async || lab.connections_to(5901) == 0).await;
        until("the end is reported", LIMIT, async || !lab.management.removed().is_empty()).await;
        for _ in 0..2 {
            lab.management.next_report(|info| info.removed_sessions.is_some()).await;
        }
        assert_eq!(lab.management.removed(), std::slice::from_ref(&session));
        let metrics = lab.world.ok("curl -s http://10.1.1.22:8001/metrics");
        for line in [
            "trivium_console_ended_total{cause=\"browser_closed\"} 1",
            "trivium_console_session_seconds_count 1",
            "trivium_console_sessions 0",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        // One line says all of it.
        let said = lab.serve.output();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("console ended")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        for part in [&session, "vm-5901", BROWSER, WORLD, "browser_closed", "seconds", "down", "up"] {
            assert!(lines[0].contains(part), "{part}: {}", lines[0]);
        }
        assert!(!lab.world.ok("curl -s http://10.1.1.22:8001/cmd/getstatus").contains("vm-5901"));
    });
}

#[test]
fn the_hypervisors_end_closes_the_browser() {
    run("vncport=8080", true, async |lab| {
        let mut machine = lab.machine(5901, None);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        machine.kill();
        let start = Instant::now();
        assert_eq!(viewer.closed().await.unwrap().0, 4002);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        until("the end is reported", LIMIT, async || lab.management.removed().len() == 1).await;
    });
}

#[test]
fn viewers_take_over_and_operators_cut() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let first = lab.announced(5901, |_| {}).await;
        let (mut first, _) = Viewer::shown(&first).await;
        let other = lab.announced(5901, |token| token.password = Some("Other".into())).await;
        let told = Viewer::refused(&format!("token={other}"), BROWSER).await;
        assert!(told.contains("another viewer"), "{told}");
        let beside = lab.announced(5901, |token| token.session_requires_new_viewer = true).await;
        let (mut beside, _) = Viewer::shown(&beside).await;
        let second = lab.announced(5901, |_| {}).await;
        let (mut second, _) = Viewer::shown(&second).await;
        assert_eq!(first.closed().await, Some((4001, "session taken over".into())));
        second.picture().await;
        beside.picture().await;

        let listed = lab.operator(&["sessions"]).await.stdout;
        let number = listed.lines().last().unwrap().split(' ').next().unwrap().to_owned();
        assert_eq!(lab.operator(&["cut", "999"]).await.code, 1);
        assert_eq!(lab.operator(&["cut", &number]).await.code, 0);
        assert_eq!(second.closed().await, Some((4003, "session ended by an operator".into())));
        beside.picture().await;
        until("both ends are reported", LIMIT, async || lab.management.removed().len() == 2).await;
    });
}

#[test]
fn who_may_only_look_looks_beside_others() {
    run("vncport=8080", true, async |lab| {
        let machine = lab.machine(5901, None);
        let full = lab.announced(5901, |_| {}).await;
        let (mut full, _) = Viewer::shown(&full).await;
        let looking = lab.announced(5901, |token| token.view_only = true).await;
        let (mut looking, _) = Viewer::shown(&looking).await;
        looking.picture().await;
        // The key and the button of who looks are dropped, those of the other one arrive.
        looking.send(&[4, 1, 0, 0, 0, 0, 0, 0x62, 4, 0, 0, 0, 0, 0, 0, 0x62]).await;
        looking.send(&[5, 4, 0, 9, 0, 9, 5, 0, 0, 9, 0, 9]).await;
        looking.picture().await;
        full.send(&[4, 1, 0, 0, 0, 0, 0, 0x61, 4, 0, 0, 0, 0, 0, 0, 0x61]).await;
        until("the key arrives", LIMIT, async || machine.output().contains("qcode a, down 0")).await;
        full.send(&[5, 1, 0, 9, 0, 9, 5, 0, 0, 9, 0, 9]).await;
        until("the button arrives", LIMIT, async || machine.output().contains("button left, down 0")).await;
        assert!(!machine.output().contains("qcode b,"), "{}", machine.output());
        assert!(!machine.output().contains("button right"), "{}", machine.output());
        full.picture().await;
    });
}

#[test]
fn a_picture_is_taken_by_a_token_of_its_own() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let fetch = |token: &str, more: &str| {
            let file = lab.picture("screen.png");
            let line = format!(
                "curl -s -o {} -w '%{{http_code}} %{{content_type}}' 'http://203.0.113.5/picture?token={token}{more}'",
                file.display()
            );
            (lab.world.ok(&line), std::fs::read(file).unwrap())
        };
        let console = lab.announced(5901, |_| {}).await;
        assert!(fetch(&console, "").0.starts_with("403"), "a console's token is good for a console");
        let token = lab.announced(5901, |token| token.picture = true).await;
        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("for a picture"), "{told}");
        let (mut viewer, _) = Viewer::shown(&console).await;
        let (head, png) = fetch(&token, "&w=320");
        assert_eq!(head, "200 image/png");
        assert!(png.starts_with(b"\x89PNG") && png[16..20] == [0, 0, 1, 64], "{:?}", &png[..24]);
        assert!(png.len() > 500, "{} bytes", png.len());
        if let Some(folder) = std::env::var_os("TRIVIUM_PICTURES") {
            std::fs::write(std::path::Path::new(&folder).join("thumbnail.png"), &png).unwrap();
        }
        // Once, and nobody's console ends for it.
        let (again, text) = fetch(&token, "");
        assert!(
            again.starts_with("403") && String::from_utf8_lossy(&text).contains("already used"),
            "{again}"
        );
        viewer.picture().await;
        until("the picture's session has ended", LIMIT, async || lab.management.removed().len() == 1).await;
    });
}

#[test]
fn what_is_no_console_input_stays_out_of_the_console() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        viewer.socket.send(Message::Ping(vec![7; 100].into())).await.unwrap();
        loop {
            match viewer.socket.next().await.unwrap().unwrap() {
                Message::Pong(payload) => break assert_eq!(payload, vec![7; 100]),
                other => assert!(other.is_binary() || other.is_ping(), "{other:?}"),
            }
        }
        viewer.picture().await;
        viewer.socket.send(Message::text("\u{3}\0\0\0\0\0")).await.unwrap();
        assert_eq!(viewer.closed().await.unwrap().0, 1003);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        let _ = viewer.socket.send(Message::binary(vec![0; 100_000])).await;
        assert_eq!(viewer.closed().await.unwrap().0, 1009);
    });
}

#[test]
fn many_sessions_one_after_another_leave_nothing_behind() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let descriptors = |id: u32| std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
        let pid = lab.serve.id();
        let mut before = None;
        let mut slowest = Duration::ZERO;
        for _ in 0..25 {
            let token = lab.announced(5901, |_| {}).await;
            let start = Instant::now();
            let (mut viewer, _) = Viewer::shown(&token).await;
            slowest = slowest.max(start.elapsed());
            viewer.socket.close(None).await.unwrap();
            viewer.closed().await;
            until("the VNC connection ends", AT_ONCE, async || lab.connections_to(5901) == 0).await;
            before.get_or_insert_with(|| descriptors(pid));
        }
        println!("slowest handshake {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        until("all descriptors are closed", LIMIT, async || Some(descriptors(pid)) <= before).await;
        until("all ends are reported", LIMIT, async || lab.management.removed().len() == 25).await;
    });
}

#[test]
fn management_away_lets_sessions_go_on_and_hears_of_their_end() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let one = lab.announced(5901, |token| token.session_requires_new_viewer = true).await;
        let two = lab.announced(5901, |token| token.session_requires_new_viewer = true).await;
        let later = lab.announced(5901, |_| {}).await;
        let ((mut one, _), (mut two, _)) = (Viewer::shown(&one).await, Viewer::shown(&two).await);
        // The proxy's way to management is cut, and comes back.
        lab.world.ok(&format!("nft add table inet cut; nft add chain inet cut in '{{ type filter hook input priority 0; }}'; nft add rule inet cut in tcp dport {} reject with tcp reset", lab.management.port()));
        lab.management.agent().unwrap().close("the link is cut");
        until("the proxy notices", LIMIT, async || {
            lab.operator(&["status"]).await.stdout.contains("not connected")
        })
        .await;
        let start = Instant::now();
        let told = Viewer::refused(&format!("token={later}"), BROWSER).await;
        assert!(told.contains("management server does not answer"), "{told}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        one.socket.close(None).await.unwrap();
        one.closed().await;
        two.picture().await;
        lab.world.ok("nft delete table inet cut");
        until("the ended one is reported", LIMIT, async || lab.management.removed().len() == 1).await;
        two.picture().await;
    });
}

#[test]
fn passwords_of_any_length_open_the_screen() {
    run("vncport=8080", true, async |lab| {
        for (port, password) in [(5901, "short"), (5902, "longer than eight")] {
            let _machine = lab.machine(port, Some(password));
            let token = lab.announced(port, |token| token.password = Some(password.into())).await;
            Viewer::shown(&token).await.0.picture().await;
        }
    });
}

#[test]
fn another_management_server_takes_over_while_consoles_run() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let beside = |token: &mut common::token::Token| token.session_requires_new_viewer = true;
        let token = lab.announced(5901, beside).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        let first = lab.management.second_server().await;
        drop(first);
        viewer.picture().await;
        lab.management.joined(LIMIT).await;
        let report = lab.management.next_report(|info| info.removed_sessions.is_some()).await;
        assert_eq!(report.connections.len(), 1, "the new server hears of it");
        let token = lab.announced(5901, beside).await;
        let (mut second, _) = Viewer::shown(&token).await;
        second.socket.close(None).await.unwrap();
        second.closed().await;
        until("its end is reported", LIMIT, async || lab.management.removed().len() == 1).await;
        viewer.picture().await;
    });
}
