//! Consoles that are not opened, and what the user is told.

use std::time::{Duration, Instant};

use tests::lab::wait_until;

use tests::lab::cpvm::{
    management::{Mood, succeeded},
    viewer::Viewer,
    {PUBLIC, run},
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

async fn wait_until_asked(lab: &tests::lab::cpvm::Lab, count: usize) {
    tests::lab::cpvm::until("management is asked", tests::lab::cpvm::LIMIT, async || {
        lab.management.asked().len() >= count
    })
    .await;
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
        tests::lab::cpvm::until("both are reported as removed", tests::lab::cpvm::LIMIT, async || {
            lab.management.removed().len() == 2
        })
        .await;
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
