//! A peer that frames in its own way: several records in a frame, tiny records, single bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::channel::packet::{MAX_CONTENT, Packet};
use common::channel::tls::AgentFiles;
use rustls::{ClientConnection, Stream};
use serde_json::json;

use crate::support::*;

/// Connects, shakes hands, and gives the engine with its socket.
fn connect(address: SocketAddr, folder: &std::path::Path) -> (ClientConnection, TcpStream) {
    let config = AgentFiles::new(folder).load().unwrap().config().unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut engine = ClientConnection::new(config, LOCALHOST.into()).unwrap();
    Stream::new(&mut engine, &mut socket).flush().unwrap();
    while engine.is_handshaking() {
        engine.complete_io(&mut socket).unwrap();
    }
    (engine, socket)
}

/// Encrypts each part of a packet into a record of its own.
fn records(engine: &mut ClientConnection, parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let encrypt = |part: &&[u8]| {
        engine.writer().write_all(part).unwrap();
        let mut record = Vec::new();
        while engine.wants_write() {
            engine.write_tls(&mut record).unwrap();
        }
        record
    };
    parts.iter().map(encrypt).collect()
}

fn frame(payload: &[u8], following: bool) -> Vec<u8> {
    let mut bytes = vec![0, u8::from(following)];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Reads one packet that comes in one frame.
fn receive(engine: &mut ClientConnection, socket: &mut TcpStream) -> Packet {
    let mut header = [0; 4];
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[..2], [0, 0], "one frame");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
    socket.read_exact(&mut payload).unwrap();
    let mut rest = payload.as_slice();
    while !rest.is_empty() {
        engine.read_tls(&mut rest).unwrap();
        engine.process_new_packets().unwrap();
    }
    let mut plain = Vec::new();
    let _ = engine.reader().read_to_end(&mut plain);
    Packet::decode(&plain, MAX_CONTENT).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_may_cut_packets_as_it_likes() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let office = office(&ca, Setting::default()).await;
    let (address, path) = (office.server.address(), folder.path().to_owned());
    let peer = tokio::task::spawn_blocking(move || {
        let (mut engine, mut socket) = connect(address, &path);
        // The start-up: three records in one frame.
        let bytes = startup(0).encode();
        let list = records(&mut engine, &[&bytes[..7], &bytes[7..100], &bytes[100..]]);
        socket.write_all(&frame(&list.concat(), false)).unwrap();
        assert_eq!(only(&receive(&mut engine, &mut socket)).simple_name(), "StartupAnswer");
        assert_eq!(only(&receive(&mut engine, &mut socket)).simple_name(), "ReadyCommand");
        // A request: many small records, a frame each, byte by byte on the socket.
        let mut request = startup(1);
        request.content = common::channel::json::write(&[message("x.Echo", json!({"cut": "small"}))]);
        let bytes = request.encode();
        let parts: Vec<&[u8]> = bytes.chunks(5).collect();
        let list = records(&mut engine, &parts);
        for (index, record) in list.iter().enumerate() {
            for byte in frame(record, index + 1 < list.len()) {
                socket.write_all(&[byte]).unwrap();
            }
        }
        assert_eq!(only(&receive(&mut engine, &mut socket)).body["cut"], "small");
        // Two packets in one write, after an empty one, which is ignored.
        let mut bytes = frame(&[], false);
        for _ in 0..2 {
            let whole = records(&mut engine, &[&request.encode()]).concat();
            bytes.extend(frame(&whole, false));
        }
        socket.write_all(&bytes).unwrap();
        for _ in 0..2 {
            assert_eq!(only(&receive(&mut engine, &mut socket)).body["cut"], "small");
        }
    });
    soon("the peer", peer).await.unwrap();
}
