//! Bridges and taps of the network namespace that this program runs in, by the `ip` command.

use std::{path::Path, process::Stdio, time::Duration};

use common::command::host::{Traffic, VirtualMachine};
use tokio::process::Command;

use super::HostError;
use crate::machine::tap;

/// Address of every host on its control network (router contract 1.5).
const CONTROL: &str = "169.254.0.1/16";
const LIMIT: Duration = Duration::from_secs(10);

/// Makes what bridges are missing, and a tap for each NIC, all up.
pub(super) async fn plug(vm: &VirtualMachine) -> Result<(), HostError> {
    for nic in &vm.nics {
        bridge(&nic.bridge).await?;
        if nic.traffic == Traffic::Control {
            ip(&["address", "replace", CONTROL, "dev", &nic.bridge]).await?;
        }
        let tap = tap(vm.id, nic.device_id);
        if !exists(&tap) {
            ip(&["tuntap", "add", "dev", &tap, "mode", "tap"]).await?;
        }
        ip(&["link", "set", "dev", &tap, "master", &nic.bridge, "up"]).await?;
    }
    Ok(())
}

/// Removes the taps of a VM that does not run; goes on after an error.
pub(super) async fn unplug(vm: &VirtualMachine) {
    for nic in &vm.nics {
        let tap = tap(vm.id, nic.device_id);
        if exists(&tap)
            && let Err(error) = ip(&["link", "delete", "dev", &tap]).await
        {
            tracing::warn!("{}: {error}", vm.name);
        }
    }
}

async fn bridge(name: &str) -> Result<(), HostError> {
    if !exists(name) {
        tracing::info!("making bridge {name}");
        // Without a MAC of its own it has the lowest of its ports': whoever knows the host by it loses it for half a
        // minute when a VM comes or goes.
        let [a, b, c, d, e]: [u8; 5] = rand::random();
        let mac = format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}");
        let made =
            ip(&["link", "add", "name", name, "address", &mac, "type", "bridge", "forward_delay", "0"]).await;
        // Another VM that starts at the same time may have been faster.
        if !exists(name) {
            made?;
        }
    }
    ip(&["link", "set", "dev", name, "up"]).await
}

fn exists(interface: &str) -> bool {
    // Below /proc, for /sys may show another namespace.
    Path::new("/proc/sys/net/ipv4/conf").join(interface).exists()
}

async fn ip(words: &[&str]) -> Result<(), HostError> {
    let child =
        Command::new("ip").args(words).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).output();
    let fail = |reason: String| HostError::Command { command: format!("ip {}", words.join(" ")), reason };
    let output = tokio::time::timeout(LIMIT, child)
        .await
        .map_err(|_| fail(format!("no end within {LIMIT:?}")))?
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
