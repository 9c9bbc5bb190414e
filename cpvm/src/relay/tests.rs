//! Both ways of a relay, and how it ends.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;

struct Lab {
    client: WebSocketStream<DuplexStream>,
    server: DuplexStream,
    stop: watch::Sender<Option<End>>,
    ended: tokio::task::JoinHandle<(End, u64, u64)>,
}

async fn lab(timing: Timing) -> Lab {
    viewing(timing, None).await
}

async fn viewing(timing: Timing, view_only: Option<ViewOnly>) -> Lab {
    let filters = Filters { view_only, tape: None };
    let (near, far) = duplex(16 * 1024);
    let (hypervisor, server) = duplex(16 * 1024);
    let browser = Browser::new(near, &[]);
    let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let (stop, mut orders) = watch::channel(None);
    let ended = tokio::spawn(async move {
        let meter = Meter::default();
        let end = relay(browser, hypervisor, filters, &mut orders, &meter, timing).await;
        (end, meter.down.into_inner(), meter.up.into_inner())
    });
    Lab { client, server, stop, ended }
}

fn close_code(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> u16 {
    match message {
        Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bytes_arrive_in_order_both_ways() {
    let mut lab = lab(Timing::default()).await;
    let sent: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let copy = sent.clone();
    let (mut from, mut to) = tokio::io::split(lab.server);
    let serving = tokio::spawn(async move {
        to.write_all(&copy).await.unwrap();
        let mut got = vec![0; 300_000];
        from.read_exact(&mut got).await.unwrap();
        (got, from, to)
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let message = lab.client.next().await.unwrap().unwrap();
        assert!(message.len() <= CHUNK);
        got.extend_from_slice(&message.into_data());
    }
    assert!(got == sent);
    for piece in sent[..300_000].chunks(10_000) {
        lab.client.send(Message::binary(piece.to_vec())).await.unwrap();
    }
    let (up, from, to) = serving.await.unwrap();
    assert!(up == sent[..300_000]);
    drop((from, to));
    assert_eq!(close_code(lab.client.next().await), 4002);
    assert_eq!(lab.ended.await.unwrap(), (End::HypervisorClosed, sent.len() as u64, 300_000));
}

#[tokio::test]
async fn the_browsers_end_closes_the_hypervisor() {
    let mut one = lab(Timing::default()).await;
    one.client.close(None).await.unwrap();
    assert_eq!(one.server.read(&mut [0]).await.unwrap(), 0);
    while let Some(Ok(_)) = one.client.next().await {}
    assert_eq!(one.ended.await.unwrap().0, End::BrowserClosed);

    let mut two = lab(Timing::default()).await;
    drop(two.client);
    assert_eq!(two.server.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(two.ended.await.unwrap().0, End::BrowserGone);
}

#[tokio::test]
async fn text_and_frames_over_the_limit_reach_no_hypervisor() {
    for (message, end, code) in [
        (Message::text("x"), End::BrowserText, 1003),
        (Message::binary(vec![0; 65_537]), End::BrowserTooBig, 1009),
    ] {
        let mut lab = lab(Timing::default()).await;
        // The proxy stops reading in the middle of what is too long.
        let _ = lab.client.feed(message).await;
        let (mut sink, mut stream) = lab.client.split();
        let (_, closed) = tokio::join!(sink.flush(), stream.next());
        assert_eq!(close_code(closed), code);
        drop((sink, stream));
        let mut seen = Vec::new();
        lab.server.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"");
        assert_eq!(lab.ended.await.unwrap().0, end);
    }
}

#[tokio::test]
async fn an_order_ends_it() {
    for end in [End::TakenOver, End::Cut] {
        let mut lab = lab(Timing::default()).await;
        lab.stop.send_replace(Some(end));
        assert_eq!(close_code(lab.client.next().await), end.close().0);
        assert_eq!(lab.server.read(&mut [0]).await.unwrap(), 0);
        while let Some(Ok(_)) = lab.client.next().await {}
        assert_eq!(lab.ended.await.unwrap().0, end);
    }
}

const QUICK: Timing = Timing {
    ping: Duration::from_millis(50),
    silence: Duration::from_millis(400),
    close: Duration::from_millis(50),
};

#[tokio::test]
async fn a_browser_that_answers_pings_stays_and_a_silent_one_goes() {
    let mut lab = lab(QUICK).await;
    // Reading answers the pings; nothing else is sent for three times the silence that is allowed.
    for _ in 0..24 {
        assert!(matches!(lab.client.next().await, Some(Ok(Message::Ping(_)))));
        lab.client.flush().await.unwrap();
    }
    assert!(!lab.ended.is_finished());
    // From now on nobody reads.
    let silent = Instant::now();
    assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
    assert!(silent.elapsed() < QUICK.silence * 3, "{:?}", silent.elapsed());
}

#[tokio::test]
async fn a_browser_that_does_not_read_holds_the_hypervisor_back() {
    let mut lab = lab(QUICK).await;
    let mut taken = 0;
    while lab.server.write_all(&[0; 4096]).await.is_ok() {
        taken += 4096;
        assert!(taken < 1024 * 1024, "nothing holds it back");
    }
    assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
}

#[test]
fn a_vanished_browser_is_found_within_90_seconds() {
    let timing = Timing::default();
    assert!(timing.silence + timing.close < Duration::from_secs(90));
    assert!(timing.silence > timing.ping * 2);
}

#[tokio::test]
async fn pings_that_nobody_reads_the_answers_of_are_not_hoarded() {
    let mut lab = lab(QUICK).await;
    let mut sent = 0_usize;
    let ping = Message::Ping(Bytes::from(vec![1; 125]));
    while lab.client.feed(ping.clone()).await.is_ok()
        && timeout(Duration::from_millis(100), lab.client.flush()).await.is_ok()
    {
        sent += 125;
        assert!(sent < 1024 * 1024, "all are taken");
    }
    // Once it reads again, every answer is there.
    let mut answers = 0;
    while answers < sent {
        match timeout(Duration::from_secs(5), lab.client.next()).await.unwrap().unwrap().unwrap() {
            Message::Pong(payload) => answers += payload.len(),
            other => assert!(matches!(other, Message::Ping(_)), "{other:?}"),
        }
    }
    lab.server.write_all(b"picture").await.unwrap();
    loop {
        if let Message::Binary(bytes) = lab.client.next().await.unwrap().unwrap() {
            break assert_eq!(&bytes[..], b"picture");
        }
    }
}

#[tokio::test]
async fn a_slow_browser_that_takes_a_little_stays() {
    let mut lab = lab(QUICK).await;
    let (mut from, mut to) = tokio::io::split(lab.server);
    let serving = tokio::spawn(async move {
        while to.write_all(&[0; 4096]).await.is_ok() {}
        from.read(&mut [0]).await
    });
    // Each message takes longer than a pong may, but some of it is taken all the time.
    let raw = lab.client.get_mut();
    let mut piece = vec![0; 4096];
    for _ in 0..40 {
        raw.read_exact(&mut piece).await.unwrap();
        tokio::time::sleep(QUICK.silence / 10).await;
    }
    assert!(!lab.ended.is_finished());
    lab.stop.send_replace(Some(End::Cut));
    assert_eq!(lab.ended.await.unwrap().0, End::Cut);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_viewer_who_may_only_look_presses_no_key() {
    let mut lab = viewing(Timing::default(), Some(ViewOnly::default())).await;
    lab.client.send(Message::binary(vec![4, 1, 0, 0, 0, 0, 0, 0x61])).await.unwrap();
    lab.client.send(Message::binary(vec![3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90])).await.unwrap();
    let mut seen = [0; 10];
    lab.server.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen[0], 3);
    lab.client.send(Message::binary(vec![99])).await.unwrap();
    assert_eq!(close_code(lab.client.next().await), 1002);
    assert_eq!(lab.ended.await.unwrap().0, End::BrowserProtocol);
}

#[test]
fn an_idle_session_holds_no_buffer() {
    assert!(std::mem::size_of::<Pump<'_, tokio::net::TcpStream, tokio::net::TcpStream>>() < 768);
}

/// A relay between two TCP connections, as consoles without TLS have it; small buffers make the browser take frames in
/// pieces.
async fn direct() -> (WebSocketStream<TcpStream>, TcpStream, tokio::task::JoinHandle<(End, u64)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async || {
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0;
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 48 * 1024).unwrap();
        (near, far)
    };
    let ((near, far), (hypervisor, server)) = (connect().await, connect().await);
    let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let ended = tokio::spawn(async move {
        let (meter, (_stop, mut orders)) = (Meter::default(), watch::channel(None));
        let browser = Browser::new(near, &[]);
        let end = relay(browser, hypervisor, Filters::default(), &mut orders, &meter, QUICK).await;
        (end, meter.down.into_inner())
    });
    (client, server, ended)
}

#[tokio::test]
async fn what_passes_through_the_kernel_arrives_in_order() {
    let (mut client, mut server, ended) = direct().await;
    let sent: Vec<u8> = (0..24 * 1024 * 1024_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let copy = sent.clone();
    let serving = tokio::spawn(async move {
        // Much and little in turns.
        let mut from = 0;
        for length in [100_000, 1, 700_000, 3, 20_000].into_iter().cycle() {
            let to = (from + length).min(copy.len());
            server.write_all(&copy[from..to]).await.unwrap();
            if to == copy.len() {
                return server;
            }
            from = to;
        }
        server
    });
    let (mut got, mut pings, mut longest) = (Vec::with_capacity(sent.len()), 0, 0);
    while got.len() < sent.len() {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => {
                assert!(bytes.len() <= CHUNK);
                longest = longest.max(bytes.len());
                got.extend_from_slice(&bytes);
                // Answers go between the frames, and never into one.
                if got.len() / (1024 * 1024) > pings {
                    pings += 1;
                    client.send(Message::Ping(Bytes::from(vec![7; 20]))).await.unwrap();
                }
            }
            Message::Pong(payload) => assert_eq!(&payload[..], [7; 20]),
            other => assert!(matches!(other, Message::Ping(_)), "{other:?}"),
        }
    }
    assert!(got == sent);
    assert!(longest > MUCH, "much goes at once");
    drop(serving.await.unwrap());
    while let Some(Ok(message)) = client.next().await {
        if message.is_close() {
            assert_eq!(close_code(Some(Ok(message))), 4002);
            break;
        }
    }
    assert_eq!(ended.await.unwrap(), (End::HypervisorClosed, sent.len() as u64));
}

#[tokio::test]
async fn a_browser_that_breaks_off_within_a_frame_leaves_nothing_to_the_next() {
    for _ in 0..3 {
        let (mut client, mut server, ended) = direct().await;
        let flood = tokio::spawn(async move { while server.write_all(&[0xee; 65_536]).await.is_ok() {} });
        let mut piece = vec![0; 300_000];
        client.get_mut().read_exact(&mut piece).await.unwrap();
        drop(client);
        assert_eq!(ended.await.unwrap().0, End::BrowserGone);
        flood.await.unwrap();
        let (mut client, mut server, ended) = direct().await;
        server.write_all(&[0x11; 200_000]).await.unwrap();
        drop(server);
        let mut got = 0;
        while let Message::Binary(bytes) = client.next().await.unwrap().unwrap() {
            assert!(bytes.iter().all(|byte| *byte == 0x11));
            got += bytes.len();
        }
        assert_eq!(got, 200_000);
        drop(client);
        ended.await.unwrap();
    }
}
