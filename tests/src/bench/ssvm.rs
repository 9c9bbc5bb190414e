//! How files move: from the web into a folder and a bucket, and what that costs beside tools that do the same.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::storage::{
    CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, DownloadAnswer, DownloadCommand, DownloadStatus,
    ImageFormat, SecStorageSetupAnswer, SnapshotObjectTO, StoreRole,
};

use super::{Figure, Floor, Part, Where, processor_seconds};
use crate::lab::{
    Namespace, Process,
    ssvm::{
        Desk, Lab, WEB, in_lab, in_lab_with_s3,
        machine::{NFS, set_up, with_image},
        origin::{Act, Origin},
        s3::SECRET,
        template,
    },
};

/// Runs of each, in turns.
const RUNS: usize = 5;
/// Length of a file for a folder, bytes.
const FILE: u64 = 2 << 30;
/// Length of a file for a bucket, bytes.
const OBJECT: u64 = 512 << 20;
/// Length of a file for an export that a VM has mounted, bytes.
const MOUNTED: u64 = 64 << 20;
/// Length of the sparse source, bytes.
const SPARSE: u64 = 20 << 30;
/// Transfers at once.
const MANY: u8 = 50;
/// Length of the file of each of them, bytes.
const SMALL: u64 = 128 << 20;
/// Hosts that they come from, so that the bound on one host does not hold them back.
const HOSTS: u8 = 9;
/// What a source sends before it drops the connection, bytes.
const DROP: usize = 50 << 20;
/// Longest time for one transfer.
const LIMIT: Duration = Duration::from_secs(600);

const PARTS: [Part; 7] = [
    ("http_file", http_file),
    ("http_nfs", http_nfs),
    ("http_s3", http_s3),
    ("nfs_s3", nfs_s3),
    ("rss_one", rss_one),
    ("rss_fifty", rss_fifty),
    ("resume_waste", resume_waste),
];

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    super::run_parts(&PARTS, parts)
}

/// A web server beside the VM, and the folder that it serves.
struct Web {
    _server: Process,
    folder: PathBuf,
}

impl Web {
    fn start(lab: &Lab) -> Self {
        for n in 2..=HOSTS {
            lab.namespace.ip(&["addr", "add", &format!("203.0.113.{n}/24"), "dev", "lo"]);
        }
        Self::listen(&lab.namespace, lab.folder.path(), HOSTS)
    }

    /// At the first addresses of the public network.
    fn listen(namespace: &Namespace, root: &Path, hosts: u8) -> Self {
        let folder = root.join("web");
        fs::create_dir_all(&folder).expect("folder");
        let listen: String = (1..=hosts).map(|n| format!("listen 203.0.113.{n}:80; ")).collect();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {0}/pid; error_log {0}/log;\n\
             events {{}}\nhttp {{ access_log off; sendfile on; server {{ {listen} root {0}; }} }}\n",
            folder.display()
        );
        let file = root.join("nginx.conf");
        fs::write(&file, config).expect("configuration");
        let server = namespace.spawn("nginx", &["-c", file.to_str().expect("path")]);
        namespace.ok(&format!("until curl -s -o /dev/null http://{WEB}/; do sleep 0.05; done"));
        Self { _server: server, folder }
    }

    /// A file of bytes that no one can make smaller.
    fn file(&self, name: &str, bytes: u64) -> String {
        let path = self.folder.join(name);
        let mut random = fs::File::open("/dev/urandom").expect("urandom");
        let mut file = fs::File::create(&path).expect("file");
        std::io::copy(&mut std::io::Read::take(&mut random, bytes), &mut file).expect("bytes");
        file.sync_all().expect("sync");
        format!("http://{WEB}/{name}")
    }
}

/// Processor seconds of both halves so far.
fn cost(lab: &Lab) -> f64 {
    processor_seconds(lab.core.id()) + processor_seconds(lab.serve.id())
}

/// The most memory that both halves have had, MiB.
fn peak(lab: &Lab) -> f64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("figures");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1024.0
    };
    of(lab.core.id()) + of(lab.serve.id())
}

/// Downloads something to its end, and makes sure that it was brought.
async fn download(lab: &Desk, command: &DownloadCommand) {
    download_asking(lab, command, Duration::from_millis(20)).await;
}

