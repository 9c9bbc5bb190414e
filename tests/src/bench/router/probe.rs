//! What goes on beside the changes: questions and flows, and the servers that answer them.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::lab::Namespace;

/// An answer that takes longer counts as lost.
const LATE: Duration = Duration::from_secs(2);

/// Something that goes on beside the changes.
pub(super) struct Probe {
    name: &'static str,
    work: JoinHandle<(u32, u32)>,
}

impl Probe {
    /// Makes a step in a namespace every `pace`, until `stop` says so; `begin` makes what steps need.
    pub(super) fn start<S: FnMut() -> io::Result<()>>(
        name: &'static str,
        net: &Namespace,
        (stop, pace): (&Arc<AtomicBool>, Duration),
        begin: impl FnOnce() -> S + Send + 'static,
    ) -> Self {
        let stop = Arc::clone(stop);
        let (tell, told) = std::sync::mpsc::channel();
        let work = move || {
            let mut step = begin();
            let (mut tried, mut lost) = (0, 0);
            let _ = tell.send(());
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                tried += 1;
                if let Err(error) = step() {
                    lost += 1;
                    eprintln!("{name}, try {tried}: {error}");
                }
                thread::sleep(pace.saturating_sub(start.elapsed()));
            }
            (tried, lost)
        };
        // A thread lives in the namespace of the one that starts it.
        let work = net.inside(|| thread::spawn(work));
        let _ = told.recv();
        Self { name, work }
    }

    /// How often it was tried, and how often in vain, once it has been stopped.
    pub(super) fn end(self) -> (u32, u32) {
        let (tried, lost) = self.work.join().expect("a probe");
        println!("# {}: {tried} tried, {lost} lost", self.name);
        (tried, lost)
    }
}

/// Sends a question and waits for its answer, which begins with the same two bytes.
pub(super) fn ask(socket: &UdpSocket, to: &str, bytes: &[u8]) -> io::Result<()> {
    socket.send_to(bytes, to)?;
    let mut buffer = [0; 1500];
    loop {
        let (length, _) = socket.recv_from(&mut buffer)?;
        if buffer[..length].get(..2) == bytes.get(..2) {
            return Ok(());
        }
    }
}

/// A new socket for datagrams.
pub(super) fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("socket");
    socket.set_read_timeout(Some(LATE)).expect("time limit");
    socket
}

/// A new connection.
pub(super) fn connect(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().map_err(io::Error::other)?, LATE)?;
    stream.set_read_timeout(Some(LATE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a connection carries something both ways.
pub(super) fn say(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// Echo servers for TCP and UDP.
pub(super) fn echo(net: &Namespace, address: &str) {
    let (listener, socket) = net.inside(|| {
        (TcpListener::bind(address).expect("listener"), UdpSocket::bind(address).expect("socket"))
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
