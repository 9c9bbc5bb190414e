//! Whether packets pay for port forwards that are not theirs.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use super::{
    super::{Figure, Floor},
    documents,
    lab::Lab,
};

/// Port forwards of the two routers that are compared.
const FEW: u32 = 10;
const MANY: u32 = 10_000;
/// Guests that they lead to.
const GUESTS: u32 = 10;
/// Sockets of the sender, each with a port of its own.
const SOCKETS: u32 = 400;
/// Flows that a socket begins in a burst, to one public port each.
const FLOWS: u32 = 10;
/// Bursts of flows in a run; before each of them all flows are forgotten.
const BURSTS: u32 = 5;
/// Packets of flows that last, in a run.
const PACKETS: u32 = 60_000;
/// Runs of each, in turns: many short ones, for the sake of a machine that others use too.
const RUNS: usize = 31;

/// What passed in a run.
struct Passed {
    /// A second of the clock.
    rate: f64,
    /// A second of the sender's processor: forwarding is done within its calls.
    worth: f64,
}

/// A router with port forwards to sockets of guests, which hear and say nothing of themselves.
struct Side {
    lab: Lab,
    forwards: u32,
    senders: Vec<UdpSocket>,
    guests: Vec<UdpSocket>,
}

impl Side {
    fn new(forwards: u32) -> Self {
        let lab = Lab::isolated();
        // The addresses of the guests are the namespace's own.
        lab.guest.ip(&["route", "add", "local", "10.1.16.0/20", "dev", "lo"]);
        let all = (0..forwards)
            .map(|n| ("udp", documents::public(n), 1000 + n / 20, documents::guest(n % GUESTS), 7));
        let mut bundle = vec![
            ("ip_associations", documents::addresses(2)),
            ("forwarding_rules", documents::forwards_of(all)),
        ];
        bundle.extend(
            (0..20).map(|n| {
                ("firewall_rules", documents::open(n + 1, &documents::public(n), "udp", (1, 65535)))
            }),
        );
        lab.bundle(&bundle);
        let open = |address: String| {
            let socket = UdpSocket::bind(address).expect("socket");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
            socket
        };
        let senders = lab.outside.inside(|| (0..SOCKETS).map(|_| open("203.0.113.1:0".to_owned())).collect());
        let guests =
            lab.guest.inside(|| (0..GUESTS).map(|n| open(format!("{}:7", documents::guest(n)))).collect());
        Self { lab, forwards, senders, guests }
    }

    /// The public address of a flow of a socket. No two flows of a socket lead to the same guest.
    fn target(&self, socket: u32, flow: u32) -> (u32, SocketAddr) {
        let forward = (socket * 23 + flow * 833) % self.forwards;
        let address = format!("{}:{}", documents::public(forward), 1000 + forward / 20);
        (forward % GUESTS, address.parse().expect("address"))
    }

    /// Forgets all flows, in the router and at the guests.
    fn forget(&self) {
        self.lab.router.ok("conntrack -F 2>&1");
        for socket in &self.guests {
            socket.set_nonblocking(true).expect("a socket");
            while socket.recv(&mut [0; 64]).is_ok() {}
            socket.set_nonblocking(false).expect("a socket");
        }
    }

    /// Packets that have come to guests.
    fn delivered(&self) -> f64 {
        let text = self.lab.guest.ok("cat /sys/class/net/eth0/statistics/rx_packets");
        text.trim().parse().expect("a figure")
    }

    /// One packet to each of these, so many times over; the sender's time and processor time.
    fn send(&self, targets: &[(usize, SocketAddr)], times: u32) -> (Duration, Duration) {
        let (start, before) = (Instant::now(), processor());
        for _ in 0..times {
            for (socket, target) in targets {
                // A packet that the sender has no room for is missing at the guest.
                let _ = self.senders[*socket].send_to(b"packet", target);
            }
        }
        (start.elapsed(), processor() - before)
    }

    /// Packets of flows that both sides have spoken in.
    fn lasting(&self) -> Passed {
        self.forget();
        let targets: io::Result<Vec<(usize, SocketAddr)>> = self
            .senders
            .iter()
            .enumerate()
            .map(|(number, sender)| {
                let (guest, target) = self.target(u32::try_from(number).unwrap_or(0), 0);
                let guest = &self.guests[guest as usize];
                sender.send_to(b"packet", target)?;
                let (_, peer) = guest.recv_from(&mut [0; 64])?;
                guest.send_to(b"answer", peer)?;
                sender.recv(&mut [0; 64])?;
                Ok((number, target))
            })
            .collect();
        let targets = targets.expect("flows in both directions");
        let before = self.delivered();
        let times = self.send(&targets, PACKETS / SOCKETS);
        Passed::new(self.delivered() - before, PACKETS, times)
    }

    /// First packets of flows.
    fn first(&self) -> Passed {
        let mut targets = vec![];
        for flow in 0..FLOWS {
            targets.extend((0..SOCKETS).map(|socket| (socket as usize, self.target(socket, flow).1)));
        }
        let before = self.delivered();
        let (mut wall, mut cpu) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..BURSTS {
            self.forget();
            let (took, used) = self.send(&targets, 1);
            (wall, cpu) = (wall + took, cpu + used);
        }
        Passed::new(self.delivered() - before, SOCKETS * FLOWS * BURSTS, (wall, cpu))
    }
}

impl Passed {
    fn new(delivered: f64, sent: u32, (wall, cpu): (Duration, Duration)) -> Self {
        assert!(delivered > 0.95 * f64::from(sent), "{delivered} of {sent} packets came");
        Self { rate: delivered / wall.as_secs_f64(), worth: delivered / cpu.as_secs_f64() }
    }
}

/// Processor time of this thread, with the forwarding that its calls do.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let whole = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    whole + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Compares a router with many port forwards with one that has few.
pub(super) fn run() {
    let sides = [Side::new(MANY), Side::new(FEW)];
    let mut core = CpuSet::new();
    core.set(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sched_setaffinity(None, &core).expect("a core of its own");
            measure("packets", ["packets/cpu-s", "packets/s"], &sides, Side::lasting);
            measure("flows", ["flows/cpu-s", "flows/s"], &sides, Side::first);
        });
    });
}

fn measure(what: &str, units: [&'static str; 2], sides: &[Side; 2], pass: impl Fn(&Side) -> Passed) {
    let runs: Vec<[Passed; 2]> = (0..RUNS).map(|_| sides.each_ref().map(&pass)).collect();
    let print = |name: String, unit, value: fn(&Passed) -> f64| {
        let [many, few] = [0, 1].map(|side| runs.iter().map(|run| value(&run[side])).collect());
        Figure::host(name, unit, many, Some(Floor::RatioAtLeast(0.9))).against("10_forwards", few).print();
    };
    print(format!("forward_growth_{what}_cpu"), units[0], |passed| passed.worth);
    print(format!("forward_growth_{what}"), units[1], |passed| passed.rate);
}
