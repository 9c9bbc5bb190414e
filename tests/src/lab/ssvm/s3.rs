//! Real S3 servers, one of a kind for all tests of the suite, on a network that each lab joins.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::lab::{Namespace, join, run_id};

/// Address of each server.
pub const ADDRESS: &str = "10.1.2.9";
const ACCESS: &str = "SUITEACCESSKEY";
pub const SECRET: &str = "secret-of-the-suite";

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ceph's gateway.
    Ceph,
    /// OpenStack Swift.
    Swift,
}

static CEPH: OnceLock<(Namespace, PathBuf)> = OnceLock::new();
static SWIFT: OnceLock<(Namespace, PathBuf)> = OnceLock::new();

impl Kind {
    /// The port that it serves at.
    pub const fn port(self) -> u16 {
        match self {
            Self::Ceph => 7480,
            Self::Swift => 8080,
        }
    }

    /// The key that goes with [`SECRET`].
    pub fn access(self) -> String {
        match self {
            Self::Ceph => ACCESS.to_owned(),
            Self::Swift => format!("zone:{ACCESS}"),
        }
    }

    /// The server, which is started where it does not run yet, and its folder.
    fn server(self) -> &'static (Namespace, PathBuf) {
        match self {
            Self::Ceph => CEPH.get_or_init(|| start("s3")),
            Self::Swift => SWIFT.get_or_init(|| start("swift")),
        }
    }
}

static LABS: AtomicU8 = AtomicU8::new(20);

/// Ends the server when process `$1` has gone, however it went: nothing drops a static.
const WATCH: &str = "tail --pid=$1 -s 0.5 -f /dev/null
for pid in $(ip netns pids $2); do kill -9 $pid; done
ip netns del $2; rm -rf $3";

/// A bucket of a lab's own.
pub struct Bucket {
    pub name: String,
    pub kind: Kind,
}

/// Starts the server where it does not run yet, joins its network, and makes an empty bucket. To be called before the
/// thread enters a lab's namespace: all that runs there ends with the lab.
pub fn bucket(kind: Kind, lab: &Namespace) -> Bucket {
    let (server, _) = kind.server();
    let number = LABS.fetch_add(1, Ordering::Relaxed);
    let port = format!("lab{number}");
    join(lab, "store", server, &port);
    server.attach("br0", &port);
    lab.address("store", &format!("10.1.2.{number}/24"));
    let name = format!("suite-{number}");
    let bucket = Bucket { name, kind };
    lab.hosts(&bucket.names());
    bucket.run(lab, &["mb", "BUCKET"]);
    bucket
}

/// What was asked of Ceph, by anybody, so far.
pub fn log() -> String {
    let (_, folder) = CEPH.get().expect("a server");
    std::fs::read_to_string(folder.join("log/client.rgw.a.log")).expect("its log")
}

fn start(name: &str) -> (Namespace, PathBuf) {
    let mut namespace = Namespace::new(name);
    namespace.keep();
    let folder = std::env::temp_dir().join(format!("trivium-s3-{}", run_id()));
    let watched = Command::new("setsid")
        .args(["--fork", "sh", "-c", WATCH, "watch", &std::process::id().to_string(), namespace.name()])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(watched.success());
    namespace.bridge("br0");
    namespace.address("br0", &format!("{ADDRESS}/24"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("stores").join(name);
    let out = namespace.command(script).arg(&folder).args([ADDRESS, ACCESS, SECRET]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (namespace, folder)
}

impl Bucket {
    /// What the lab's programs know by name: the server, and in front of it this bucket alone.
    pub fn names(&self) -> String {
        format!("{ADDRESS} s3.example {}.s3.example", self.name)
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("http://{ADDRESS}:{}", self.kind.port())
    }

    /// A line for a shell that runs `s3cmd`, a client that is not ours.
    pub fn line(&self, words: &str) -> String {
        let (server, access) = (format!("{ADDRESS}:{}", self.kind.port()), self.kind.access());
        let words = words.replace("BUCKET", &format!("s3://{}", self.name));
        format!(
            "s3cmd --config=/dev/null --no-ssl --no-progress --host {server} --host-bucket {server} \
             --access_key {access} --secret_key {SECRET} {words}"
        )
    }

    /// Runs `s3cmd` with these words; `BUCKET` stands for the URL of the bucket. What it printed.
    pub fn run(&self, lab: &Namespace, words: &[&str]) -> Vec<u8> {
        let out = lab.sh(&self.line(&words.join(" ")));
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }
}