/// The same, asked about every while.
async fn download_asking(lab: &Desk, command: &DownloadCommand, pause: Duration) {
    let begun = Instant::now();
    let mut answer: DownloadAnswer = lab.answer(command).await;
    let job = answer.job_id.clone().expect("a job");
    while matches!(answer.download_status, DownloadStatus::NotDownloaded | DownloadStatus::DownloadInProgress)
    {
        assert!(begun.elapsed() < LIMIT, "{answer:?}");
        tokio::time::sleep(pause).await;
        answer = lab.progress(command, &job, "GET_STATUS").await;
    }
    assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
    let _ = lab.progress(command, &job, "PURGE").await;
}

fn order(store: DataStoreTO, id: i64, url: &str) -> DownloadCommand {
    let mut command = template(store, id, url, ImageFormat::Raw);
    command.max_download_size_in_bytes = Some(64 << 30);
    command
}

/// Wall time of a line of the shell and the processor time of what it runs, seconds.
fn shell(lab: &Lab, line: &str) -> (f64, f64) {
    let mut command = lab.namespace.command("bash");
    let script = format!("set -eo pipefail; TIMEFORMAT='TOOK %R %U %S'; time {{ {line}; }}");
    let out = command.args(["-c", &script]).output().expect("bash");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{line}: {text}");
    let took = text.lines().find_map(|line| line.strip_prefix("TOOK ")).expect("times");
    let mut figures = took.split(' ').map(|n| n.parse::<f64>().expect("a figure"));
    let (wall, user, system) = (figures.next(), figures.next(), figures.next());
    (wall.expect("wall"), user.expect("user") + system.expect("system"))
}

fn remove(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).expect("to remove");
    }
}

/// From the web into a folder, beside a pipe of tools that reads, writes and sums the same bytes.
fn http_file() {
    in_lab(async |lab| {
        lab.ready().await;
        let web = Web::start(&lab);
        let url = web.file("disk.raw", FILE);
        let target = lab.file("a", "piped");
        let pipe = format!("curl -sf {url} | tee {0} | sha512sum >/dev/null; sync {0}", target.display());
        let (mut wall, mut cpu, mut peer_wall, mut peer_cpu) = (vec![], vec![], vec![], vec![]);
        for id in 0..RUNS {
            let (before, begun) = (cost(&lab), Instant::now());
            let id = 100 + i64::try_from(id).expect("small");
            download(&lab, &order(lab.nfs("a", StoreRole::Image), id, &url)).await;
            wall.push(begun.elapsed().as_secs_f64());
            cpu.push(cost(&lab) - before);
            remove(&lab.file("a", "template"));
            let (seconds, processor) = shell(&lab, &pipe);
            peer_wall.push(seconds);
            peer_cpu.push(processor);
            fs::remove_file(&target).expect("to remove");
        }
        let name = "curl|tee|sha512sum";
        Figure::host("http_file_wall", "s", wall, Some(Floor::RatioAtMost(1.1)))
            .against(name, peer_wall)
            .print();
        Figure::host("http_file_cpu", "s", cpu, Some(Floor::RatioAtMost(1.0)))
            .against(name, peer_cpu)
            .print();
    });
}

/// From the web into an export of a real NFS server, in a VM that has the tools of the pipe beside our programs.
fn http_nfs() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/out-debug");
    with_image(Some(&image), false, async |machine| {
        let _server = machine.nfs_server();
        let web = Web::listen(&machine.host, machine.folder.path(), 1);
        let url = web.file("disk.raw", MOUNTED);
        let set_up: SecStorageSetupAnswer = machine.answer(&set_up(&format!("nfs://{NFS}/export"))).await;
        let mount = format!("/mnt/SecStorage/{}", set_up.dir.expect("a folder"));
        // The shell has tools of these names inside; with their paths those of coreutils are meant.
        let pipe = format!(
            "set -eo pipefail; cd /usr/bin; begun=$(./date +%s%N); \
             ./curl -sf {url} | ./tee {mount}/piped | ./sha512sum >/dev/null; ./sync {mount}/piped; \
             ended=$(./date +%s%N); echo $((ended - begun)); ./rm {mount}/piped"
        );
        let (mut ours, mut peer) = (vec![], vec![]);
        // The first round of each only warms up.
        for round in 0..=RUNS {
            let id = 700 + i64::try_from(round).expect("small");
            let command = order(machine.nfs(), id, &url);
            let begun = Instant::now();
            // To be asked costs an emulated machine more than it costs others.
            download_asking(&machine, &command, Duration::from_millis(100)).await;
            ours.push(begun.elapsed().as_secs_f64());
            // What is above it the VM knows to be there.
            remove(&machine.exported().join(format!("template/tmpl/2/{id}")));
            let ran = machine.inside().run("/usr/bin/ash", &["-c", &pipe]);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            peer.push(ran.stdout.trim().parse::<f64>().expect("nanoseconds") / 1e9);
        }
        println!("# rounds of ours {ours:.1?}, of the pipe {peer:.1?}");
        let mut figure =
            Figure::host("http_nfs_wall", "s", ours.split_off(1), Some(Floor::RatioAtMost(1.15)));
        figure.place = Where::Vm;
        figure.against("curl|tee|sha512sum", peer.split_off(1)).print();
    });
}

