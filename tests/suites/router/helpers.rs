//! Conversations that announce further connections: FTP both ways through translated addresses.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use tests::lab::Namespace;

use crate::{
    documents::{egress, forward, ingress},
    lab::{Lab, inside},
};

/// What the server has.
const CONTENT: &str = "what was asked for\n";

/// A small FTP server in a namespace: one file under any name, active and passive.
fn serve_ftp(namespace: &Namespace, address: &'static str) {
    let listener = inside(namespace, || TcpListener::bind(address).expect("listener"));
    let place = format!("/run/netns/{}", namespace.name());
    std::thread::spawn(move || {
        // Connections that it opens begin in the namespace, too.
        let file = std::fs::File::open(place).expect("namespace");
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).expect("namespace");
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || converse(stream));
        }
    });
}

fn converse(mut stream: TcpStream) -> Option<()> {
    let own = match stream.local_addr().ok()? {
        SocketAddr::V4(own) => *own.ip(),
        SocketAddr::V6(_) => return None,
    };
    let say = |text: &str, stream: &mut TcpStream| stream.write_all(format!("{text}\r\n").as_bytes()).ok();
    let lines = BufReader::new(stream.try_clone().ok()?).lines();
    let (mut active, mut passive) = (None::<SocketAddrV4>, None::<TcpListener>);
    say("220 ready", &mut stream)?;
    for line in lines {
        let line = line.ok()?;
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word.to_ascii_uppercase().as_str() {
            "USER" | "PASS" => say("230 welcome", &mut stream)?,
            "PWD" => say("257 \"/\"", &mut stream)?,
            "TYPE" | "CWD" => say("200 fine", &mut stream)?,
            "SIZE" => say("500 unknown", &mut stream)?,
            "PORT" => {
                let n: Vec<u8> = rest.split(',').filter_map(|n| n.trim().parse().ok()).collect();
                let [a, b, c, d, high, low] = n[..] else { return None };
                active = Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])));
                say("200 fine", &mut stream)?;
            }
            "PASV" => {
                let listener = TcpListener::bind((own, 0)).ok()?;
                let port = listener.local_addr().ok()?.port();
                let at = own.octets().map(|n| n.to_string()).join(",");
                passive = Some(listener);
                say(&format!("227 Entering Passive Mode ({at},{},{})", port >> 8, port & 255), &mut stream)?;
            }
            "RETR" => {
                let data = match (active.take(), passive.take()) {
                    (Some(at), _) => TcpStream::connect_timeout(&at.into(), Duration::from_secs(3)).ok(),
                    (None, Some(listener)) => listener.accept().ok().map(|(stream, _)| stream),
                    (None, None) => None,
                };
                let Some(mut data) = data else {
                    say("425 no connection", &mut stream)?;
                    continue;
                };
                say("150 here it comes", &mut stream)?;
                data.write_all(CONTENT.as_bytes()).ok()?;
                drop(data);
                say("226 done", &mut stream)?;
            }
            "QUIT" => return say("221 bye", &mut stream),
            _ => say("502 unknown", &mut stream)?,
        }
    }
    None
}

/// Fetches a file; `None` where that fails.
fn fetch(namespace: &Namespace, words: &str) -> Option<String> {
    let out = namespace.sh(&format!("curl -s -S --disable-epsv --disable-eprt -m 10 {words}"));
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn active_ftp_works_through_source_nat_and_opens_nothing_else() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    serve_ftp(&lab.outside, "203.0.113.1:21");
    serve_ftp(&lab.outside, "203.0.113.1:2100");
    let got = fetch(&lab.a, "-P - ftp://203.0.113.1/file");
    assert_eq!(got.as_deref(), Some(CONTENT), "the server connects to the guest");
    assert_eq!(
        fetch(&lab.a, "ftp://203.0.113.1/file").as_deref(),
        Some(CONTENT),
        "and the guest to the server"
    );
    assert_eq!(fetch(&lab.a, "-P - ftp://203.0.113.1:2100/file"), None, "a port that nobody speaks it on");
    let dump = lab.dump();
    for name in ["ftp", "pptp", "tftp"] {
        assert!(dump.contains(&format!("ct helper {name} {{")), "{dump}");
    }
    let said = lab.run(&["explain", "tcp", "10.1.1.20", "203.0.113.1:21"]).stdout;
    assert!(said.contains("tcp port 21: follow it as ftp"), "{said}");
}

#[test]
fn passive_ftp_works_through_a_port_forward_of_any_port() {
    let lab = Lab::start();
    serve_ftp(&lab.a, "10.1.1.20:21");
    for (n, port) in [(1, 21), (2, 2121)] {
        let ports = format!("{port}:{port}");
        lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", &ports, "10.1.1.20", "21:21", false));
        let gate = ingress(n, "203.0.113.10", "tcp", Some((port, port)), "203.0.113.1/32", false);
        lab.apply("firewall_rules", &gate);
        let got = fetch(&lab.outside, &format!("ftp://203.0.113.10:{port}/file"));
        assert_eq!(got.as_deref(), Some(CONTENT), "port {port}");
    }
}
