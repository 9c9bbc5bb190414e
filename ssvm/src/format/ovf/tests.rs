//! A descriptor as appliances have it, and what strangers may send instead.

use std::io::Read as _;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:id="f1" ovf:href="a.vmdk" ovf:size="3"/>
    <File ovf:id="f2" ovf:href="b.vmdk"/>
    <File ovf:id="f3" ovf:href="c.iso" ovf:size="9"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^30"/>
    <Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="${size}"/>
    <Disk ovf:diskId="d3" ovf:capacity="7" ovf:capacityAllocationUnits="MegaBytes"/>
  </DiskSection>
  <NetworkSection>
    <Network ovf:name="VM Network"><Description>The &amp; network</Description></Network>
    <Network ovf:name="other"/>
  </NetworkSection>
  <DeploymentOptionSection>
    <Configuration ovf:id="small"><Label>Small</Label><Description>for few</Description></Configuration>
    <Configuration ovf:id="large"><Label>Large</Label></Configuration>
  </DeploymentOptionSection>
  <VirtualSystem ovf:id="vm">
    <OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest">
      <Info>OS</Info><Description>Debian GNU/Linux 10</Description>
    </OperatingSystemSection>
    <EulaSection><Info>License</Info><License>Do &lt;what&gt;
you want</License></EulaSection>
    <ProductSection>
      <Category>Network</Category>
      <Property ovf:key="ip" ovf:type="string" ovf:userConfigurable="true" ovf:value="10.0.0.1"
        ovf:qualifiers="MaxLen(15)"><Label>Address</Label><Description>of the machine</Description></Property>
      <Property ovf:key="hidden" ovf:type="string" ovf:value="x"/>
      <Category>Login</Category>
      <Property ovf:key="pw" ovf:type="string" ovf:password="true" ovf:userConfigurable="true"/>
    </ProductSection>
    <VirtualHardwareSection>
      <System><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity><rasd:ElementName>2 CPUs</rasd:ElementName></Item>
      <Item ovf:configuration="large"><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>8</rasd:VirtualQuantity></Item>
      <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
        <rasd:ElementName>SCSI Controller 0</rasd:ElementName><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType></Item>
      <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>
        <rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>VM Network</rasd:Connection><rasd:ElementName>Network adapter 1</rasd:ElementName>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType></Item>
      <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
        <rasd:Parent>3</rasd:Parent><rasd:HostResource>ovf:/disk/d1</rasd:HostResource></Item>
      <Item ovf:configuration="small large"><rasd:InstanceID>6</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
        <rasd:Parent>3</rasd:Parent><rasd:HostResource>ovf:/disk/d2</rasd:HostResource></Item>
      <Item ovf:configuration="large"><rasd:InstanceID>7</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
        <rasd:Parent>9</rasd:Parent><rasd:HostResource>/disk/d3</rasd:HostResource></Item>
      <Item><rasd:InstanceID>8</rasd:InstanceID><rasd:ResourceType>15</rasd:ResourceType>
        <rasd:HostResource>ovf:/file/f3</rasd:HostResource></Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>"#;

#[test]
fn files_and_disks() {
    let descriptor = read(GOOD.as_bytes()).unwrap();
    let names: Vec<&str> = descriptor.files.iter().map(|file| file.href.as_str()).collect();
    assert_eq!(names, ["a.vmdk", "b.vmdk", "c.iso"]);
    let disks: Vec<_> = descriptor.disks.iter().map(|d| (d.file.as_deref(), d.capacity)).collect();
    assert_eq!(disks, [(Some("a.vmdk"), 2 << 30), (Some("b.vmdk"), 1), (None, 7 << 20)]);
}

