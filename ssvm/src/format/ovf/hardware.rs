//! What a descriptor says of hardware: pieces of it, the configurations that have them, and the networks that its NICs
//! are in.

use common::command::storage::{
    OVFConfigurationTO, OVFNetworkTO, OVFVirtualHardwareItemTO, OVFVirtualHardwareSectionTO,
};
use roxmltree::{Document, Node};

use super::{
    LARGEST,
    tree::{attribute, child, few, told, within},
};

/// Most pieces of hardware, configurations and networks.
const ITEMS: usize = 2000;
const CONFIGURATIONS: usize = 100;
const NETWORKS: usize = 200;
/// Elements that are a piece of hardware; the latter two are those of OVF 2.
const NAMES: [&str; 3] = ["Item", "StorageItem", "EthernetPortItem"];
/// Kinds of hardware by their number, from 1 (CIM_ResourceAllocationSettingData.ResourceType), as the management server
/// names them.
const KINDS: [&str; 33] = [
    "Other",
    "ComputerSystem",
    "Processor",
    "Memory",
    "IDEController",
    "ParallelSCSIHBA",
    "FC_HBA",
    "iSCSI_HBA",
    "IB_HCA",
    "EthernetAdapter",
    "OtherNetworkAdapter",
    "IO_Slot",
    "IO_Device",
    "FloppyDrive",
    "CD_Drive",
    "DVD_Drive",
    "DiskDrive",
    "TapeDrive",
    "StorageExtent",
    "OtherStorageDevice",
    "SerialPort",
    "ParallelPort",
    "USBController",
    "GraphicsController",
    "IEEE_1394_Controller",
    "PartitionableUnit",
    "BasePartitionableUnit",
    "PowerSupply",
    "CoolingCapacity",
    "EthernetSwitchPort",
    "LogicalDisk",
    "StorageVolume",
    "EthernetConnection",
];

/// Whether an element is a piece of hardware.
pub(super) fn is_item(node: Node<'_, '_>) -> bool {
    NAMES.contains(&node.tag_name().name())
}

/// All pieces of hardware.
pub(super) fn items(document: &Document<'_>) -> Result<Vec<OVFVirtualHardwareItemTO>, String> {
    let sections = document.descendants().filter(|node| node.tag_name().name() == "VirtualHardwareSection");
    let nodes = few(sections.flat_map(|node| node.children()).filter(|node| is_item(*node)), "Item", ITEMS)?;
    nodes.into_iter().map(item).collect()
}

fn item(node: Node<'_, '_>) -> Result<OVFVirtualHardwareItemTO, String> {
    let text = |name: &str| child(node, name);
    let number = |name: &str| Ok::<_, String>(child(node, name)?.and_then(|text| text.parse::<i64>().ok()));
    let flag = |name: &str| {
        Ok::<_, String>(child(node, name)?.is_some_and(|text| text.eq_ignore_ascii_case("true")))
    };
    let kind = number("ResourceType")?.and_then(|n| usize::try_from(n).ok()?.checked_sub(1));
    Ok(OVFVirtualHardwareItemTO {
        address: text("Address")?,
        address_on_parent: text("AddressOnParent")?,
        allocation_units: text("AllocationUnits")?,
        automatic_allocation: flag("AutomaticAllocation")?,
        automatic_deallocation: flag("AutomaticDeallocation")?,
        caption: text("Caption")?,
        changeable_type: text("ChangeableType")?,
        configuration_name: text("ConfigurationName")?,
        connection: text("Connection")?,
        description: text("Description")?,
        element_name: text("ElementName")?,
        generation: number("Generation")?,
        host_resource: text("HostResource")?,
        instance_id: text("InstanceID")?,
        limit: number("Limit")?,
        other_resource_type: text("OtherResourceType")?,
        parent: text("Parent")?,
        pool_id: text("PoolID")?,
        reservation: number("Reservation")?,
        resource_subtype: text("ResourceSubType")?,
        resource_type: kind.and_then(|kind| KINDS.get(kind)).map(|kind| (*kind).to_owned()),
        virtual_quantity: number("VirtualQuantity")?,
        virtual_quantity_units: text("VirtualQuantityUnits")?,
        weight: number("Weight")?.and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        configuration_ids: told(node, "configuration")?,
    })
}

