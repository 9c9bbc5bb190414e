//! Consoles that are not opened, and what the user is told.

use std::time::{Duration, Instant};

use tests::lab::wait_until;

use tests::lab::cpvm::{
    management::{Mood, succeeded},
    screen::{Act, screen},
    viewer::Viewer,
    {LIMIT, Lab, PUBLIC, WORLD, run, run_logging, until},
};

const BROWSER: &str = "203.0.113.7";

#[test]
fn tokens_that_are_not_good_open_nothing() {
    run("vncport=8080", true, async |lab| {
        // Nobody announced it: management is not even asked.
        let token = lab.management.key.seal(&lab.token(5999, |_| {})).unwrap();
        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("expired or already used"), "{told}");
        assert!(lab.management.asked().is_empty());

        let mut broken = lab.announced(5999, |_| {}).await.into_bytes();
        broken[40] = if broken[40] == b'A' { b'B' } else { b'A' };
        let broken = String::from_utf8(broken).unwrap();
        for query in [format!("token={broken}"), "token=".into(), String::new(), "token=%%%".into()] {
            let told = Viewer::refused(&query, BROWSER).await;
            assert_eq!(told, "this console address is not valid, open the console again", "{query}");
        }
        let incomplete = lab.announced(0, |_| {}).await;
        assert!(Viewer::refused(&format!("token={incomplete}"), BROWSER).await.contains("not complete"));
        assert!(lab.management.asked().is_empty());

        // Whoever guesses has to wait; others need not.
        let mut tries = 0;
        while Viewer::open("token=guess", "203.0.113.8").await.is_ok() {
            Viewer::refused("token=guess", "203.0.113.8").await;
            tries += 1;
            assert!(tries < 100, "never has to wait");
        }
        assert!(Viewer::refused("token=guess", BROWSER).await.contains("not valid"));
        let metrics = lab.world.ok("curl -s http://10.1.1.22:8001/metrics");
        assert!(metrics.contains("trivium_console_refused_total{reason=\"unknown\"} 1"), "{metrics}");
    });
}

#[test]
fn management_has_the_last_word() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        lab.management.set_mood(Mood::Denying);
        let denied = lab.announced(5901, |_| {}).await;
        let told = Viewer::refused(&format!("token={denied}"), BROWSER).await;
        assert!(told.contains("not allowed"), "{told}");
        assert_eq!(lab.management.asked().len(), 1);

        lab.management.set_mood(Mood::Silent);
        let silent = lab.announced(5901, |_| {}).await;
        let start = Instant::now();
        let waiting = tokio::spawn(async move { Viewer::refused(&format!("token={silent}"), BROWSER).await });
        wait_until_asked(lab, 2).await;
        // One that waits holds up no other.
        lab.management.set_mood(Mood::Honest);
        let token = lab.announced(5901, |_| {}).await;
        let (_viewer, _) = Viewer::shown(&token).await;
        assert!(!waiting.is_finished());
        assert!(waiting.await.unwrap().contains("does not answer"));
        assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());

        // A ticket that is too old, or of another console.
        let mut token = lab.token(5901, |_| {});
        token.ticket = Some("b2xk".into());
        lab.management.allow(token.session_uuid.as_deref().unwrap()).await;
        let old = lab.management.key.seal(&token).unwrap();
        assert!(Viewer::refused(&format!("token={old}"), BROWSER).await.contains("not allowed"));
    });
}

async fn wait_until_asked(lab: &Lab, count: usize) {
    until("management is asked", LIMIT, async || lab.management.asked().len() >= count).await;
}

#[test]
fn address_and_second_secret_bind_a_session() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let check = lab.management.start_command(None, true);
        assert!(succeeded(&lab.management.ask(check).await));
        let token = lab.announced(5901, |token| token.extra_security_token = Some("my extra".into())).await;
        let told = Viewer::refused(&format!("token={token}&extra=my%20extra"), "203.0.113.8").await;
        assert!(told.contains("another address"), "{told}");
        for query in [format!("token={token}"), format!("token={token}&extra=other")] {
            assert!(Viewer::refused(&query, BROWSER).await.contains("security token"));
        }
        // None of that has used it up.
        assert!(lab.management.asked().is_empty());
        let mut viewer =
            Viewer::open(&format!("extra=my%20extra&sourceIP=6.6.6.6&token={token}"), BROWSER).await.unwrap();
        viewer.greet().await;
        assert_eq!(viewer.read(2).await, [1, 1]);
        assert_eq!(lab.management.asked()[0].client, BROWSER);
    });
}

