//! SSH into a system VM, by the OpenSSH client: one connection a VM, used by all commands.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::HostError;

/// Port on which system VMs listen.
pub(super) const PORT: u16 = 3922;
/// Most that is kept of what a command prints.
const OUTPUT_LIMIT: u64 = 1024 * 1024;
/// How often a copy is tried.
const COPIES: u32 = 3;
const COPY_LIMIT: Duration = Duration::from_secs(300);

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// Exit code; `None` where it was ended by a signal.
    pub(super) code: Option<i32>,
    /// What it printed.
    pub(super) stdout: String,
    /// What it, or SSH, said on standard error.
    pub(super) stderr: String,
}

/// The way to one VM.
#[derive(Debug, Clone)]
pub(super) struct Ssh {
    /// Control address.
    pub(super) address: String,
    /// Key file.
    pub(super) key: PathBuf,
    /// Socket of the shared connection.
    pub(super) socket: PathBuf,
}

impl Ssh {
    fn options(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["-F", "none", "-i"].map(OsString::from).to_vec();
        words.push(self.key.clone().into());
        let socket = format!("ControlPath={}", self.socket.display());
        for option in [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            // A VM makes new host keys when its state is new; the wire to it is the host's own.
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=60",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=3",
            "ControlMaster=auto",
            "ControlPersist=300",
            &socket,
        ] {
            words.extend(["-o".into(), option.into()]);
        }
        words
    }

    /// Runs a command line in the VM. Exit code 255 means that SSH itself failed.
    pub(super) async fn run(&self, command: &str, limit: Duration) -> Result<Output, HostError> {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options()).args(["-p", &PORT.to_string()]);
        ssh.arg(format!("root@{}", self.address)).arg(command);
        // The command may hold a key: the error names its first word alone.
        collect(ssh, command.split(' ').next().unwrap_or_default(), limit).await
    }

    /// Copies files to a folder of the VM, by the old protocol that system VMs speak; each keeps its
    /// name and mode.
    pub(super) async fn copy(&self, files: &[PathBuf], folder: &str) -> Result<(), HostError> {
        let mut last = String::new();
        for attempt in 1..=COPIES {
            let mut scp = Command::new("scp");
            scp.args(["-O", "-q", "-P", &PORT.to_string()]).args(self.options());
            scp.args(files).arg(format!("root@{}:{folder}", self.address));
            match collect(scp, "scp", COPY_LIMIT).await {
                Ok(output) if output.code == Some(0) => return Ok(()),
                Ok(output) => last = format!("code {:?}: {}{}", output.code, output.stdout, output.stderr),
                Err(error) => last = error.to_string(),
            }
            tracing::warn!("copy to {}, attempt {attempt} of {COPIES}: {last}", self.address);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(HostError::Command { command: format!("scp to {}", self.address), reason: last })
    }

    /// Ends the shared connection, if there is one.
    pub(super) async fn close(&self) {
        if self.socket.exists() {
            let mut ssh = Command::new("ssh");
            ssh.args(self.options()).args(["-O", "exit", &self.address]);
            let _ = collect(ssh, "ssh -O exit", Duration::from_secs(5)).await;
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Waits until the VM's SSH server says who it is, at most `limit`.
    pub(super) async fn wait(&self, limit: Duration) -> Result<(), HostError> {
        let seen = timeout(limit, async {
            while !banner(&self.address).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        seen.await.map_err(|_| HostError::NoSsh { address: self.address.clone(), limit })
    }

    /// Makes sure that the VM answers ICMP echo: hosts ask for it before each command.
    pub(super) async fn ping(&self) -> Result<(), HostError> {
        for _ in 0..2 {
            let mut ping = Command::new("ping");
            ping.args(["-n", "-q", "-c", "1", "-W", "2", &self.address]);
            if collect(ping, "ping", Duration::from_secs(5)).await?.code == Some(0) {
                return Ok(());
            }
        }
        Err(HostError::NoEcho(self.address.clone()))
    }
}

/// One look. A server that takes the connection is given its time: it makes a process for each,
/// and more of them would only keep a busy VM from answering the first.
async fn banner(address: &str) -> bool {
    let connect = timeout(Duration::from_secs(3), TcpStream::connect((address, PORT)));
    let Ok(Ok(mut stream)) = connect.await else { return false };
    let mut start = [0; 4];
    let read = timeout(Duration::from_secs(60), stream.read_exact(&mut start)).await;
    matches!(read, Ok(Ok(_))) && start == *b"SSH-"
}

async fn collect(mut command: Command, what: &str, limit: Duration) -> Result<Output, HostError> {
    let fail = |reason: String| HostError::Command { command: what.to_owned(), reason };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr, status) = tokio::join!(text(stdout), text(stderr), child.wait());
        status.map(|status| Output { code: status.code(), stdout, stderr })
    };
    match timeout(limit, work).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail(format!("no end within {limit:?}"))),
    }
}

/// Reads to the end; what is beyond the limit is read and dropped, so that the other end may finish.
async fn text(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// A word as the shell of a VM takes it. The words of the contract need no quoting and get none.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%^~*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The folder of a path as an argument, with the slash that `scp -d` wants.
pub(super) fn cache() -> &'static str {
    "/var/cache/cloud/"
}

/// Where a command of the contract lies.
pub(super) fn script(name: &str) -> String {
    Path::new("/opt/cloud/bin").join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_bounded_and_the_command_may_finish() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 3000000 /dev/zero; echo end >&2; exit 3"]);
        let output = collect(command, "test", Duration::from_secs(20)).await.unwrap();
        assert_eq!(
            (output.code, output.stdout.len(), output.stderr.as_str()),
            (Some(3), 1024 * 1024, "end\n")
        );
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = collect(command, "sleep", Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
    }

    #[test]
    fn only_strange_words_are_quoted() {
        assert_eq!(quote("vm_dhcp_entry.json.0-1"), "vm_dhcp_entry.json.0-1");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("$(x)'"), "'$(x)'\\'''");
        assert_eq!(quote(""), "''");
    }
}