/// The words that tell rclone of the bucket.
fn rclone(lab: &Lab, words: &str) -> String {
    let bucket = lab.bucket.as_ref().expect("a bucket");
    format!(
        "unset AWS_CA_BUNDLE; export RCLONE_CONFIG_X_TYPE=s3 RCLONE_CONFIG_X_PROVIDER=Ceph RCLONE_CONFIG_X_ACCESS_KEY_ID={} \
         RCLONE_CONFIG_X_SECRET_ACCESS_KEY={SECRET} RCLONE_CONFIG_X_ENDPOINT={} \
         RCLONE_CONFIG=/dev/null; rclone --s3-no-check-bucket {}",
        bucket.kind.access(),
        bucket.url(),
        words.replace("BUCKET", &format!("x:{}", bucket.name))
    )
}

/// MiB a second.
fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / f64::from(1 << 20) / seconds
}

fn clear(lab: &Lab) {
    let bucket = lab.bucket.as_ref().expect("a bucket");
    bucket.run(&lab.namespace, &["del", "-r", "-f", "--quiet", "BUCKET/"]);
}

/// Throughput into a bucket beside others' clients, and processor time beside the first of them.
#[derive(Default)]
struct Race {
    ours: Vec<f64>,
    cpu: Vec<f64>,
    rclone: Vec<f64>,
    rclone_cpu: Vec<f64>,
    s3cmd: Vec<f64>,
}

impl Race {
    fn peers(&mut self, lab: &Lab, by_rclone: &str, by_s3cmd: &str) {
        clear(lab);
        let (seconds, processor) = shell(lab, &rclone(lab, by_rclone));
        self.rclone.push(rate(OBJECT, seconds));
        self.rclone_cpu.push(processor);
        clear(lab);
        let bucket = lab.bucket.as_ref().expect("a bucket");
        let (seconds, _) = shell(lab, &bucket.line(by_s3cmd));
        self.s3cmd.push(rate(OBJECT, seconds));
        clear(lab);
    }

    fn print(self, name: &str) {
        let floor = Some(Floor::RatioAtLeast(0.9));
        Figure::host(name, "MiB/s", self.ours.clone(), floor).against("rclone", self.rclone).print();
        Figure::host(format!("{name}_cpu"), "s", self.cpu, None).against("rclone", self.rclone_cpu).print();
        Figure::host(format!("{name}_s3cmd"), "MiB/s", self.ours, None).against("s3cmd", self.s3cmd).print();
    }
}

/// From the web into a bucket.
fn http_s3() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let web = Web::start(&lab);
        let url = web.file("disk.raw", OBJECT);
        let mut race = Race::default();
        for id in 0..RUNS {
            let (before, begun) = (cost(&lab), Instant::now());
            download(&lab, &order(lab.s3(), 200 + i64::try_from(id).expect("small"), &url)).await;
            race.ours.push(rate(OBJECT, begun.elapsed().as_secs_f64()));
            race.cpu.push(cost(&lab) - before);
            race.peers(
                &lab,
                &format!("copyurl {url} BUCKET/piped"),
                &format!("--quiet put - BUCKET/piped < <(curl -sf {url})"),
            );
        }
        race.print("http_s3");
    });
}

fn snapshot(store: DataStoreTO, path: &str) -> DataTO {
    DataTO::Snapshot(Box::new(SnapshotObjectTO {
        path: Some(path.to_owned()),
        data_store: Some(store),
        id: 12,
        ..SnapshotObjectTO::default()
    }))
}

