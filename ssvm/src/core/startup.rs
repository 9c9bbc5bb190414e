//! What the VM says of itself when it joins.

use common::{
    boot::Identity,
    command::agent::{Nic, StartupBase, StartupSecondaryStorageCommand},
    paths::Paths,
};

/// The resource class that the boot arguments name; its simple name is part of the VM's identity.
pub(super) fn resource_name(identity: &Identity) -> String {
    let class = identity.get("resource").unwrap_or("NfsSecondaryStorageResource");
    class.rsplit('.').next().unwrap_or(class).to_owned()
}

/// The start-up command.
pub(super) fn command(paths: &Paths, identity: &Identity) -> StartupSecondaryStorageCommand {
    let resource = resource_name(identity);
    let guid = identity.get("guid").unwrap_or(&identity.name);
    let nic = |index: u32| {
        let nic = identity.nic(index).and_then(common::boot::Nic::ipv4);
        Nic {
            address: nic.map(|n| n.addr().to_string()),
            netmask: nic.map(|n| n.netmask().to_string()),
            mac: mac(paths, index),
        }
    };
    let startup = StartupBase {
        kind: "SecondaryStorage".to_owned(),
        data_center: identity.get("zone").map(str::to_owned),
        pod: identity.get("pod").map(str::to_owned),
        guid: format!("{guid}-{resource}"),
        name: identity.name.clone(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        iqn: Some("NoIqn".to_owned()),
        resource_name: Some(resource),
        arch: Some(std::env::consts::ARCH.to_owned()),
        ..StartupBase::default()
    };
    // Whoever reads it expects the management NIC once more in place of the storage NIC.
    let startup = startup.with_public(nic(2)).with_private(nic(1)).with_storage(nic(1));
    StartupSecondaryStorageCommand { startup }
}

fn mac(paths: &Paths, index: u32) -> Option<String> {
    let file = paths.at(&format!("/sys/class/net/eth{index}/address"));
    std::fs::read_to_string(file).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_it_is() {
        let identity = Identity::parse(
            "template=domP type=secstorage name=s-2-VM guid=s-2-VM zone=1 pod=1 eth0ip=169.254.1.2 \
             eth0mask=255.255.0.0 eth1ip=10.1.1.21 eth1mask=255.255.255.0 eth2ip=203.0.113.51 \
             eth2mask=255.255.255.0 \
             resource=org.apache.cloudstack.storage.resource.NfsSecondaryStorageResource",
        )
        .unwrap();
        let startup = command(&Paths::below("/nowhere"), &identity).startup;
        assert_eq!(startup.guid, "s-2-VM-NfsSecondaryStorageResource");
        assert_eq!(startup.kind, "SecondaryStorage");
        assert_eq!(startup.storage_ip_address, startup.private_ip_address);
        assert_eq!(startup.public_netmask.as_deref(), Some("255.255.255.0"));
    }
}
