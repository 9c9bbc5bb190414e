//! The command line of QEMU for a VM.

use std::path::Path;

use common::command::host::{Boot, VirtualMachine};

use super::{accel::Accelerator, record::Folder};
use crate::machine::tap;

/// Program that runs a VM.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// Name of the channel through which a VM gets its boot arguments (router contract 1.1).
const GUEST_AGENT: &str = "org.qemu.guest_agent.0";

/// What a host adds to a VM: how it runs here.
pub(super) struct Place<'a> {
    /// KVM or TCG.
    pub(super) accelerator: Accelerator,
    /// Address on which consoles listen.
    pub(super) console_address: &'a str,
    /// Whether the kernel can carry packets without going through QEMU.
    pub(super) vhost: bool,
}

/// Arguments of [`QEMU`]. QEMU puts itself in the background and lives on without this program.
pub(super) fn arguments(vm: &VirtualMachine, folder: &Folder, place: &Place<'_>) -> Vec<String> {
    let mut line = Line(Vec::new());
    line.two("-name", &vm.name);
    line.two("-uuid", &vm.uuid);
    line.two("-machine", "pc");
    line.two("-accel", place.accelerator.word());
    if place.accelerator == Accelerator::Kvm {
        line.two("-cpu", "host");
    }
    line.two("-smp", &vm.cpus.to_string());
    line.two("-m", &format!("{}M", vm.max_ram >> 20));
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot", "-daemonize"] {
        line.0.push(flag.to_owned());
    }
    line.two("-rtc", "base=utc");
    line.two("-pidfile", &file(&folder.pid_file()));
    line.two("-qmp", &format!("unix:{},server=on,wait=off", file(&folder.qmp())));
    line.two("-chardev", &format!("file,id=serial,path={},append=on", file(&folder.serial())));
    line.two("-serial", "chardev:serial");
    line.two("-device", "virtio-rng-pci");
    match &vm.boot {
        Boot::Image { .. } => line.two(
            "-drive",
            &format!("file={},format=qcow2,if=virtio,discard=unmap,cache=writeback", file(&folder.disk())),
        ),
        Boot::Kernel { kernel, initrd, append } => {
            line.two("-kernel", kernel);
            if let Some(initrd) = initrd {
                line.two("-initrd", initrd);
            }
            line.two("-append", append);
        }
    }
    if vm.boot_args.is_some() {
        line.two("-device", "virtio-serial-pci");
        line.two("-chardev", &format!("socket,id=agent,path={},server=on,wait=off", file(&folder.agent())));
        line.two("-device", &format!("virtserialport,chardev=agent,name={GUEST_AGENT}"));
    }
    let mut nics: Vec<_> = vm.nics.iter().collect();
    nics.sort_by_key(|nic| nic.device_id);
    let vhost = if place.vhost { "on" } else { "off" };
    for nic in nics {
        let (id, tap) = (nic.device_id, tap(vm.id, nic.device_id));
        line.two("-netdev", &format!("tap,id=net{id},ifname={tap},script=no,downscript=no,vhost={vhost}"));
        line.two("-device", &format!("virtio-net-pci,netdev=net{id},mac={},romfile=", nic.mac));
    }
    line.two("-display", "none");
    if vm.vnc_password.is_some() {
        line.two("-vga", "std");
        line.two("-object", &format!("secret,id=vnc,file={}", file(&folder.console_secret())));
        // QEMU takes the first free display from 0 on; which one it tells over QMP.
        line.two("-vnc", &format!("{}:0,to=999,password-secret=vnc", place.console_address));
    }
    line.0
}

struct Line(Vec<String>);

impl Line {
    fn two(&mut self, option: &str, value: &str) {
        self.0.extend([option.to_owned(), value.to_owned()]);
    }
}

fn file(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use common::command::host::{Nic, Traffic};

    use super::*;

    fn vm(boot_args: Option<&str>, vnc: Option<&str>) -> VirtualMachine {
        let nic = |device_id, mac: &str| Nic {
            device_id,
            traffic: Traffic::Guest,
            mac: mac.to_owned(),
            ip: String::new(),
            netmask: String::new(),
            gateway: None,
            default_nic: false,
            bridge: "br0".to_owned(),
            guarded: false,
        };
        VirtualMachine {
            id: 7,
            name: "r-7-VM".to_owned(),
            uuid: "u".to_owned(),
            start_id: "s".to_owned(),
            kind: "DomainRouter".to_owned(),
            cpus: 1,
            max_ram: 512 << 20,
            boot: Boot::Image { path: "/image.qcow2".to_owned() },
            boot_args: boot_args.map(str::to_owned),
            vnc_password: vnc.map(str::to_owned),
            nics: vec![nic(1, "0e:00:a9:fe:01:07"), nic(0, "1e:00:00:00:00:07")],
        }
    }

    fn line(vm: &VirtualMachine, accelerator: Accelerator) -> String {
        let folder = Folder::new(Path::new("/s"), &vm.name).unwrap();
        arguments(vm, &folder, &Place { accelerator, console_address: "192.0.2.1", vhost: false }).join(" ")
    }

    #[test]
    fn nics_are_plugged_in_the_order_of_their_numbers() {
        let line = line(&vm(Some("x=y"), None), Accelerator::Tcg);
        let first = line.find("ifname=vm7-0").unwrap();
        assert!(first < line.find("ifname=vm7-1").unwrap(), "{line}");
        assert!(line.contains("name=org.qemu.guest_agent.0"), "{line}");
        assert!(line.contains("-accel tcg") && !line.contains("-cpu"), "{line}");
        assert!(!line.contains("-vnc"), "{line}");
        assert!(!line.contains("x=y"), "boot arguments go through the guest agent alone: {line}");
    }

    #[test]
    fn a_console_has_its_password_in_a_file() {
        let line = line(&vm(None, Some("secret12")), Accelerator::Kvm);
        assert!(line.contains("-vnc 192.0.2.1:0,to=999,password-secret=vnc"), "{line}");
        assert!(!line.contains("secret12"), "{line}");
        assert!(!line.contains("guest_agent"), "{line}");
        assert!(line.contains("-cpu host"), "{line}");
    }
}
