//! A change by the whole way of a host: the documents by `scp`, then the commands by `ssh`, to an sshd with
//! the configuration that a boot writes and the shim behind it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::boot::{self, Facts, Identity};

use super::{
    super::Figure,
    changes::{Full, KINDS, milliseconds},
    lab::Lab,
};
use crate::lab::{Process, binary, wait_until};

/// Changes of each kind.
const EACH: u32 = 5;
/// Where the router's control NIC is.
const CONTROL: &str = "169.254.10.20";

/// An sshd in a router, and the key that it takes.
struct Server {
    folder: tempfile::TempDir,
    _sshd: Process,
}

impl Server {
    fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let config = folder.path().join("sshd_config");
        fs::write(&config, configuration(lab, folder.path())).expect("configuration");
        fs::create_dir_all("/run/sshd").expect("folder");
        let sshd = lab.router.spawn("/usr/sbin/sshd", &["-D", "-e", "-f", &config.display().to_string()]);
        wait_until("sshd", Duration::from_secs(30), || {
            lab.router.sh("ss -Hlnt sport = :3922").stdout.len() > 1
        });
        Self { folder, _sshd: sshd }
    }

    /// A client of OpenSSH on the host's side, with the key.
    fn client(&self, lab: &Lab, program: &str) -> Command {
        let mut command = lab.host.command(program);
        let known = format!("UserKnownHostsFile={}", self.folder.path().join("known").display());
        command.args(["-q", "-F", "/dev/null", "-o", "Port=3922", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", &known, "-o", "IdentitiesOnly=yes", "-i"]).arg(self.folder.path().join("client"));
        command
    }
}

/// What the boot writes, but for the keys and root's login shell.
fn configuration(lab: &Lab, folder: &Path) -> String {
    let (host, client) = (key(folder, "host"), key(folder, "client"));
    let line = fs::read_to_string(lab.paths.cmdline()).expect("boot arguments");
    let plan = boot::plan(&Identity::parse(&line).expect("boot arguments"), &Facts::default());
    let text = &plan.files.iter().find(|file| file.path == "/etc/ssh/sshd_config").expect("its text").text;
    let own = ["HostKey ", "AuthorizedKeysFile "];
    let kept: Vec<&str> =
        text.lines().filter(|line| !own.iter().any(|word| line.starts_with(word))).collect();
    format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nSetEnv TRIVIUM_ROOT={}\n\
         ForceCommand exec {} -c \"$SSH_ORIGINAL_COMMAND\"\n{}\n",
        host.display(),
        client.with_extension("pub").display(),
        lab.paths.root().display(),
        binary("shim").display(),
        kept.join("\n"),
    )
}

/// Makes a key; its public half is beside it.
fn key(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen (package openssh-client)").success());
    path
}

fn succeed(mut command: Command) {
    let out = command.output().expect("a client of OpenSSH");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Measures changes with `count` of their kind present.
pub(super) fn run(count: u32) {
    let full = Full::new(count);
    let servers = full.labs().map(Server::start);
    let mut took = vec![];
    for round in 0..EACH {
        for kind in KINDS {
            let (lab, names) = full.place(kind, round);
            let server = if std::ptr::eq(lab, full.labs()[0]) { &servers[0] } else { &servers[1] };
            // Documents come from the host: what lies in place is taken out again.
            let files = names.iter().map(|name| {
                let file = server.folder.path().join(name);
                fs::rename(lab.paths.cache().join(name), &file).expect("a document");
                file
            });
            let files: Vec<PathBuf> = files.collect();
            let start = Instant::now();
            for (name, file) in names.iter().zip(files) {
                let mut copy = server.client(lab, "scp");
                copy.arg("-O").arg(file).arg(format!("root@{CONTROL}:/var/cache/cloud/"));
                succeed(copy);
                let mut command = server.client(lab, "ssh");
                command.arg(format!("root@{CONTROL}"));
                command.arg(format!("/opt/cloud/bin/update_config.py {name} false"));
                succeed(command);
            }
            took.push(milliseconds(start.elapsed()));
        }
    }
    Figure::host("change_ssh", "ms", took, None).print();
}
