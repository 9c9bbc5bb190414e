//! The management end of the zone, used as an operator uses it: by its command line.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{network::Network, report::Failure, servers::checkout};
use crate::lab::{Process, wait_until};

/// `manage serve` and `manage host`, running in the host's namespace.
#[derive(Debug)]
pub struct Manage {
    program: PathBuf,
    namespace: String,
    state: PathBuf,
    host: PathBuf,
    /// Keep the zone as its file says.
    pub serve: Process,
    /// Run the VMs.
    pub agent: Process,
}

impl Manage {
    /// Starts both for `image/zone.toml`, with their state below `dir`.
    pub fn start(network: &Network, dir: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe()?.with_file_name("manage");
        let (state, host) = (dir.join("manage"), dir.join("host"));
        let zone = checkout().join("image/zone.toml");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let serve =
            network.host.spawn(&program, &["serve", "--zone", &text(&zone), "--state", &text(&state)]);
        let token = state.join("join/host1.json");
        wait_until("the file with which the host joins", Duration::from_secs(30), || token.exists());
        let agent = network.host.spawn(&program, &["host", "--join", &text(&token), "--state", &text(&host)]);
        Ok(Self { program, namespace: network.host.name().to_owned(), state, host, serve, agent })
    }

    /// Starts both again, after their end.
    pub fn restart(&mut self, network: &Network) {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let zone = checkout().join("image/zone.toml");
        let words = ["serve", "--zone", &text(&zone), "--state", &text(&self.state)];
        self.serve = network.host.spawn(&self.program, &words);
        // A host that has joined needs no token.
        let token = self.state.join("join/host1.json");
        let words = ["host", "--join", &text(&token), "--state", &text(&self.host)];
        self.agent = network.host.spawn(&self.program, &words);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(&self.program).args(words);
        command.arg("--state").arg(&self.state);
        command
    }

    fn json(&self, words: &[&str]) -> Result<Value, Failure> {
        let out = self.command(words).arg("--json").output()?;
        if !out.status.success() {
            // Progress comes before the reason, which is the last line.
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            return Err(said.trim().lines().last().unwrap_or("no reason").into());
        }
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// What `manage status` prints for people.
    pub fn overview(&self) -> String {
        self.command(&["status"])
            .output()
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default()
    }

    /// Waits until everything is ready.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), Failure> {
        let out = self.command(&["status", "--wait", &limit.as_secs().to_string()]).output()?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
            .into())
    }

    /// The VM that belongs to a guest or network of that name, or has that kind.
    pub fn vm(&self, name: &str) -> Result<Value, Failure> {
        let status = self.json(&["status"])?;
        let vms = status["vms"].as_array().cloned().unwrap_or_default();
        vms.into_iter()
            .find(|vm| vm["kind"] == name || (vm["kind"] == "guest" && vm["owner"] == name))
            .ok_or_else(|| format!("no VM for {name}: {status}").into())
    }

    /// The name of the VM, such as `r-1-VM`.
    pub fn name(&self, name: &str) -> Result<String, Failure> {
        let vm = self.vm(name)?;
        vm["name"].as_str().map(str::to_owned).ok_or_else(|| format!("no name: {vm}").into())
    }

    /// The folder that the host keeps for the VM.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        Ok(self.host.join("vm").join(self.name(name)?))
    }

    /// `scp` from the host: puts a file into a system VM, or fetches one (`down`).
    pub fn copy(&self, vm: &str, down: bool, here: &Path, there: &str) -> Result<(), Failure> {
        let nics = self.vm(vm)?["nics"].as_array().cloned().unwrap_or_default();
        let control = nics.iter().find(|nic| nic["traffic"] == "Control");
        let address = control.and_then(|nic| nic["address"].as_str()).ok_or("no control NIC")?.to_owned();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "scp", "-q", "-P", "3922", "-i"]);
        command.arg(self.host.join("id_rsa"));
        for option in
            ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        {
            command.args(["-o", option]);
        }
        let (here, there) = (here.display().to_string(), format!("root@{address}:{there}"));
        let out = command.args(if down { [there, here] } else { [here, there] }).output()?;
        if out.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).into_owned().into())
        }
    }

    /// The process of the VM's QEMU.
    pub fn qemu(&self, name: &str) -> Result<u64, Failure> {
        let file = self.folder(name)?.join("qemu.pid");
        Ok(std::fs::read_to_string(file)?.trim().parse()?)
    }

    /// The file with what a VM of the host wrote to its serial line.
    pub fn serial_log(&self, name: &str) -> PathBuf {
        self.folder(name).unwrap_or_default().join("serial.log")
    }

    /// Registers a template and waits until it is in the store.
    pub fn register(&self, name: &str, url: &str, sha256: &str, store: &str) -> Result<Value, Failure> {
        let checksum = format!("{{SHA-256}}{sha256}");
        self.json(&[
            "template",
            "register",
            "--name",
            name,
            "--url",
            url,
            "--checksum",
            &checksum,
            "--store",
            store,
        ])
    }

    /// Copies a snapshot to a folder of another store; returns its path there.
    pub fn copy_snapshot(&self, from: &str, to: &str) -> Result<String, Failure> {
        let copied = self.json(&["snapshot", "copy", from, to])?;
        copied["path"].as_str().map(str::to_owned).ok_or_else(|| format!("no path: {copied}").into())
    }

    /// A console URL, good once; `look`: none, or `--view-only`, or `--picture`.
    pub fn console_url(&self, guest: &str, look: &[&str]) -> Result<String, Failure> {
        let made = self.json(&[&["console-url", guest], look].concat())?;
        made["url"].as_str().map(str::to_owned).ok_or_else(|| format!("no URL: {made}").into())
    }

    /// `manage vm stop` or `manage vm start` of a system VM.
    pub fn vm_order(&self, order: &str, vm: &str) -> Result<Value, Failure> {
        self.json(&["vm", order, vm])
    }

    /// Runs a command of a system VM, such as `status`, and returns what it printed.
    pub fn run(&self, vm: &str, words: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(&self.program);
        command.args(["vm", "run", "--state"]).arg(&self.state).arg(vm).args(words);
        let out = command.output()?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&out.stderr).into_owned().into())
    }

    /// The command an operator types for the running zone.
    pub fn by_hand(&self) -> String {
        format!(
            "ip netns exec {} {} … --state {}",
            self.namespace,
            self.program.display(),
            self.state.display()
        )
    }

    /// Lets both run on after the end of this process.
    pub fn keep(&mut self) {
        self.serve.keep();
        self.agent.keep();
    }
}
