//! Strangers that break the rules: VNC servers and websocket clients of many kinds, each decided by a number, so that
//! what fails can be tried again.

use std::{collections::BTreeMap, net::SocketAddr, ops::Range, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{LIMIT, Lab, PUBLIC, WORLD, until, viewer::Viewer};

/// Where they are.
const STRANGER: &str = "203.0.113.8";
/// Descriptors of the pipe that a thread of the proxy makes when it first needs one.
const PIPE: usize = 2;
/// Strangers at a time.
const AT_ONCE: usize = 16;
/// How long a client goes on with a server that says nothing more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// The next one.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.roll() as u8).collect()
    }
}

/// A length with which to frighten: honest, negative, too large.
fn length(dice: &mut Dice, honest: u32) -> [u8; 4] {
    let large = [honest, 0, 1, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 65_537, 1 << 24];
    dice.pick(&large).to_be_bytes()
}

/// A reason, of which the length may be a lie.
fn reason(dice: &mut Dice) -> Vec<u8> {
    let text = b"go \x1b[31maway\0";
    [&length(dice, text.len() as u32)[..], text].concat()
}

/// What a server says, part by part; before each it waits for so many bytes of the client.
fn server(dice: &mut Dice) -> Vec<(usize, Vec<u8>)> {
    let greetings: [&[u8]; 8] = [
        b"RFB 003.003\n",
        b"RFB 003.007\n",
        b"RFB 003.008\n",
        b"RFB 003.008\n",
        b"RFB 005.000\n",
        b"RFB 003.889\n",
        b"RFB 00x.008\n",
        b"SSH-2.0-Open\r\n",
    ];
    let greeting = dice.pick(&greetings);
    let mut parts = vec![(0, greeting.to_vec())];
    let kind = dice.pick(&[0_u8, 1, 1, 1, 2, 2, 19, 19, 16, 30, 255]);
    if greeting == b"RFB 003.003\n" {
        parts.push((12, u32::from(kind).to_be_bytes().to_vec()));
    } else if kind == 0 {
        parts.push((12, [vec![0], reason(dice)].concat()));
    } else {
        let others = dice.below(5);
        let offered = [&[kind][..], &dice.bytes(others)].concat();
        let count = dice.pick(&[offered.len() as u8, offered.len() as u8, 255, 1]);
        parts.push((12, [&[count][..], &offered].concat()));
    }
    if kind == 2 {
        parts.push((1, dice.bytes(16)));
        parts.push((16, Vec::new()));
    }
    if kind == 19 {
        parts.push((1, dice.pick(&[vec![0, 2], vec![0, 1], vec![9, 9], vec![0]])));
        parts.push((2, vec![dice.pick(&[0, 0, 1, 255])]));
        let kinds: Vec<u8> =
            (0..dice.below(4)).flat_map(|_| dice.pick(&[256_u32, 258, 260, 261]).to_be_bytes()).collect();
        parts.push((0, [&[dice.pick(&[(kinds.len() / 4) as u8, 255])][..], &kinds].concat()));
        parts.push((4, vec![dice.pick(&[0, 1, 1])]));
        // In the place of TLS.
        let count = dice.below(400);
        parts.push((0, dice.bytes(count)));
    }
    let result = dice.pick(&[0_u32, 0, 0, 1, 2, 0xffff_ffff]);
    parts.push((
        usize::from(kind == 1),
        [&result.to_be_bytes()[..], &if result == 0 { vec![] } else { reason(dice) }].concat(),
    ));
    let head = [&dice.bytes(4)[..], &[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]].concat();
    parts.push((1, [&head[..], &length(dice, 4), b"name"].concat()));
    let garbage = dice.pick(&[0, 3, 5000, 300_000]);
    parts.push((0, dice.bytes(garbage)));
    // Something goes wrong on the way as well.
    if dice.below(3) == 0 {
        let at = dice.below(parts.len());
        let part = &mut parts[at].1;
        match dice.below(3) {
            0 => part.truncate(part.len() / 2),
            1 if !part.is_empty() => {
                let place = dice.below(part.len());
                part[place] ^= 1 << dice.below(8);
            }
            _ => part.extend(dice.bytes(7)),
        }
        if dice.below(2) == 0 {
            parts.truncate(at + 1);
        }
    }
    parts
}