#[test]
fn what_users_are_told() {
    let information = read(GOOD.as_bytes()).unwrap().information;
    let properties: Vec<_> = information
        .properties
        .iter()
        .map(|p| (p.key.as_str(), p.value.as_deref(), p.password, p.index, p.category.as_deref()))
        .collect();
    assert_eq!(
        properties,
        [("ip", Some("10.0.0.1"), false, 0, Some("Network")), ("pw", None, true, 1, Some("Login"))]
    );
    assert_eq!(information.properties[0].label.as_deref(), Some("Address"));
    let license: Vec<u8> =
        information.eula_sections[0].compressed_license.iter().map(|b| b.cast_unsigned()).collect();
    let mut text = String::new();
    GzDecoder::new(&license[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "Do <what>\nyou want");
    let system = information.guest_os_info.unwrap();
    assert_eq!(system.kind.as_deref(), Some("debian10_64Guest"));
    assert_eq!(system.description.as_deref(), Some("Debian GNU/Linux 10"));
    let [network, other] = &information.networks[..] else { panic!() };
    assert_eq!(network.network_description.as_deref(), Some("The & network"));
    assert_eq!((network.address_on_parent, network.automatic_allocation, network.instance_id), (7, true, 4));
    assert_eq!(network.resource_sub_type.as_deref(), Some("VmxNet3"));
    assert_eq!(network.resource_type.as_deref(), Some("10"));
    assert_eq!((other.name.as_str(), &other.element_name), ("other", &None));
}

#[test]
fn hardware_by_configuration() {
    let section = read(GOOD.as_bytes()).unwrap().information.hardware_section.unwrap();
    assert_eq!(section.minimum_hardware_version.as_deref(), Some("vmx-13"));
    let own: Vec<_> =
        section.configurations.iter().map(|c| (c.id.as_str(), c.hardware_items.len())).collect();
    assert_eq!(own, [("small", 1), ("large", 3)]);
    assert_eq!(section.common_hardware_items.len(), 5);
    let kinds: Vec<_> =
        section.common_hardware_items.iter().filter_map(|i| i.resource_type.as_deref()).collect();
    assert_eq!(kinds, ["Processor", "ParallelSCSIHBA", "EthernetAdapter", "DiskDrive", "CD_Drive"]);
    let disks = |configuration| data_disks(GOOD.as_bytes(), configuration).unwrap();
    let ids =
        |configuration| -> Vec<_> { disks(configuration).into_iter().filter_map(|d| d.disk_id).collect() };
    assert_eq!(ids(None), ["d1", "d2", "d3", "f3"]);
    assert_eq!(ids(Some("small")), ["d1", "d2", "f3"]);
    assert_eq!(ids(Some("none")), ["d1", "f3"]);
    let all = disks(None);
    assert_eq!(all[0].path.as_deref(), Some("a.vmdk"));
    assert_eq!((all[0].virtual_size, all[0].file_size, all[0].bootable), (2 << 30, 3, true));
    assert_eq!(
        (all[0].disk_controller.as_str(), all[0].disk_controller_sub_type.as_str()),
        ("SCSI Controller 0", "lsilogic")
    );
    assert_eq!(
        (all[1].bootable, all[1].configuration.as_str(), all[1].disk_number),
        (false, "small large", 1)
    );
    assert_eq!((&all[2].path, all[2].virtual_size, all[2].disk_controller.as_str()), (&None, 7 << 20, ""));
    assert_eq!((all[3].is_iso, all[3].virtual_size, all[3].disk_number), (true, 9, 3));
    let start = GOOD.find("<VirtualHardwareSection>").unwrap();
    let end = GOOD.find("</VirtualHardwareSection>").unwrap();
    let bare = format!("{}{}", &GOOD[..start], &GOOD[end + "</VirtualHardwareSection>".len()..]);
    assert_eq!(data_disks(bare.as_bytes(), None).unwrap().len(), 4, "no hardware is described");
}

#[test]
fn what_is_wrong_is_told() {
    let fails = |from: &str, to: &str| read(GOOD.replacen(from, to, 1).as_bytes()).unwrap_err();
    let external = "?><!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>";
    assert!(fails("?>", external).contains("DTD"), "{external}");
    let two = "<VirtualSystem ovf:id=\"x\"/><VirtualSystem";
    assert!(fails("<VirtualSystem", two).starts_with("found 2 system definitions in OVA"));
    assert!(fails("fileRef=\"f1\"", "fileRef=\"f9\"").contains("which is none"));
    assert!(fails("ovf:/disk/d1", "ovf:/disk/d9").contains("which is none"));
    assert!(fails("href=\"a.vmdk\"", "href=\"a.vmdk\" ovf:compression=\"lzma\"").contains("not known"));
    assert!(fails("href=\"a.vmdk\"", "href=\"a.vmdk\" ovf:chunkSize=\"0\"").contains("no size"));
    assert!(fails("capacity=\"2\"", "capacity=\"18446744073709551615\"").contains("too large"));
    assert!(fails("of the machine", &"x".repeat(70_000)).contains("Description in the descriptor has 70000"));
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    assert!(read(deep.as_bytes()).unwrap_err().contains("too deeply"));
}

#[test]
fn nothing_grows_without_bound() {
    let much = |one: &str, count: usize, before: &str| {
        read(GOOD.replacen(before, &format!("{}{before}", one.repeat(count)), 1).as_bytes())
    };
    let property = "<Property ovf:key=\"k\" ovf:userConfigurable=\"true\"/>";
    assert!(much(property, 1900, "</ProductSection>").is_ok());
    assert!(much(property, 2100, "</ProductSection>").unwrap_err().contains("more than 2000"));
    assert!(much("<Item/>", 2100, "</VirtualHardwareSection>").unwrap_err().contains("more than 2000"));
    assert!(
        much("<Network ovf:name=\"x\"/>", 300, "</NetworkSection>").unwrap_err().contains("more than 200")
    );
    let long = format!("<Property ovf:key=\"{}\" ovf:userConfigurable=\"true\"/>", "k".repeat(60_000));
    assert!(much(&long, 30, "</ProductSection>").unwrap_err().contains("more than 1048576"));
    // One piece of hardware in each of many configurations.
    let piece =
        format!("<Item ovf:configuration=\"c\"><rasd:Caption>{}</rasd:Caption></Item>", "k".repeat(60_000));
    let many = GOOD
        .replacen(
            "</DeploymentOptionSection>",
            &format!("{}</DeploymentOptionSection>", "<Configuration ovf:id=\"c\"/>".repeat(90)),
            1,
        )
        .replacen("</VirtualHardwareSection>", &format!("{}</VirtualHardwareSection>", piece.repeat(100)), 1);
    assert!(read(many.as_bytes()).unwrap_err().contains("configurations"));
}

#[test]
fn a_descriptor_of_one_disk() {
    let one = String::from_utf8(single(GOOD.as_bytes(), "b.vmdk").unwrap()).unwrap();
    let descriptor = read(one.as_bytes()).unwrap();
    assert_eq!((descriptor.files.len(), descriptor.disks.len()), (1, 1));
    let disks = data_disks(one.as_bytes(), None).unwrap();
    assert_eq!(disks.len(), 1);
    assert_eq!((disks[0].path.as_deref(), disks[0].bootable), (Some("b.vmdk"), true));
    assert_eq!(one.matches("<Item").count(), GOOD.matches("<Item").count() - 3, "drives of others are gone");
    assert_eq!(descriptor.information.properties, read(GOOD.as_bytes()).unwrap().information.properties);
    let iso = String::from_utf8(single(GOOD.as_bytes(), "c.iso").unwrap()).unwrap();
    assert_eq!(read(iso.as_bytes()).unwrap().disks.len(), 0);
    assert!(single(GOOD.as_bytes(), "d.vmdk").unwrap_err().contains("no file"));
}

#[test]
fn files_in_pieces_and_compressed_ones_become_plain() {
    let packed = GOOD
        .replace("href=\"a.vmdk\"", "href=\"a.vmdk.gz\" ovf:compression=\"gzip\"")
        .replace("href=\"b.vmdk\"", "href=\"b.vmdk\" ovf:chunkSize=\"1000\"");
    let descriptor = read(packed.as_bytes()).unwrap();
    assert_eq!(descriptor.disks[0].file.as_deref(), Some("a.vmdk"));
    assert_eq!(descriptor.files[0].member(0).as_deref(), Some("a.vmdk.gz"));
    assert_eq!(descriptor.files[0].member(1), None);
    assert_eq!(descriptor.files[1].member(12).as_deref(), Some("b.vmdk.000000012"));
    let files = [("a.vmdk.gz".to_owned(), "a.vmdk".to_owned(), 55), ("b.vmdk".into(), "b.vmdk".into(), 1500)];
    let text = plain(packed.as_bytes(), &files).unwrap();
    let again = read(&text).unwrap();
    assert!(again.files.iter().all(File::is_plain));
    assert_eq!((again.files[0].href.as_str(), again.files[0].size), ("a.vmdk", Some(55)));
    assert_eq!(again.disks, descriptor.disks);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[<>a-z/\"=! ]{0,300}") {
        let _ = read(text.as_bytes());
    }

    #[test]
    fn what_is_rewritten_can_be_read(at in 0_usize..GOOD.len(), value in "[<>a-z/\"=&;. ]{0,3}") {
        prop_assume!(GOOD.is_char_boundary(at));
        let mut text = GOOD.to_owned();
        text.insert_str(at, &value);
        if read(text.as_bytes()).is_ok() {
            for file in ["a.vmdk", "c.iso"] {
                if let Ok(one) = single(text.as_bytes(), file) {
                    prop_assert!(read(&one).is_ok(), "{}", String::from_utf8_lossy(&one));
                }
            }
            let files = [("a.vmdk".to_owned(), "x\"<&.vmdk".to_owned(), 7)];
            prop_assert!(read(&plain(text.as_bytes(), &files).unwrap()).is_ok());
        }
    }
}