/// From a folder into a bucket.
fn nfs_s3() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let web = Web::start(&lab);
        web.file("disk.raw", OBJECT);
        let file = lab.file("a", "snapshots/2/31/disk");
        fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
        fs::rename(web.folder.join("disk.raw"), &file).expect("to move");
        let mut race = Race::default();
        for id in 0..RUNS {
            let command = CopyCommand {
                source: Some(snapshot(lab.nfs("a", StoreRole::ImageCache), "snapshots/2/31/disk")),
                destination: Some(snapshot(lab.s3(), &format!("snapshots/2/{id}"))),
                ..CopyCommand::default()
            };
            let (before, begun) = (cost(&lab), Instant::now());
            let answer: CopyCmdAnswer = lab.answer(&command).await;
            assert!(answer.answer.result, "{answer:?}");
            race.ours.push(rate(OBJECT, begun.elapsed().as_secs_f64()));
            race.cpu.push(cost(&lab) - before);
            let from = file.display();
            race.peers(
                &lab,
                &format!("copyto {from} BUCKET/copied"),
                &format!("--quiet put {from} BUCKET/copied"),
            );
        }
        race.print("nfs_s3");
    });
}

/// Memory with one large transfer.
fn rss_one() {
    in_lab(async |lab| {
        lab.ready().await;
        let web = Web::start(&lab);
        let file = fs::File::create(web.folder.join("sparse.raw")).expect("file");
        file.set_len(SPARSE).expect("length");
        let url = format!("http://{WEB}/sparse.raw");
        download(&lab, &order(lab.nfs("a", StoreRole::Image), 400, &url)).await;
        Figure::host("rss_one", "MiB", vec![peak(&lab)], Some(Floor::AtMost(64.0))).print();
    });
}

/// Memory with many transfers at once, half of them into a bucket.
fn rss_fifty() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let web = Web::start(&lab);
        web.file("small.raw", SMALL);
        let (mut commands, mut jobs) = (vec![], vec![]);
        for n in 0..MANY {
            let store = if n % 2 == 0 { lab.nfs("a", StoreRole::Image) } else { lab.s3() };
            let url = format!("http://203.0.113.{}/small.raw", 1 + n % HOSTS);
            commands.push(order(store, 500 + i64::from(n), &url));
        }
        let begun = Instant::now();
        let firsts = commands.iter().map(|command| lab.answer::<_, DownloadAnswer>(command));
        for first in futures_util::future::join_all(firsts).await {
            jobs.push(first.job_id.expect("a job"));
        }
        for (command, job) in commands.iter().zip(&jobs) {
            loop {
                let answer = lab.progress(command, job, "GET_STATUS").await;
                match answer.download_status {
                    DownloadStatus::Downloaded => break,
                    DownloadStatus::NotDownloaded | DownloadStatus::DownloadInProgress => {}
                    _ => panic!("{answer:?}"),
                }
                assert!(begun.elapsed() < LIMIT, "{answer:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let all = rate(SMALL * u64::from(MANY), begun.elapsed().as_secs_f64());
        Figure::host("rss_fifty", "MiB", vec![peak(&lab)], Some(Floor::AtMost(256.0))).print();
        Figure::host("rate_fifty", "MiB/s", vec![all], None).print();
    });
}

/// Bytes that are read again after a connection was dropped.
fn resume_waste() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let mut random = fs::File::open("/dev/urandom").expect("urandom");
        let mut bytes = vec![0; 512 << 20];
        std::io::Read::read_exact(&mut random, &mut bytes).expect("bytes");
        let file = Arc::new(bytes);
        for (name, store) in [("resume_waste", lab.nfs("a", StoreRole::Image)), ("resume_waste_s3", lab.s3())]
        {
            let origin = Origin::start(vec![Act::Cut(Arc::clone(&file), DROP)]).await;
            download(&lab, &order(store, 600, &format!("{}/disk.raw", origin.url))).await;
            let from = |head: &String| {
                let range = head.split("range: bytes=").nth(1)?.split('-').next()?;
                range.parse::<usize>().ok()
            };
            let mut waste = vec![];
            let mut end = 0;
            for start in origin.requests().iter().map(|head| from(head).unwrap_or(0)) {
                waste.push((end.max(start) - start) as f64 / f64::from(1 << 20));
                end = file.len().min(start + DROP);
            }
            assert!(waste.len() >= file.len() / DROP && end == file.len(), "{} requests", waste.len());
            let most = waste.into_iter().fold(0.0, f64::max);
            Figure::host(name, "MiB", vec![most], Some(Floor::AtMost(8.0))).print();
        }
    });
}