/// Whether a configuration has a piece; those that name none are in all, and `None` stands for all configurations.
pub(super) fn has(configuration: Option<&str>, item: &OVFVirtualHardwareItemTO) -> bool {
    match (configuration, &item.configuration_ids) {
        (None, _) | (_, None) => true,
        (Some(wanted), Some(ids)) => ids.split_whitespace().any(|id| id == wanted),
    }
}

/// The hardware that a machine is to have.
pub(super) fn section(
    document: &Document<'_>,
    items: &[OVFVirtualHardwareItemTO],
) -> Result<Option<OVFVirtualHardwareSectionTO>, String> {
    let Some(hardware) =
        document.descendants().find(|node| node.tag_name().name() == "VirtualHardwareSection")
    else {
        return Ok(None);
    };
    let system = hardware.children().find(|node| node.tag_name().name() == "System");
    let minimum_hardware_version = system.map_or(Ok(None), |system| child(system, "VirtualSystemType"))?;
    let mut configurations = Vec::new();
    // A piece of many configurations is told many times.
    let weights: Vec<usize> = items.iter().map(|i| serde_json::to_vec(i).map_or(0, |v| v.len())).collect();
    let mut weight = 0;
    for (node, index) in
        within(document, "DeploymentOptionSection", "Configuration", CONFIGURATIONS)?.into_iter().zip(0..)
    {
        let id = told(node, "id")?.unwrap_or_default();
        let own = |item: &OVFVirtualHardwareItemTO| item.configuration_ids.is_some() && has(Some(&id), item);
        weight += items.iter().zip(&weights).filter(|(i, _)| own(i)).map(|(_, w)| w).sum::<usize>();
        if weight > LARGEST {
            return Err("the configurations of the descriptor are too large".into());
        }
        configurations.push(OVFConfigurationTO {
            label: child(node, "Label")?,
            description: child(node, "Description")?,
            hardware_items: items.iter().filter(|item| own(item)).cloned().collect(),
            index,
            id,
        });
    }
    let common_hardware_items = items.iter().filter(|i| i.configuration_ids.is_none()).cloned().collect();
    Ok(Some(OVFVirtualHardwareSectionTO { minimum_hardware_version, configurations, common_hardware_items }))
}

/// The networks, each with the last NIC that is in it.
pub(super) fn networks(
    document: &Document<'_>,
    items: &[OVFVirtualHardwareItemTO],
) -> Result<Vec<OVFNetworkTO>, String> {
    let mut networks = Vec::new();
    for node in within(document, "NetworkSection", "Network", NETWORKS)? {
        let Some(name) = attribute(node, "name") else { continue };
        let nic = items.iter().rfind(|item| item.connection.as_deref() == Some(name));
        let number = |text: &Option<String>| text.as_deref().and_then(|t| t.parse().ok()).unwrap_or(0);
        networks.push(OVFNetworkTO {
            name: told(node, "name")?.unwrap_or_default(),
            network_description: child(node, "Description")?,
            address_on_parent: nic.map_or(0, |nic| number(&nic.address_on_parent)),
            automatic_allocation: nic.is_some_and(|nic| nic.automatic_allocation),
            nic_description: nic.and_then(|nic| nic.description.clone()),
            element_name: nic.and_then(|nic| nic.element_name.clone()),
            instance_id: nic.map_or(0, |nic| number(&nic.instance_id)),
            resource_sub_type: nic.and_then(|nic| nic.resource_subtype.clone()),
            resource_type: nic.and_then(|nic| number_of(nic.resource_type.as_deref()?)),
        });
    }
    Ok(networks)
}

/// The number of a kind.
fn number_of(kind: &str) -> Option<String> {
    KINDS.iter().position(|known| *known == kind).map(|at| (at + 1).to_string())
}
