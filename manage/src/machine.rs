//! From zone and database to the VM that a host is told to start.

use common::command::host::{Boot, Nic, Traffic, VirtualMachine};
use ipnet::Ipv4Net;

use crate::{
    bootargs,
    db::{Kind, NicRow, Owner, Vm},
    ids::random_uuid,
    zone::{GuestBoot, Zone},
};

/// The tap of a NIC: number of the VM and of the NIC.
pub(crate) fn tap(vm: u64, device: u32) -> String {
    format!("vm{vm}-{device}")
}

/// Processors of every VM in this zone file.
const CPUS: u32 = 1;

/// The VM as it shall be started, with a new start id; `None` where the zone has it no longer.
pub(crate) fn build(zone: &Zone, vm: &Vm, public_key: &str) -> Option<VirtualMachine> {
    let guest = match &vm.owner {
        Owner::Guest(name) => Some(zone.guests.iter().find(|g| g.name == *name)?),
        _ => None,
    };
    let path = |path: &std::path::Path| path.display().to_string();
    let boot = match guest.map(|g| &g.boot) {
        None => Boot::Image { path: path(&zone.system.image) },
        Some(GuestBoot::Disk(disk)) => Boot::Image { path: path(disk) },
        Some(GuestBoot::Kernel { kernel, initrd, append }) => {
            Boot::Kernel { kernel: path(kernel), initrd: initrd.as_deref().map(path), append: append.clone() }
        }
    };
    Some(VirtualMachine {
        id: u64::try_from(vm.id).ok()?,
        name: vm.name.clone(),
        uuid: vm.uuid.clone(),
        start_id: random_uuid(),
        kind: match vm.kind {
            Kind::Router => "DomainRouter",
            Kind::Ssvm => "SecondaryStorageVm",
            Kind::Cpvm => "ConsoleProxy",
            Kind::Guest => "User",
        }
        .to_owned(),
        cpus: CPUS,
        max_ram: guest.map_or(zone.system.memory_mib, |g| g.memory_mib) << 20,
        boot,
        boot_args: bootargs::render(zone, vm, public_key),
        vnc_password: (vm.kind == Kind::Guest).then(|| vm.vnc_password.clone()),
        nics: vm.nics.iter().map(|nic| plug(zone, vm, nic)).collect::<Option<_>>()?,
    })
}

fn plug(zone: &Zone, vm: &Vm, nic: &NicRow) -> Option<Nic> {
    let mut guarded = false;
    let (bridge, net, gateway) = match nic.traffic {
        Traffic::Control => (&zone.control_bridge, Ipv4Net::new_assert([169, 254, 0, 0].into(), 16), None),
        Traffic::Management | Traffic::Storage => {
            let segment = &zone.management.segment;
            (&segment.bridge, segment.net, Some(segment.gateway))
        }
        Traffic::Public => (&zone.public.bridge, zone.public.net, Some(zone.public.gateway)),
        Traffic::Guest => {
            let network = match &vm.owner {
                Owner::Network(name) => zone.network(name)?,
                Owner::Guest(name) => zone.network(&zone.guests.iter().find(|g| g.name == *name)?.network)?,
                Owner::Ssvm(_) | Owner::Cpvm(_) => return None,
            };
            guarded = vm.kind == Kind::Guest && network.is_guarded();
            (&network.bridge, network.net, Some(network.gateway))
        }
    };
    Some(Nic {
        device_id: nic.device,
        traffic: nic.traffic,
        mac: nic.mac.clone(),
        ip: nic.address.to_string(),
        netmask: net.netmask().to_string(),
        gateway: gateway.map(|g| g.to_string()),
        default_nic: nic.traffic == Traffic::Public || vm.kind == Kind::Guest,
        bridge: bridge.clone(),
        guarded,
    })
}