/// Serves connections, each by the next number. What it holds open it closes after a while.
async fn servers_at(listener: TcpListener, seeds: Range<u64>) {
    for seed in seeds {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        tokio::spawn(async move {
            let mut dice = Dice::new(seed);
            let parts = server(&mut dice);
            let slowly = dice.below(6) == 0;
            for (wanted, said) in parts {
                let mut heard = vec![0; wanted];
                // A client that takes another way says less, or nothing.
                if !matches!(timeout(PATIENCE, stream.read_exact(&mut heard)).await, Ok(Ok(_))) {
                    break;
                }
                for piece in said.chunks(if slowly && said.len() < 500 { 1 } else { 65_536 }) {
                    if stream.write_all(piece).await.is_err() {
                        return;
                    }
                    if slowly {
                        sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            match dice.below(4) {
                0 => drop(stream.shutdown().await),
                1 => {
                    // With a reset.
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("option");
                    return;
                }
                _ => {}
            }
            sleep(PATIENCE).await;
        });
    }
}

/// A viewer who goes on looking while strangers come; ends with an error where that is not so.
pub fn bystander(mut viewer: Viewer) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            viewer.picture().await;
            sleep(Duration::from_millis(500)).await;
        }
    })
}

/// Lets the proxy meet VNC servers of these numbers, and sees that each session ends and nothing stays behind.
///
/// # Panics
/// Where it does not.
pub async fn servers(lab: &Lab, seeds: Range<u64>) {
    let before = Before::taken(lab).await;
    let listener = TcpListener::bind((WORLD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("address").port();
    let count = seeds.end - seeds.start;
    let serving = tokio::spawn(servers_at(listener, seeds));
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let visits = stream::iter(0..count).map(|_| async move {
        let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
        let mut viewer = Viewer::open(&format!("token={token}"), STRANGER).await.expect("a websocket");
        let _ = viewer.socket.send(Message::binary([b"RFB 003.008\n", &[1, 1][..]].concat())).await;
        loop {
            match timeout(LIMIT, viewer.socket.next()).await.expect("the proxy ends it") {
                Some(Ok(Message::Close(frame))) => {
                    break frame.map_or_else(|| "no code".to_owned(), |frame| frame.code.to_string());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break "no frame".to_owned(),
            }
        }
    });
    let mut visits = std::pin::pin!(visits.buffer_unordered(AT_ONCE));
    while let Some(end) = visits.next().await {
        *ends.entry(end).or_default() += 1;
    }
    println!("{count} servers; ends by code: {ends:?}");
    assert!(!ends.contains_key("no frame") && !ends.contains_key("no code"), "{ends:?}");
    serving.await.expect("served");
    before.unchanged(lab, port, count as usize).await;
}

/// A frame as a browser sends it, without fear of what is in it.
fn frame(first: u8, masked: bool, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let mask = if masked { 0x80 } else { 0 };
    match length {
        0..126 => frame.push(mask | length as u8),
        126..65_536 => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend(length.to_be_bytes());
        }
    }
    if masked {
        frame.extend([1, 2, 3, 4]);
    }
    frame.extend(
        payload
            .iter()
            .zip([1, 2, 3, 4].into_iter().cycle())
            .map(|(byte, mask)| if masked { byte ^ mask } else { *byte }),
    );
    frame
}

fn honest(payload: &[u8]) -> Vec<u8> {
    frame(0x82, true, payload.len() as u64, payload)
}

/// What a client says once the screen is shown; whether the proxy has to end it for that.
fn client(dice: &mut Dice) -> (Vec<u8>, bool) {
    match dice.below(16) {
        0 => (frame(0x82, false, 5, b"hello"), true),
        1 => (frame(0x82 | dice.pick(&[0x10, 0x20, 0x40, 0x70]), true, 1, b"x"), true),
        2 => (frame(0x80 | dice.pick(&[3, 4, 7, 11, 15]), true, 0, b""), true),
        3 => (frame(0x82, true, dice.pick(&[65_537, 1 << 32, u64::MAX, 1 << 63]), b"x"), true),
        4 => (frame(dice.pick(&[0x08, 0x09, 0x0a]), true, 2, b"ab"), true),
        5 => (frame(0x89, true, 126, &[7; 126]), true),
        6 => (frame(0x81, true, 4, b"text"), true),
        7 => (frame(0x80, true, 1, b"x"), true),
        8 => ([frame(0x02, true, 1, b"\x04"), frame(0x82, true, 1, b"x")].concat(), true),
        9 => {
            let length = dice.pick(&[0, 1, 2, 40]);
            (frame(0x88, true, length, &vec![3; length as usize]), true)
        }
        // A storm of fragments, floods of pings whose answers nobody reads.
        10 => {
            let mut storm = frame(0x02, true, 1, b"\x04");
            (0..20_000).for_each(|_| storm.extend(frame(0x00, true, 0, b"")));
            (storm, false)
        }
        11 => ((0..4000).flat_map(|_| frame(0x89, true, 125, &[7; 125])).collect(), false),
        // Half a frame, and half a head.
        12 => (frame(0x82, true, 60_000, &[4; 100]), false),
        13 => (vec![0x82, 0xfe, 0], false),
        // What the machine's server may make of it.
        14 => (honest(&dice.bytes(2000)), false),
        _ => (dice.bytes(500), false),
    }
}

/// One client up to its end, which is told where the proxy has to bring it about.
async fn misbehave(lab: &Lab, port: u16, seed: u64) -> &'static str {
    let mut dice = Dice::new(seed);
    let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
    let socket = TcpSocket::new_v4().expect("socket");
    // One that reads slowly, or not at all.
    socket.set_recv_buffer_size(4096).expect("option");
    socket.bind(SocketAddr::new(STRANGER.parse().expect("address"), 0)).expect("an address of the world");
    let mut stream =
        socket.connect(format!("{PUBLIC}:8080").parse().expect("address")).await.expect("connected");
    let request = format!(
        "GET /websockify?token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let early = dice.below(4) == 0;
    let (bytes, ends) = client(&mut dice);
    // All at once, or after the handshake.
    let handshake = honest(&[b"RFB 003.008\n", &[1, 1][..]].concat());
    let mut whole = request.into_bytes();
    if !early {
        whole.extend_from_slice(&handshake);
    }
    if stream.write_all(&whole).await.is_err() {
        return "broken";
    }
    let mut answer = [0; 4096];
    let shown = !early && timeout(LIMIT, shown(&mut stream)).await.expect("in time");
    let flood = async {
        for piece in bytes.chunks(dice.pick(&[1, 7, 1000, 1 << 20])) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
        }
    };
    // Where the answers are not read, not all is taken.
    let _ = timeout(PATIENCE, flood).await;
    if (ends && shown) || early {
        let over = async { while matches!(stream.read(&mut answer).await, Ok(1..)) {} };
        timeout(LIMIT, over).await.unwrap_or_else(|_| panic!("client {seed} is not cut"));
        return "cut";
    }
    if dice.below(2) == 0 {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("option");
    }
    "left"
}

/// Reads up to the description of the screen.
async fn shown(stream: &mut TcpStream) -> bool {
    let mut got = Vec::new();
    let mut answer = [0; 4096];
    while !got.windows(6).any(|part| part == b"web 01") {
        match stream.read(&mut answer).await {
            Ok(count @ 1..) => got.extend_from_slice(&answer[..count]),
            _ => return false,
        }
    }
    true
}

/// Lets clients of these numbers meet the proxy before the screen at `port`, and sees that nothing stays behind.
///
/// # Panics
/// Where something does.
pub async fn clients(lab: &Lab, port: u16, seeds: Range<u64>) {
    let before = Before::taken(lab).await;
    let (count, mut ends) = (seeds.end - seeds.start, BTreeMap::<_, u32>::new());
    let visits = stream::iter(seeds).map(|seed| misbehave(lab, port, seed));
    let mut visits = std::pin::pin!(visits.buffer_unordered(AT_ONCE / 2));
    while let Some(end) = visits.next().await {
        *ends.entry(end).or_default() += 1;
    }
    println!("{count} clients: {ends:?}");
    before.unchanged(lab, port, 0).await;
}

/// What there was before strangers came.
struct Before {
    sessions: usize,
    descriptors: usize,
    kib: u64,
    removed: usize,
}

impl Before {
    async fn taken(lab: &Lab) -> Self {
        Self {
            sessions: open(lab).await,
            descriptors: lab.descriptors(),
            kib: lab.memory(),
            removed: lab.management.removed().len(),
        }
    }

    /// Waits until it is so again, and that many sessions have been reported as ended.
    async fn unchanged(self, lab: &Lab, port: u16, ended: usize) {
        until("their sessions are over", LIMIT, async || open(lab).await == self.sessions).await;
        println!("descriptors: {} before, {} now", self.descriptors, lab.descriptors());
        let most = self.descriptors + PIPE;
        until("their descriptors are closed", LIMIT, async || lab.descriptors() <= most).await;
        if ended > 0 {
            assert_eq!(lab.connections_to(port), 0);
            // A report names twenty of them at most.
            let long = LIMIT + Duration::from_millis(ended as u64 * 400);
            until("each end is reported", long, async || {
                lab.management.removed().len() == self.removed + ended
            })
            .await;
        }
        let kib = lab.memory();
        println!("memory: {} KiB before, {kib} KiB after", self.kib);
        assert!(kib < self.kib + 32 * 1024, "{} KiB before, {kib} KiB after", self.kib);
        let said = lab.core.output() + &lab.serve.output();
        assert!(!said.contains("panicked"), "{said}");
    }
}

async fn open(lab: &Lab) -> usize {
    lab.operator(&["sessions"]).await.stdout.lines().count() - 1
}
