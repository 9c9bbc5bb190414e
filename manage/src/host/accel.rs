//! Whether KVM works here. That `/dev/kvm` opens says little: inside some clouds it opens, the
//! firmware runs, and no kernel boots. So a kernel is booted under it, and has five seconds for its
//! first line.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use super::qemu::QEMU;

/// Time for the first line.
const LIMIT: Duration = Duration::from_secs(5);

/// How QEMU runs VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation: some ten times slower.
    Tcg,
}

impl Accelerator {
    /// QEMU's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Boots `kernel`, else a kernel of this host, under KVM.
pub(super) async fn probe(kernel: Option<&Path>) -> Accelerator {
    if !Path::new("/dev/kvm").exists() {
        return Accelerator::Tcg;
    }
    let Some(kernel) = kernel.map(Path::to_owned).or_else(own_kernel) else {
        tracing::warn!("no kernel to try KVM with; the zone file may name one in system.kernel");
        return Accelerator::Tcg;
    };
    match tokio::time::timeout(LIMIT, first_line(&kernel)).await {
        Ok(true) => Accelerator::Kvm,
        Ok(false) | Err(_) => Accelerator::Tcg,
    }
}

fn own_kernel() -> Option<PathBuf> {
    let kernels = std::fs::read_dir("/boot").ok()?.flatten().map(|entry| entry.path());
    kernels.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))).max()
}

/// Whether a kernel said something.
async fn first_line(kernel: &Path) -> bool {
    let child = Command::new(QEMU)
        .args(["-accel", "kvm", "-cpu", "host", "-machine", "pc", "-m", "256", "-nodefaults"])
        .args(["-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else { return false };
    let Some(stdout) = child.stdout.take() else { return false };
    let mut output = BufReader::new(stdout.take(64 * 1024));
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return false,
            Ok(_) if is_kernel(&line) => return true,
            Ok(_) => {}
        }
    }
}

/// Lines of a kernel begin with a time in square brackets. The firmware's do not.
fn is_kernel(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let timed = text.trim().strip_prefix('[').and_then(|rest| rest.split_once(']'));
    timed.is_some_and(|(time, _)| time.trim().parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_counts() {
        assert!(is_kernel(b"[    0.000000] Linux version 6.1.0\r\n"));
        assert!(!is_kernel(b"SeaBIOS (version 1.16.2)\r\n"));
        assert!(!is_kernel(b"\x1b[2J[x] \xff\xff\n"));
        assert!(!is_kernel(b"Booting from Hard Disk...\r\n"));
    }
}
