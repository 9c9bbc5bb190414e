//! One `manage serve` with 500, 1,000 and 2,000 hosts, each with a router: 200 commands a second through its control
//! socket to routers of all hosts in turn, while all ping every 10 s.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::{
    bench::{Figure, Floor, processor_seconds},
    lab::{Namespace, Process, binary, wait_until},
    zone::simulated::{Crowd, join},
};

/// Longest wait for all of them to be up and ready, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// How long commands are sent.
const LOAD: Duration = Duration::from_secs(30);
/// Between two commands: 200 a second.
const BETWEEN: Duration = Duration::from_millis(5);
/// Between two pings of a host.
const PING: Duration = Duration::from_secs(10);
/// Runs of the measurement itself.
const RUNS: usize = 3;
/// Where the manager listens.
const MANAGER: &str = "10.10.0.1:8250";

pub(super) fn measure() {
    for count in [500, 1_000, 2_000] {
        // A thread and a namespace for each.
        let one = std::thread::spawn(move || with(count));
        one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

fn zone(count: usize) -> String {
    let mut zone = String::from(
        "[zone]\nname = \"crowd\"\ndns = [\"192.0.2.53\"]\nping_interval = 10\n\
         [system]\nimage = \"none.qcow2\"\nssvm = false\ncpvm = false\n\
         [management]\naddress = \"10.10.0.1\"\nbridge = \"br-mgmt\"\ncidr = \"10.10.0.0/16\"\n\
         gateway = \"10.10.0.1\"\nrange = \"10.10.250.1-10.10.250.99\"\npage = \"\"\n\
         [control]\nbridge = \"cloud0\"\n\
         [public]\nbridge = \"br-public\"\ncidr = \"198.18.0.0/16\"\ngateway = \"198.18.0.1\"\n\
         range = \"198.18.1.0-198.18.99.255\"\n",
    );
    for n in 0..count {
        let (high, low) = (1 + n / 250, 1 + n % 250);
        let _ = write!(
            zone,
            "[[host]]\nname = \"h{n}\"\naddress = \"10.10.{high}.{low}\"\n\
             [[network]]\nname = \"net{n}\"\nbridge = \"br{n}\"\ncidr = \"10.1.1.0/24\"\ngateway = \"10.1.1.1\"\n\
             domain = \"net{n}.example\"\n"
        );
    }
    zone
}

fn serve(net: &Namespace, dir: &Path) -> Process {
    let (file, state) = (dir.join("zone.toml"), dir.join("m"));
    let words =
        ["serve", "--zone", file.to_str().expect("a path"), "--state", state.to_str().expect("a path")];
    net.spawn(binary("manage"), &words)
}

fn with(count: usize) {
    let net = Namespace::new("crowd");
    net.ip(&["route", "add", "local", "10.10.0.0/16", "dev", "lo"]);
    let dir = tempfile::Builder::new().prefix("tc").tempdir_in("/var/tmp").expect("a folder");
    std::fs::write(dir.path().join("zone.toml"), zone(count)).expect("the zone file");
    let mut manager = serve(&net, dir.path());
    let (joins, socket) = (dir.path().join("m/join"), dir.path().join("m/manage.sock"));
    let written = || std::fs::read_dir(&joins).into_iter().flatten().count();
    wait_until("the files to join with", LIMIT, || written() == count && socket.exists());
    net.enter();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let scratch = dir.path().join("agents");
        std::fs::create_dir(&scratch).expect("a folder");
        let members = join(&joins, &scratch, PING).await;
        let begun = Instant::now();
        let crowd = Crowd::connect(members, MANAGER.parse().expect("an address"));
        until("all hosts are up", || crowd.ready() == count).await;
        let up = begun.elapsed();
        let routers = ready(&socket, count).await;
        let prepared = begun.elapsed();
        println!("# agents: {count} hosts up after {up:.1?}, their routers ready after {prepared:.1?}");

        let (mut late, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (before, start) = (processor_seconds(manager.id()), Instant::now());
            let mut times = load(&socket, &routers).await;
            cpu.push((processor_seconds(manager.id()) - before) / start.elapsed().as_secs_f64());
            memory.push(resident(manager.id()));
            times.sort_by(f64::total_cmp);
            println!(
                "# agents: {count} hosts, {} commands, median {:.2} ms",
                times.len(),
                times[times.len() / 2]
            );
            late.push(times[times.len() * 99 / 100]);
        }
        assert_eq!(crowd.ready(), count, "all of them stayed");
        let floor = |limit: f64| (count == 2_000).then_some(Floor::AtMost(limit));
        let figure = |name: &str, unit, values, limit| {
            Figure::host(format!("agents_{count}_{name}"), unit, values, floor(limit)).print();
        };
        figure("p99", "ms", late, 50.0);
        figure("cpu", "cores", cpu, 1.0);
        figure("memory", "MiB", memory, 512.0);

        // The manager is killed: all come back, and nothing is done to any VM.
        manager.kill();
        until("all have noticed", || crowd.ready() == 0).await;
        let begun = Instant::now();
        manager = serve(&net, dir.path());
        until("all hosts are up again", || crowd.ready() == count).await;
        figure("back", "s", vec![begun.elapsed().as_secs_f64()], f64::MAX);
    });
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all routers are ready; their names.
async fn ready(socket: &Path, count: usize) -> Vec<String> {
    let start = Instant::now();
    loop {
        let status = ask(socket, &json!({"do": "status"})).await;
        let vms = status["vms"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> = vms
            .iter()
            .filter(|vm| vm["state"] == "ready")
            .filter_map(|vm| Some(vm["name"].as_str()?.to_owned()))
            .collect();
        if names.len() == count {
            return names;
        }
        assert!(
            start.elapsed() < LIMIT,
            "{} of {count} routers are ready: {}",
            names.len(),
            status["events"]
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Sends commands for a while, one every so often whether others have ended or not; milliseconds of each.
async fn load(socket: &Path, routers: &[String]) -> Vec<f64> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut ticks = tokio::time::interval(BETWEEN);
    let mut tasks = tokio::task::JoinSet::new();
    let count = usize::try_from(LOAD.as_millis() / BETWEEN.as_millis()).expect("a count");
    for number in 0..count {
        let due = ticks.tick().await;
        let (socket, times) = (socket.to_owned(), times.clone());
        let vm = routers[number * 7919 % routers.len()].clone();
        tasks.spawn(async move {
            let request = json!({"do": "run", "vm": vm, "script": "status", "arguments": []});
            let answer = ask(&socket, &request).await;
            assert_eq!(answer["stdout"], "done", "{answer}");
            times.lock().expect("the times").push(due.elapsed().as_secs_f64() * 1000.0);
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a command");
    }
    Arc::try_unwrap(times).expect("all have ended").into_inner().expect("the times")
}

/// What the manager answers.
async fn ask(socket: &Path, request: &Value) -> Value {
    let stream = UnixStream::connect(socket).await.expect("the control socket");
    let (read, mut write) = stream.into_split();
    write.write_all(format!("{request}\n").as_bytes()).await.expect("a request");
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.expect("a reply") {
        let mut reply: Value = serde_json::from_str(&line).expect("JSON");
        if let Some(done) = reply.get_mut("done") {
            return done.take();
        }
        assert!(reply.get("progress").is_some(), "{reply}");
    }
    panic!("the manager hung up")
}

/// MiB of memory of a process.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("figures of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024.0
}
