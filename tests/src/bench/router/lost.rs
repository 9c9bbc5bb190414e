//! What is lost while the router changes: names asked for, flows that last, flows that begin.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    super::{Figure, Floor},
    lab::{self, Lab},
};
use crate::lab::Namespace;

/// Time between two questions, and between two new flows.
const PACE: Duration = Duration::from_millis(5);
/// An answer that takes longer counts as lost.
const LATE: Duration = Duration::from_secs(2);

/// Something that goes on beside the changes: how often it was tried, and how often in vain.
struct Probe {
    name: &'static str,
    work: JoinHandle<(u32, u32)>,
}

impl Probe {
    fn start(
        name: &'static str,
        net: &Namespace,
        stop: &Arc<AtomicBool>,
        begin: impl FnOnce() -> Box<dyn FnMut() -> io::Result<()> + Send> + Send,
    ) -> Self {
        // Sockets stay in the namespace where they are made; new ones need a thread that lives there.
        let stop = Arc::clone(stop);
        let (tell, told) = std::sync::mpsc::channel();
        let mut step = thread::scope(|scope| {
            let begin = || {
                net.enter();
                begin()
            };
            scope.spawn(begin).join().expect("a probe")
        });
        let file = format!("/run/netns/{}", net.name());
        let work = thread::spawn(move || {
            let file = std::fs::File::open(file).expect("namespace");
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
                .expect("namespace");
            let (mut tried, mut lost) = (0, 0);
            let _ = tell.send(());
            while !stop.load(Ordering::Relaxed) {
                tried += 1;
                if let Err(error) = step() {
                    lost += 1;
                    eprintln!("{name}, try {tried}: {error}");
                }
                thread::sleep(PACE);
            }
            (tried, lost)
        });
        let _ = told.recv();
        Self { name, work }
    }
}

fn ask(socket: &UdpSocket, to: &str, bytes: &[u8]) -> io::Result<()> {
    socket.send_to(bytes, to)?;
    let mut buffer = [0; 1500];
    loop {
        let (length, _) = socket.recv_from(&mut buffer)?;
        if buffer[..length].get(..2) == bytes.get(..2) {
            return Ok(());
        }
    }
}

fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("socket");
    socket.set_read_timeout(Some(LATE)).expect("time limit");
    socket
}

fn connect(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().map_err(io::Error::other)?, LATE)?;
    stream.set_read_timeout(Some(LATE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn say(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// Echo servers for TCP and UDP.
fn echo(net: &Namespace, address: &str) {
    let (listener, socket) = thread::scope(|scope| {
        let make = || {
            net.enter();
            (TcpListener::bind(address).expect("listener"), UdpSocket::bind(address).expect("socket"))
        };
        scope.spawn(make).join().expect("servers")
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
}

/// Makes `count` changes while everything is asked for.
pub(super) fn run(count: u32) {
    let lab = Lab::isolated();
    let mut all = vec![
        ("ip_associations", lab::addresses(2)),
        ("firewall_rules", lab::egress()),
        ("vm_dhcp_entry", lab::reservation(0)),
        ("firewall_rules", lab::ingress(0..count, false)),
        ("forwarding_rules", lab::forwards(20..count, false)),
    ];
    for protocol in ["tcp", "udp"] {
        all.push(("forwarding_rules", format!(
            r#"{{"rules":[{{"revoke":false,"protocol":"{protocol}","source_ip_address":"203.0.113.10","source_port_range":"999:999","destination_ip_address":"10.1.0.20","destination_port_range":"7:7","source_cidr_list":""}}],"type":"forwardrules"}}"#
        )));
        all.push(("firewall_rules", format!(
            r#"{{"rules":[{{"id":90{},"src_ip":"203.0.113.10","protocol":"{protocol}","src_port_range":[999,999],"revoked":false,"already_added":false,"source_cidr_list":["0.0.0.0/0"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}}],"type":"firewallrules"}}"#,
            protocol.len() + protocol.as_bytes().first().map_or(0, |b| usize::from(*b)),
        )));
    }
    lab.bundle(&all);
    echo(&lab.guest, "10.1.0.20:7");
    echo(&lab.outside, "203.0.113.1:7");
    let stop = Arc::new(AtomicBool::new(false));
    let name =
        b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03vm0\x03cs1\x07example\x00\x00\x01\x00\x01";
    let probes = [
        Probe::start("dns", &lab.guest, &stop, || {
            let socket = datagrams();
            Box::new(move || ask(&socket, "10.1.0.1:53", name))
        }),
        Probe::start("tcp_lasting_out", &lab.guest, &stop, || {
            let mut stream = connect("203.0.113.1:7").expect("a connection out");
            Box::new(move || say(&mut stream))
        }),
        Probe::start("tcp_lasting_in", &lab.outside, &stop, || {
            let mut stream = connect("203.0.113.10:999").expect("a connection in");
            Box::new(move || say(&mut stream))
        }),
        Probe::start("udp_lasting_out", &lab.guest, &stop, || {
            let socket = datagrams();
            Box::new(move || ask(&socket, "203.0.113.1:7", b"ping"))
        }),
        Probe::start("udp_lasting_in", &lab.outside, &stop, || {
            let socket = datagrams();
            Box::new(move || ask(&socket, "203.0.113.10:999", b"ping"))
        }),
        Probe::start("tcp_new_out", &lab.guest, &stop, || Box::new(|| say(&mut connect("203.0.113.1:7")?))),
        Probe::start("tcp_new_in", &lab.outside, &stop, || {
            Box::new(|| say(&mut connect("203.0.113.10:999")?))
        }),
        Probe::start("udp_new_out", &lab.guest, &stop, || {
            Box::new(|| ask(&datagrams(), "203.0.113.1:7", b"ping"))
        }),
        Probe::start("udp_new_in", &lab.outside, &stop, || {
            Box::new(|| ask(&datagrams(), "203.0.113.10:999", b"ping"))
        }),
    ];
    for n in 0..count {
        let (kind, text) = match n % 4 {
            0 => ("forwarding_rules", lab::forwards(count + n..=count + n, false)),
            1 => ("firewall_rules", lab::ingress(count + n..=count + n, false)),
            2 => ("vm_dhcp_entry", lab::reservation(n)),
            _ => ("forwarding_rules", lab::forwards(count + n - 3..=count + n - 3, true)),
        };
        lab.apply(&[lab.place(kind, &text)]);
    }
    stop.store(true, Ordering::Relaxed);
    let (mut tried, mut lost) = (0, 0);
    for probe in probes {
        let (of, without) = probe.work.join().expect("a probe");
        println!("# {}: {of} tried, {without} lost", probe.name);
        (tried, lost) = (tried + of, lost + without);
    }
    println!("# {count} changes, {tried} questions and flows");
    Figure::host("lost", "flows", vec![f64::from(lost)], Some(Floor::AtMost(0.0))).print();
}
