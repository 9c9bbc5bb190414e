//! The places where hypervisors other than KVM leave the boot arguments (router contract 1.1).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{boot::LIMIT, paths::Paths};

/// XenStore's node of an HVM machine, below its own folder.
const NODE: &str = "vm-data/cloudstack/init";
/// XenStore's longest value (`XENSTORE_PAYLOAD_MAX`), bytes.
const PAYLOAD: u32 = 4096;
/// Message kinds of XenStore's wire: a read and its answer, and a refusal.
const READ: u32 = 2;
const ERROR: u32 = 16;
/// The key of Hyper-V's key-value exchange, and the sizes of its records' two fields, bytes.
const KEY: &[u8] = b"cloudstack-vm-userdata";
const KEY_SIZE: usize = 512;
const VALUE_SIZE: usize = 2048;
/// For so long VMware's tool may take.
const TOOL: Duration = Duration::from_secs(5);

/// What the machine runs on, as far as it matters where its arguments come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hypervisor {
    /// XenServer and XCP-ng, HVM: a node of XenStore.
    Xen,
    /// VMware: `machine.id` of the VM, asked for by its tool.
    Vmware,
    /// Hyper-V: a record that its key-value daemon keeps.
    HyperV,
    /// KVM and all others: the guest agent writes the file itself.
    Other,
}

impl Hypervisor {
    /// Told by what the kernel and the firmware say of the machine.
    pub(super) fn of(paths: &Paths) -> Self {
        let word = |path: &str| fs::read_to_string(paths.at(path)).unwrap_or_default();
        let vendor = word("/sys/class/dmi/id/sys_vendor");
        if word("/sys/hypervisor/type").trim() == "xen" {
            Self::Xen
        } else if vendor.starts_with("VMware") {
            Self::Vmware
        } else if vendor.starts_with("Microsoft") {
            Self::HyperV
        } else {
            Self::Other
        }
    }

    /// The line of arguments, where the hypervisor has one by now. What goes wrong is logged: the next
    /// look may see more.
    pub(super) fn arguments(self, paths: &Paths) -> Option<String> {
        let found = match self {
            Self::Xen => xen(&paths.at("/dev/xen/xenbus")),
            Self::Vmware => vmware(paths),
            Self::HyperV => hyperv(&paths.at("/var/lib/hyperv/.kvp_pool_0")),
            Self::Other => return None,
        };
        let line = found.unwrap_or_else(|error| {
            tracing::info!(hypervisor = ?self, %error, "no boot arguments yet");
            None
        })?;
        let line = line.trim();
        super::super::arguments(line).contains_key("type").then(|| line.to_owned())
    }
}

fn xen(device: &Path) -> io::Result<Option<String>> {
    read_node(&mut OpenOptions::new().read(true).write(true).open(device)?, NODE)
}

/// Reads a node of XenStore: header of four words (kind, request, transaction, length) and a body.
fn read_node(bus: &mut (impl Read + Write), node: &str) -> io::Result<Option<String>> {
    let mut request = Vec::with_capacity(17 + node.len());
    let length = u32::try_from(node.len() + 1).map_err(io::Error::other)?;
    for word in [READ, 0, 0, length] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.extend_from_slice(node.as_bytes());
    request.push(0);
    bus.write_all(&request)?;
    let mut header = [[0; 4]; 4];
    bus.read_exact(header.as_flattened_mut())?;
    let [kind, _, _, length] = header.map(u32::from_ne_bytes);
    if length > PAYLOAD {
        return Err(io::Error::other(format!("XenStore answers with {length} bytes")));
    }
    let mut body = Vec::new();
    bus.take(length.into()).read_to_end(&mut body)?;
    let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
    match kind {
        READ => Ok(Some(text)),
        ERROR if text == "ENOENT" => Ok(None),
        _ => Err(io::Error::other(format!("XenStore answers {node} with kind {kind}: {text}"))),
    }
}

fn vmware(paths: &Paths) -> io::Result<Option<String>> {
    let answer = paths.run().join("machine.id");
    let output = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&answer)?;
    fs::remove_file(&answer)?;
    let mut tool = Command::new(paths.at("/usr/bin/vmware-rpctool"))
        .arg("machine.id.get")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let status = finish(&mut tool, TOOL)?;
    if !status.success() {
        return Ok(None);
    }
    text(output).map(Some)
}

/// Waits for a program, which is ended where it takes too long.
fn finish(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "VMware's tool does not end"));
        }
        sleep(Duration::from_millis(10));
    }
}

