//! Many questions at a time are all answered, and rightly. How fast, the bench says.

use std::{net::UdpSocket, time::Duration};

use crate::lab::{Lab, host, inside};

/// Questions on their way at a time.
const WINDOW: usize = 32;

/// Sends `messages`, at most [`WINDOW`] unanswered; each answer must be right.
fn ask(socket: &UdpSocket, server: &str, messages: &[Vec<u8>], right: impl Fn(&[u8]) -> bool) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut sent, mut answered, mut buffer) = (0, 0, [0; 1500]);
    while answered < messages.len() {
        while sent < messages.len() && sent - answered < WINDOW {
            socket.send_to(&messages[sent], server).unwrap();
            sent += 1;
        }
        let (length, _) = socket.recv_from(&mut buffer).expect("an answer to each");
        assert!(right(&buffer[..length]));
        answered += 1;
    }
}

#[test]
fn twenty_thousand_names() {
    let lab = Lab::new();
    lab.address_guests();
    let question = |id: u16| {
        let mut question = id.to_be_bytes().to_vec();
        question.extend(*b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01");
        question
    };
    let questions: Vec<_> = (0..20_000).map(question).collect();
    let errand = inside(&lab.a, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        ask(&socket, "10.9.1.1:53", &questions, |answer| answer.ends_with(&[10, 9, 1, 20]));
    });
    errand.join().unwrap();
}

/// A message as a relay agent at 10.9.1.10 passes it on: its answers come to the agent's own address.
fn relayed(kind: u8, guest: u16, more: &[u8]) -> Vec<u8> {
    let [high, low] = guest.to_be_bytes();
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 1, 0, 0, high, low]);
    message[24..28].copy_from_slice(&[10, 9, 1, 10]);
    message[28..34].copy_from_slice(&[2, 0, 0, 1, high, low]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(more);
    message.push(255);
    message
}

#[test]
fn leases_of_five_thousand_guests() {
    let mut lab = Lab::new();
    lab.address_guests();
    let guests = 5000_u16;
    let address = |guest: u16| {
        let [high, low] = guest.to_be_bytes();
        [10, 9, 16 + high, low]
    };
    lab.dhcp.subnets.truncate(1);
    lab.dhcp.subnets[0].network = "10.9.0.0/16".parse().unwrap();
    lab.hosts = (1..=guests)
        .map(|g| {
            let [high, low] = g.to_be_bytes();
            host(&format!("02:00:00:01:{high:02x}:{low:02x}"), address(g), &format!("vm{g}"))
        })
        .collect();
    lab.declare();
    let discovers: Vec<_> = (1..=guests).map(|g| relayed(1, g, &[])).collect();
    let requests: Vec<_> = (1..=guests)
        .map(|g| {
            let [a, b, c, d] = address(g);
            relayed(3, g, &[50, 4, a, b, c, d, 54, 4, 10, 9, 1, 1])
        })
        .collect();
    let errand = inside(&lab.a, move || {
        let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
        let granted = |answer: &[u8]| answer[16..18] == [10, 9];
        ask(&socket, "10.9.1.1:67", &discovers, granted);
        ask(&socket, "10.9.1.1:67", &requests, granted);
    });
    errand.join().unwrap();
}
