//! A server against peers that do not behave.

use std::time::Duration;

use common::channel::message::Message;
use common::channel::packet::{Flags, Ids, Packet};
use common::channel::server::{SendOptions, ServerConfig};
use common::channel::stream::Stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// A server, a joined raw agent, and what the server has of it.
async fn joined(
    setting: Setting,
) -> (Office, Stream, common::channel::server::AttachedAgent, tempfile::TempDir) {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, setting).await;
    let mut stream = raw_agent(office.server.address(), folder.path()).await.unwrap();
    send(&mut stream, &startup(7)).await;
    let answer = receive(&mut stream).await.unwrap();
    assert_eq!((answer.flags.0, answer.sequence), (0x24, 7));
    assert_eq!((answer.management, answer.agent, answer.via), (90_520_741_327_555, -1, -1));
    assert_eq!(only(&answer).body["hostId"], 5);
    let ready = receive(&mut stream).await.unwrap();
    assert_eq!(ready.flags.0, 0x27);
    assert_eq!((ready.management, ready.agent, ready.via), (90_520_741_327_555, 5, 5));
    assert_eq!(ready.sequence & 0xffff_ffff_ffff, 1);
    assert_eq!(only(&ready).body["hostUuid"], "95068256-81c4-3ed3-a902-3bdda15ed117");
    let yes = message("com.cloud.agent.api.ReadyAnswer", json!({"result": true}));
    let response = ready.response(&[yes]);
    assert_eq!((response.flags.0, response.management), (0x06, 90_520_741_327_555));
    send(&mut stream, &response).await;
    let attached = office.attached().await;
    (office, stream, attached, folder)
}