/// What a program has written into a file, at most as much as arguments may be long.
fn text(mut file: File) -> io::Result<String> {
    io::Seek::rewind(&mut file)?;
    let mut bytes = Vec::new();
    file.take(LIMIT as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn hyperv(pool: &Path) -> io::Result<Option<String>> {
    match File::open(pool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => {
            let mut bytes = Vec::new();
            file?.take(LIMIT as u64).read_to_end(&mut bytes)?;
            Ok(record(&bytes))
        }
    }
}

/// The value of our key in a pool of key-value records, each field padded with zeros.
fn record(pool: &[u8]) -> Option<String> {
    let field = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    pool.chunks_exact(KEY_SIZE + VALUE_SIZE)
        .map(|record| record.split_at(KEY_SIZE))
        .find(|(key, _)| field(key) == KEY)
        .map(|(_, value)| String::from_utf8_lossy(&field(value)).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixStream};

    use proptest::prelude::*;

    use super::*;

    fn answered(kind: u32, body: &[u8]) -> io::Result<Option<String>> {
        let (mut bus, mut store) = UnixStream::pair().unwrap();
        let body = body.to_vec();
        let store = std::thread::spawn(move || {
            let mut request = vec![0; 16 + NODE.len() + 1];
            store.read_exact(&mut request).unwrap();
            assert_eq!(request[..4], READ.to_ne_bytes());
            assert_eq!(&request[16..request.len() - 1], NODE.as_bytes());
            for word in [kind, 0, 0, u32::try_from(body.len()).unwrap()] {
                store.write_all(&word.to_ne_bytes()).unwrap();
            }
            store.write_all(&body).unwrap();
        });
        let answer = read_node(&mut bus, NODE);
        drop(bus);
        store.join().ok();
        answer
    }

    #[test]
    fn xenstore_answers_refuses_or_talks_nonsense() {
        assert_eq!(answered(READ, b"type=router%name=r-1").unwrap().unwrap(), "type=router%name=r-1");
        assert_eq!(answered(ERROR, b"ENOENT\0").unwrap(), None);
        assert!(answered(ERROR, b"EACCES\0").unwrap_err().to_string().contains("EACCES"));
        assert!(answered(READ, &[b'a'; 5000]).unwrap_err().to_string().contains("5000"));
    }

    fn paths() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for path in ["/sys/class/dmi/id", "/sys/hypervisor", "/usr/bin", "/var/lib/hyperv"] {
            fs::create_dir_all(paths.at(path)).unwrap();
        }
        fs::create_dir_all(paths.run()).unwrap();
        (folder, paths)
    }

    #[test]
    fn a_machine_says_what_it_runs_on() {
        let (_folder, paths) = paths();
        assert_eq!(Hypervisor::of(&paths), Hypervisor::Other);
        for (vendor, of) in [
            ("QEMU\n", Hypervisor::Other),
            ("VMware, Inc.\n", Hypervisor::Vmware),
            ("Microsoft Corporation\n", Hypervisor::HyperV),
        ] {
            fs::write(paths.at("/sys/class/dmi/id/sys_vendor"), vendor).unwrap();
            assert_eq!(Hypervisor::of(&paths), of, "{vendor}");
        }
        fs::write(paths.at("/sys/hypervisor/type"), "xen\n").unwrap();
        assert_eq!(Hypervisor::of(&paths), Hypervisor::Xen);
    }

    #[test]
    fn vmwares_tool_says_the_arguments() {
        let (_folder, paths) = paths();
        let tool = paths.at("/usr/bin/vmware-rpctool");
        let write = |script: &str| {
            fs::write(&tool, script).unwrap();
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        };
        assert_eq!(Hypervisor::Vmware.arguments(&paths), None, "there is no tool");
        write("#!/bin/sh\necho 'No machine id found'\nexit 1\n");
        assert_eq!(Hypervisor::Vmware.arguments(&paths), None);
        write("#!/bin/sh\n[ \"$1\" = machine.id.get ] && echo ' type=router name=r-1-VM'\n");
        assert_eq!(Hypervisor::Vmware.arguments(&paths).unwrap(), "type=router name=r-1-VM");
        assert!(!paths.run().join("machine.id").exists());
    }

    fn pool(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut pool = Vec::new();
        for (key, value) in records {
            let start = pool.len();
            pool.extend_from_slice(key);
            pool.resize(start + KEY_SIZE, 0);
            pool.extend_from_slice(value);
            pool.resize(start + KEY_SIZE + VALUE_SIZE, 0);
        }
        pool
    }

    #[test]
    fn hyperv_keeps_records() {
        let (_folder, paths) = paths();
        assert_eq!(Hypervisor::HyperV.arguments(&paths), None);
        let bytes = pool(&[(b"other", b"type=wrong"), (KEY, b"type=router name=r-1-VM nic_macs=02:00")]);
        fs::write(paths.at("/var/lib/hyperv/.kvp_pool_0"), &bytes).unwrap();
        assert_eq!(Hypervisor::HyperV.arguments(&paths).unwrap(), "type=router name=r-1-VM nic_macs=02:00");
        assert_eq!(record(&bytes[..bytes.len() - 1]), None, "a record that is not whole");
        assert_eq!(record(&pool(&[(KEY, &[b'x'; VALUE_SIZE])])).unwrap().len(), VALUE_SIZE);
    }

    proptest! {
        #[test]
        fn any_pool_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            prop_assert!(record(&bytes).is_none_or(|value| value.len() <= VALUE_SIZE * 3));
        }
    }
}