#[test]
fn hypervisors_that_refuse_are_named() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("another"));
        let token = lab.announced(5901, |_| {}).await;
        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("cannot be opened") && told.contains("password"), "{told}");
        let token = lab.announced(5950, |_| {}).await;
        let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
        assert!(told.contains("cannot be reached"), "{told}");
        // Management counts both as used, and hears of their end.
        until("both are reported as removed", LIMIT, async || lab.management.removed().len() == 2).await;
    });
}

#[test]
fn half_open_connections_leave_room_and_are_cut() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let stream = format!("{PUBLIC}:8080");
        let idle: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(&stream).unwrap()).collect();
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(Viewer::open("token=x", BROWSER).await.unwrap());
        }
        let token = lab.announced(5901, |_| {}).await;
        let start = Instant::now();
        let (_viewer, _) = Viewer::shown(&token).await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        for mut viewer in silent {
            assert_eq!(viewer.closed().await.unwrap().0, 1008, "the handshake took too long");
        }
        let mut closed = 0;
        wait_until("idle connections are cut", Duration::from_secs(30), || {
            closed = idle.iter().filter(|stream| is_closed(stream)).count();
            closed == idle.len()
        });
    });
}

fn is_closed(stream: &std::net::TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn of_two_that_race_with_one_token_one_wins() {
    run("vncport=8080", true, async |lab| {
        let port = screen(Act::Answer).await;
        // Whoever comes too late counts as one who guesses.
        let addresses: Vec<String> = (20..30).map(|n| format!("203.0.113.{n}")).collect();
        for address in &addresses {
            lab.world.address("p0", &format!("{address}/24"));
        }
        for round in 0..100 {
            let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
            let try_it = async || {
                let from = &addresses[round % addresses.len()];
                let mut viewer = Viewer::open(&format!("token={token}"), from).await.unwrap();
                viewer.greet().await;
                (viewer.read(1).await == [1]).then_some(viewer)
            };
            let (one, other) = tokio::join!(try_it(), try_it());
            assert!(one.is_some() != other.is_some(), "round {round}");
        }
        assert_eq!(lab.management.asked().len(), 100);
    });
}

#[test]
fn hypervisors_that_swallow_packets_delay_nobody_else() {
    run("vncport=8080", true, async |lab| {
        let port = screen(Act::Answer).await;
        lab.world.ok(&format!(
            "nft add table inet cut; nft add chain inet cut in '{{ type filter hook input priority 0; }}'; \
             nft add rule inet cut in ip daddr {WORLD} tcp dport 5999 drop"
        ));
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let token = lab.announced(5999, |token| token.session_requires_new_viewer = true).await;
            waiting.push(tokio::spawn(async move {
                let start = Instant::now();
                let told = Viewer::refused(&format!("token={token}"), BROWSER).await;
                (told, start.elapsed())
            }));
        }
        wait_until_asked(lab, 100).await;
        let token = lab.announced(port, |_| {}).await;
        Viewer::shown(&token).await;
        assert!(waiting.iter().all(|one| !one.is_finished()), "they still wait");
        for one in waiting {
            let (told, after) = one.await.unwrap();
            assert!(told.contains("cannot be reached"), "{told}");
            assert!((Duration::from_secs(10)..Duration::from_secs(15)).contains(&after), "{after:?}");
        }
        until("each is reported as removed", LIMIT * 2, async || lab.management.removed().len() == 101).await;
    });
}

#[test]
fn secrets_are_in_no_log_however_much_that_says() {
    run_logging("trace", "vncport=8080 premium=true", false, async |lab| {
        let _machine = lab.machine(5901, Some("Secr3tPw"));
        let password = "AAECAwQFBgcICQoLDA0ODw==";
        let store = include_bytes!("../../../cpvm/testdata/cpvm.jks");
        let start = lab.management.start_command(Some((store, password)), false);
        assert!(succeeded(&lab.management.ask(start).await));
        lab.reachable();
        let token = lab.announced(5901, |token| token.extra_security_token = Some("my extra".into())).await;
        assert!(Viewer::refused(&format!("token={token}"), BROWSER).await.contains("security token"));
        let mut viewer = Viewer::open(&format!("token={token}&extra=my%20extra"), BROWSER).await.unwrap();
        viewer.greet().await;
        assert_eq!(viewer.read(2).await, [1, 1]);
        let picture = lab.announced(5901, |token| token.picture = true).await;
        lab.world.ok(&format!("curl -sf -o /dev/null -k 'https://{PUBLIC}/picture?token={picture}'"));
        drop(viewer);
        until("both are reported", LIMIT, async || lab.management.removed().len() == 2).await;
        let said = lab.core.output() + &lab.serve.output();
        assert!(said.contains("DEBUG"), "all is said");
        for secret in [password, "my extra", "my%20extra"] {
            assert!(!said.contains(secret), "{secret} is in the log");
        }
    });
}