fn request(sequence: i64, commands: &[Message]) -> Packet {
    Packet::new(Flags::REQUEST.with(Flags::STOP_ON_ERROR), sequence, Ids::of_agent(Some(5)), commands)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_garbage_before_tls_do_no_harm() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let config = ServerConfig { setups: 4, setups_of_one: 4, ..Setting::default().config };
    let office = office(&ca, Setting { config, ..Setting::default() }).await;
    let address = office.server.address();
    for _ in 0..20 {
        drop(TcpStream::connect(address).await.unwrap());
    }
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 9], b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n"]
    {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let _ = soon("the server gives up", socket.read_to_end(&mut rest)).await;
        // At most an alert comes back.
        assert!(rest.len() <= 7, "{rest:?}");
    }
    // More connections in set-up than there are places are closed at once; the others keep theirs.
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let closed = async {
        loop {
            let mut one_more = TcpStream::connect(address).await.unwrap();
            if let Ok(Ok(0)) | Ok(Err(_)) =
                tokio::time::timeout(Duration::from_millis(100), one_more.read(&mut [0; 1])).await
            {
                break;
            }
        }
    };
    soon("a connection too many is closed", closed).await;
    drop(idle);
    let join = async {
        loop {
            let Ok(mut stream) = raw_agent(address, folder.path()).await else { continue };
            send(&mut stream, &startup(0)).await;
            if let Ok(Some(Ok(_))) = stream.reader.next().await {
                break;
            }
        }
    };
    soon("an agent still joins", join).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_a_start_up_is_ignored() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let office = office(&ca, Setting::default()).await;
    let mut stream = raw_agent(office.server.address(), folder.path()).await.unwrap();
    send(&mut stream, &request(1, &[message("com.cloud.agent.api.PingCommand", json!({}))])).await;
    let mut forged = startup(2);
    forged.flags = forged.flags.with(Flags::FROM_SERVER);
    send(&mut stream, &forged).await;
    send(&mut stream, &startup(3)).await;
    assert_eq!(receive(&mut stream).await.unwrap().sequence, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_whatever_they_are() {
    let (office, mut stream, _, _folder) = joined(Setting::default()).await;
    // A ping: the answer echoes it.
    let ping = message("com.cloud.agent.api.PingCommand", json!({"hostId": 5, "hostType": "ConsoleProxy"}));
    send(&mut stream, &request(10, std::slice::from_ref(&ping))).await;
    let answer = receive(&mut stream).await.unwrap();
    assert_eq!((answer.flags.0, answer.sequence, answer.agent, answer.via), (0x22, 10, 5, 5));
    let pong = only(&answer);
    assert_eq!(pong.class, "com.cloud.agent.api.PingAnswer");
    assert_eq!(pong.body["_command"], serde_json::Value::Object(ping.body));
    assert_eq!(pong.body["sendStartup"], false);
    // Several commands, one of them no command at all.
    let mut packet = request(11, &[]);
    packet.content = br#"[{"x.Echo":{"n":1}},17,{"x.Other":{}}]"#.to_vec();
    send(&mut stream, &packet).await;
    let answers = receive(&mut stream).await.unwrap().messages().unwrap();
    let results: Vec<bool> = answers.iter().map(|answer| answer.as_ref().unwrap().result()).collect();
    assert_eq!(results, [true, false, false]);
    // No JSON, an empty list: a failed answer, not silence.
    for (sequence, content) in [(12, &b"["[..]), (13, b"[]"), (14, b"{}"), (15, b"\xff\xff")] {
        let mut packet = request(sequence, &[]);
        packet.content = content.to_vec();
        send(&mut stream, &packet).await;
        let answer = receive(&mut stream).await.unwrap();
        assert_eq!(answer.sequence, sequence);
        assert!(!only(&answer).result());
    }
    // What only a server may send, and answers that nobody asked for, are dropped.
    for flags in [Flags::REQUEST.with(Flags::FROM_SERVER), Flags::REQUEST.with(Flags::CONTROL), Flags(0)] {
        let mut packet = request(16, &[message("x.Echo", json!({}))]);
        packet.flags = flags;
        send(&mut stream, &packet).await;
    }
    send(&mut stream, &request(17, &[message("x.Echo", json!({"last": true}))])).await;
    let answer = receive(&mut stream).await.unwrap();
    assert_eq!((answer.sequence, only(&answer).body["last"].as_bool()), (17, Some(true)));
    drop(office);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_at_once_fail_at_once() {
    let config = ServerConfig { controls: 2, ..Setting::default().config };
    let (_office, mut stream, _, _folder) = joined(Setting { config, ..Setting::default() }).await;
    for sequence in 0..3 {
        send(&mut stream, &request(sequence, &[message("x.Silent", json!({}))])).await;
    }
    let answer = receive(&mut stream).await.unwrap();
    assert_eq!((answer.sequence, only(&answer).details()), (2, "too many requests at once"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_cannot_be_read_are_ignored_up_to_a_point() {
    let (mut office, stream, _, _folder) = joined(Setting::default()).await;
    let Stream { mut writer, mut reader, .. } = stream;
    // Encoded by hand: another version, too short, a wrong length, a false zip.
    let good = request(20, &[message("x.Echo", json!({}))]).encode();
    let mut bad: Vec<Vec<u8>> =
        vec![good.clone(), good[..39].to_vec(), good.clone(), good.clone(), Vec::new()];
    bad[0][0] = 2;
    bad[2][15] ^= 1;
    bad[3][3] |= 0x80;
    for bytes in &bad {
        writer.send_bytes(bytes, LIMIT).await.unwrap();
    }
    writer.send_bytes(&good, LIMIT).await.unwrap();
    let answer = soon("an answer", reader.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.sequence, 20);
    for _ in 0..16 {
        if writer.send_bytes(&bad[0], LIMIT).await.is_err() {
            break;
        }
    }
    assert!(matches!(office.next().await, Seen::Control(_)));
    let Seen::Detached(5, reason) = office.next().await else { panic!("the agent is closed") };
    assert!(reason.starts_with("too many packets that cannot be read"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_rules_end_the_connection() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let cases: [(&[u8], &str); 5] = [
        (&[0, 0, 0x46, 0x51], "a frame announces 18001 bytes; the limit is 18000"),
        (&[0, 0, 0x80, 0x00], "a frame announces 32768 bytes; the limit is 18000"),
        (&[0x17, 0x03, 0x03, 0x00, 0x10], "a TLS record (type 23) without a frame around it"),
        (&[0, 0, 0, 7, 0x17, 3, 3, 0, 9, 1, 2], "a frame ends inside a TLS record"),
        (
            &[
                0, 1, 0, 29, 0x17, 3, 3, 0, 24, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                1, 1, 1, 1,
            ],
            "TLS: cannot decrypt peer's message",
        ),
    ];
    for (bytes, reason) in cases {
        let mut stream = raw_agent(office.server.address(), folder.path()).await.unwrap();
        send(&mut stream, &startup(0)).await;
        assert_eq!(office.next().await, Seen::SetUp(5, vec![]));
        stream.writer.send_raw(bytes).await.unwrap();
        assert_eq!(office.next().await, Seen::Detached(5, reason.to_owned()));
    }
    // Cut off inside a frame.
    let mut stream = raw_agent(office.server.address(), folder.path()).await.unwrap();
    send(&mut stream, &startup(0)).await;
    assert_eq!(office.next().await, Seen::SetUp(5, vec![]));
    stream.writer.send_raw(&[0, 0, 1]).await.unwrap();
    drop(stream);
    let Seen::Detached(5, reason) = office.next().await else { panic!("the agent is gone") };
    // Whichever half of the connection notices first.
    let reasons = ["inside a packet", "reset", "Broken pipe"];
    assert!(reasons.iter().any(|known| reason.contains(known)), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_up_that_is_too_long_is_not_read() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let office = office(&ca, Setting::default()).await;
    let mut stream = raw_agent(office.server.address(), folder.path()).await.unwrap();
    let mut seed: u64 = 7;
    let noise: Vec<u8> = (0..2_000_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .collect();
    let _ = stream.writer.send_bytes(&noise, LIMIT).await;
    let ended = soon("the end", stream.reader.next()).await;
    assert!(!matches!(ended, Ok(Some(_))), "no answer");
    assert!(office.desk.candidates.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_reads_nothing_is_left_behind() {
    let config = ServerConfig { write: Duration::from_millis(500), ..Setting::default().config };
    let (mut office, stream, attached, _folder) = joined(Setting { config, ..Setting::default() }).await;
    let mut seed: u64 = 1;
    let text: String = (0..6_000_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (seed >> 33) as u8 % 90)
        })
        .collect();
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (attached, command) = (attached.clone(), message("x.Echo", json!({ "text": text })));
        sent.spawn(async move { attached.ask(command, SendOptions::default()).await });
    }
    while let Some(answer) = soon("failures", sent.join_next()).await {
        assert!(answer.unwrap().is_err());
    }
    assert_eq!(office.next().await, Seen::Detached(5, "the peer took nothing for 500ms".to_owned()));
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_cannot_be_used_are_an_error_not_a_hang() {
    let (_office, mut stream, attached, _folder) = joined(Setting::default()).await;
    let two = vec![message("x.A", json!({})), message("x.B", json!({}))];
    for content in [&br#"[{"x.Answer":{"details":"why"}}]"#[..], b"{", b"[1,2]", b"[]"] {
        let asked = tokio::spawn({
            let (attached, two) = (attached.clone(), two.clone());
            async move { attached.send(two, SendOptions::default()).await }
        });
        let packet = receive(&mut stream).await.unwrap();
        assert_eq!(packet.flags.0, 0x21);
        let mut response = packet.response(&[]);
        response.content = content.to_vec();
        send(&mut stream, &response).await;
        let error = soon("an error", asked).await.unwrap().unwrap_err();
        assert!(error.to_string().starts_with("agent v-2-VM answered what cannot be used"), "{error}");
    }
    attached.close("enough");
    let gone = attached.send(two, SendOptions::default()).await.unwrap_err();
    assert_eq!(gone.to_string(), "agent v-2-VM has gone: enough");
}
