//! Packages (OVA) of whole machines: what they tell, files of theirs in pieces or compressed, and their disks as
//! templates of their own.

use std::{fs, path::Path, sync::Arc};

use common::command::storage::{
    CreateDatadiskTemplateAnswer, CreateDatadiskTemplateCommand, DataTO, DownloadStatus, GetDatadisksAnswer,
    GetDatadisksCommand, ImageFormat, ListTemplateAnswer, ListTemplateCommand, OVFInformationTO,
    SecStorageSetupAnswer, StoreRole, TemplateObjectTO, UploadStatus,
};
use tests::lab::{
    ssvm::{
        LIMIT, Lab, disk, in_lab,
        origin::{Act, Origin},
        read, template, tool,
    },
    wait_tcp,
};

use super::{
    browser::{Upload, VM},
    copies::{copied, image},
};

/// Where the management server sees the first export.
const MOUNT: &str = "/mnt/SecStorage/cf09654f-527c-35d9-b18c-7b044f35fe9b";

/// A machine with two disks of 4 MiB; what stands in the place of the two is put into their files.
fn descriptor(first: &str, second: &str) -> String {
    format!(
        r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:id="f1" {first}/><File ovf:id="f2" {second}/></References>
<DiskSection>
<Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="4" ovf:capacityAllocationUnits="byte * 2^20"/>
<Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="4" ovf:capacityAllocationUnits="byte * 2^20"/>
</DiskSection>
<NetworkSection><Network ovf:name="inside"><Description>The network</Description></Network></NetworkSection>
<VirtualSystem ovf:id="vm">
<OperatingSystemSection ovf:id="96" vmw:osType="debian10_64Guest"><Description>Debian 10</Description></OperatingSystemSection>
<EulaSection><Info>License</Info><License>Use it well</License></EulaSection>
<ProductSection><Property ovf:key="pw" ovf:type="string" ovf:password="true" ovf:userConfigurable="true"
 ovf:value="planted-value"><Label>Password</Label></Property></ProductSection>
<VirtualHardwareSection>
<Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
<rasd:ElementName>SCSI Controller 0</rasd:ElementName><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType></Item>
<Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType><rasd:Connection>inside</rasd:Connection></Item>
<Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent>
<rasd:HostResource>ovf:/disk/d1</rasd:HostResource></Item>
<Item><rasd:InstanceID>6</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent>
<rasd:HostResource>ovf:/disk/d2</rasd:HostResource></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
"#
    )
}

fn plain() -> String {
    descriptor("ovf:href=\"a.vmdk\"", "ovf:href=\"b.vmdk\"")
}

/// A package that a script of the shell makes of `vm.ovf`, `a.vmdk` and `b.vmdk`; it writes `vm.ova`.
fn package(folder: &Path, descriptor: &str, script: &str) -> std::path::PathBuf {
    disk(folder, "vmdk", 4);
    let work = folder.join("appliance");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).unwrap();
    fs::write(work.join("vm.ovf"), descriptor).unwrap();
    for name in ["a.vmdk", "b.vmdk"] {
        fs::copy(folder.join("disk.vmdk"), work.join(name)).unwrap();
    }
    tool("sh", &["-ec", &format!("cd {}; {script}", work.display())]);
    work.join("vm.ova")
}

const WHOLE: &str = "tar -cf vm.ova vm.ovf a.vmdk b.vmdk";

fn judge(information: &OVFInformationTO, folder: &str) {
    let paths: Vec<_> = information.disks.iter().filter_map(|disk| disk.path.clone()).collect();
    assert_eq!(paths, [format!("{MOUNT}/{folder}/a.vmdk"), format!("{MOUNT}/{folder}/b.vmdk")]);
    let bootable: Vec<_> = information.disks.iter().map(|disk| (disk.bootable, disk.virtual_size)).collect();
    assert_eq!(bootable, [(true, 4 << 20), (false, 4 << 20)]);
    assert_eq!(information.disks[1].disk_controller_sub_type, "lsilogic");
    assert_eq!(information.networks[0].name, "inside");
    assert_eq!(information.networks[0].instance_id, 4);
    assert_eq!(information.properties[0].value.as_deref(), Some("planted-value"));
    assert_eq!(information.hardware_section.as_ref().unwrap().common_hardware_items.len(), 4);
    let system = information.guest_os_info.as_ref().unwrap();
    assert_eq!(system.kind.as_deref(), Some("debian10_64Guest"));
    let license: Vec<u8> =
        information.eula_sections[0].compressed_license.iter().map(|byte| byte.cast_unsigned()).collect();
    let file = std::env::temp_dir().join(format!("license-{}.gz", std::process::id()));
    fs::write(&file, license).unwrap();
    assert_eq!(tool("gzip", &["-dc", file.to_str().unwrap()]), "Use it well");
    fs::remove_file(file).unwrap();
}

#[test]
fn what_a_package_tells_is_told_once_it_is_there() {
    in_lab(async |mut lab| {
        lab.ready().await;
        let file = package(lab.folder.path(), &plain(), WHOLE);
        let origin = Origin::start(vec![Act::Serve(read(&file))]).await;
        let url = format!("{}/vm.ova", origin.url);
        let command = template(lab.nfs("a", StoreRole::Image), 870, &url, ImageFormat::Ova);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert!(answer.ovf_information.is_none(), "not before it is asked for");
        let job = answer.job_id.unwrap();
        let before = lab.core.output();
        lab.restart_core().await;
        let answer = lab.progress(&command, &job, "PURGE").await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        judge(&answer.ovf_information.unwrap(), "template/tmpl/2/870");
        let known = lab.progress(&command, &job, "GET_STATUS").await;
        assert_eq!(known.download_status, DownloadStatus::Unknown);

        for port in [80, 443] {
            wait_tcp(format!("{VM}:{port}").parse().unwrap(), LIMIT);
        }
        let upload = Upload::new(871, "OVA");
        assert_eq!(upload.send(&lab, &file), (200, "upload successful.".into()), "{}", lab.serve.output());
        lab.restart_core().await;
        let answer = upload.status(&lab).await;
        assert_eq!(answer.status, UploadStatus::Completed, "{answer:?}");
        judge(&answer.ovf_information.unwrap(), "template/tmpl/2/871");
        for text in [before, lab.core.output(), lab.serve.output()] {
            assert!(!text.contains("planted-value"));
        }
    });
}

#[test]
fn files_in_pieces_and_compressed_ones_lie_there_plain() {
    in_lab(async |lab| {
        lab.ready().await;
        let folder = lab.folder.path();
        let fetched = async |id: i64, descriptor: &str, script: &str, limit: i64| {
            let file = package(folder, descriptor, script);
            let origin = Origin::start(vec![Act::Serve(read(&file))]).await;
            let url = format!("{}/vm.ova", origin.url);
            let mut command = template(lab.nfs("a", StoreRole::Image), id, &url, ImageFormat::Ova);
            command.max_download_size_in_bytes = Some(limit);
            lab.download(&command).await
        };
        let compressed = "ovf:href=\"a.vmdk.gz\" ovf:compression=\"gzip\"";
        let pieces = "ovf:href=\"b.vmdk\" ovf:chunkSize=\"1000000\"";
        let both = "ovf:href=\"b.vmdk\" ovf:chunkSize=\"1000000\" ovf:compression=\"gzip\"";
        let split = "split -b 1000000 -d -a 9 b.vmdk b.vmdk.; rm b.vmdk";
        let tar = "printf 'SHA1(vm.ovf)= 0' >vm.mf; tar -cf vm.ova vm.ovf vm.mf a.* b.*";
        for (id, second, pack) in [
            (880, pieces, split.to_owned()),
            (881, both, format!("gzip b.vmdk; mv b.vmdk.gz b.vmdk; {split}")),
        ] {
            let script = format!("gzip a.vmdk; {pack}; {tar}");
            let answer = fetched(id, &descriptor(compressed, second), &script, 1 << 30).await;
            assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
            assert_eq!(answer.template_size, 8 << 20);
            let place = format!("template/tmpl/2/{id}");
            let mut names = lab.files(&place);
            names.retain(|name| !name.ends_with(".ova"));
            assert_eq!(names, ["a.vmdk", "b.vmdk", "template.properties", "vm.ovf"]);
            for name in ["a.vmdk", "b.vmdk"] {
                let file = lab.file("a", &format!("{place}/{name}"));
                let file = file.to_str().unwrap();
                let original = folder.join("disk.vmdk");
                tool("qemu-img", &["compare", "-f", "vmdk", "-F", "vmdk", file, original.to_str().unwrap()]);
                assert_eq!(tool("stat", &["-c", "%a", file]).trim(), "666");
            }
            let text = fs::read_to_string(lab.file("a", &format!("{place}/vm.ovf"))).unwrap();
            assert!(text.contains("ovf:href=\"a.vmdk\"") && !text.contains("chunkSize"), "{text}");
            assert!(!text.contains("compression=") && text.contains("planted-value"), "{text}");
        }
        let zeros = "head -c 67108864 /dev/zero >>a.vmdk; gzip a.vmdk";
        let junk = "head -c 4000000 /dev/zero >a.vmdk; gzip a.vmdk";
        let good = descriptor(compressed, "ovf:href=\"b.vmdk\"");
        let cases = [
            (good.clone(), format!("{zeros}; {tar}"), 16 << 20, "too large when it is unpacked"),
            (good.clone(), format!("{junk}; {tar}"), 1 << 30, "is refused"),
            (
                good.clone(),
                format!("gzip a.vmdk; truncate -s 100000 a.vmdk.gz; {tar}"),
                1 << 30,
                "uncompress",
            ),
            (
                good.clone(),
                "gzip a.vmdk; tar -cf vm.ova a.* vm.ovf b.*".to_owned(),
                1 << 30,
                "has to be first",
            ),
            (
                descriptor("ovf:href=\"a.vmdk\"", pieces),
                format!("{split}; rm b.vmdk.000000002; {tar}"),
                1 << 30,
                "out of its order",
            ),
            (good.replace("gzip", "lzma"), format!("gzip a.vmdk; {tar}"), 1 << 30, "which is not known"),
        ];
        for (id, (descriptor, script, limit, expected)) in (885..).zip(cases) {
            let answer = fetched(id, &descriptor, &script, limit).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{script}: {answer:?}");
            let error = answer.error_string.unwrap();
            assert!(error.contains(expected), "{script}: {error}");
            assert_eq!(lab.files(&format!("template/tmpl/2/{id}")), [""; 0], "{script}");
        }
    });
}

fn object(lab: &Lab, id: i64, path: Option<&str>) -> TemplateObjectTO {
    TemplateObjectTO {
        id,
        account_id: 2,
        path: path.map(str::to_owned),
        image_data_store: Some(lab.nfs("a", StoreRole::Image)),
        name: Some(format!("{id}-2-0b1c2d3e")),
        unique_name: Some(format!("{id}-2-0b1c2d3e")),
        size: Some(4 << 20),
        ..TemplateObjectTO::default()
    }
}

#[test]
fn disks_of_a_package_become_templates() {
    in_lab(async |mut lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        // A package that somebody else has put there, whole.
        let file = package(lab.folder.path(), &plain(), WHOLE);
        let place = lab.file("a", "template/tmpl/2/890");
        fs::create_dir_all(&place).unwrap();
        fs::copy(&file, place.join("890-2-0b1c2d3e.ova")).unwrap();
        let ask = GetDatadisksCommand {
            data: Some(DataTO::Template(Box::new(object(&lab, 890, Some("template/tmpl/2/890"))))),
            ..Default::default()
        };
        let answer: GetDatadisksAnswer = lab.answer(&ask).await;
        assert!(answer.answer.result, "{answer:?}\n{}", lab.serve.output());
        let again: GetDatadisksAnswer = lab.answer(&ask).await;
        assert_eq!(again, answer);
        let disks = answer.data_disk_details;
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[1].path.as_deref(), Some(&*format!("{MOUNT}/template/tmpl/2/890/b.vmdk")));
        let bytes = fs::metadata(lab.folder.path().join("disk.vmdk")).unwrap().len() as i64;
        assert_eq!((disks[1].file_size, disks[1].virtual_size, disks[1].bootable), (bytes, 4 << 20, false));

        let create = |id: i64, disk: usize| CreateDatadiskTemplateCommand {
            data_disk_template: Some(DataTO::Template(Box::new(object(&lab, id, None)))),
            path: disks[disk].path.clone(),
            file_size: disks[disk].file_size,
            bootable: disks[disk].bootable,
            disk_id: disks[disk].disk_id.clone(),
            ..Default::default()
        };
        let (second, first) = (create(891, 1), create(890, 0));
        let evil = |path: &str| CreateDatadiskTemplateCommand { path: Some(path.into()), ..create(892, 1) };
        let wrong = [
            evil("/etc/passwd"),
            evil("/mnt/SecStorage/0/template/tmpl/2/890/b.vmdk"),
            evil(&format!("{MOUNT}/template/tmpl/2/890/../../../../etc/passwd")),
            evil(&format!("{MOUNT}/template/tmpl/2/890/vm.ovf")),
            evil(&format!("{MOUNT}/template/tmpl/2/890/c.vmdk")),
        ];
        for command in &wrong {
            let answer: CreateDatadiskTemplateAnswer = lab.answer(command).await;
            let details = answer.answer.details.unwrap();
            assert!(!answer.answer.result && details.starts_with("Create Datadisk template failed due to "));
            assert!(!lab.file("a", "template/tmpl/2/892/template.properties").exists());
        }
        let template = |answer: CreateDatadiskTemplateAnswer| {
            assert!(answer.answer.result, "{answer:?}");
            answer.data_disk_template.unwrap()
        };
        let made = template(lab.answer(&second).await);
        let path = "template/tmpl/2/891/891-2-0b1c2d3e.ova";
        assert_eq!((made.id, made.path.as_deref()), (891, Some(path)));
        assert_eq!((made.size, made.physical_size), (Some(4 << 20), Some(bytes)));
        lab.restart_core().await;
        lab.restart_serve();
        assert_eq!(template(lab.answer(&second).await), made, "again");
        let names = ["891-2-0b1c2d3e.ova.meta", "b.vmdk", "template.properties", "vm.ovf", "vm.ovf.orig"];
        assert_eq!(lab.files("template/tmpl/2/891"), names);
        let text =
            |name: &str| fs::read_to_string(lab.file("a", &format!("template/tmpl/2/891/{name}"))).unwrap();
        for line in [
            "ova.filename=891-2-0b1c2d3e.ova",
            "version=1.0",
            "ovf=vm.ovf",
            "numDisks=1",
            "disk1.name=b.vmdk",
        ] {
            assert!(text("891-2-0b1c2d3e.ova.meta").lines().any(|l| l == line), "{line}");
        }
        for line in
            ["filename=891-2-0b1c2d3e.ova", "ova=true", "id=891", "public=false", "virtualsize=4194304"]
        {
            assert!(text("template.properties").lines().any(|l| l == line), "{line}");
        }
        assert!(!text("vm.ovf").contains("a.vmdk") && text("vm.ovf").contains("b.vmdk"));
        assert!(!text("vm.ovf").contains("ovf:/disk/d1") && text("vm.ovf").contains("ovf:/disk/d2"));
        assert_eq!(text("vm.ovf.orig"), plain());

        let parent = template(lab.answer(&first).await);
        assert_eq!(parent.path.as_deref(), Some("template/tmpl/2/890/890-2-0b1c2d3e.ova"));
        let own = fs::read_to_string(place.join("vm.ovf")).unwrap();
        assert!(own.contains("a.vmdk") && !own.contains("b.vmdk"));
        let list = |export| ListTemplateCommand {
            store: Some(lab.nfs(export, StoreRole::Image)),
            ..Default::default()
        };
        let listed: ListTemplateAnswer = lab.answer(&list("a")).await;
        let unique: Vec<_> =
            listed.template_infos.values().map(|entry| (entry.id, entry.is_corrupted)).collect();
        assert_eq!(unique, [(890, false), (891, false)]);

        // The template of a disk moves with all that it has.
        let moved = copied(
            &lab,
            image(lab.nfs("a", StoreRole::Image), path),
            image(lab.nfs("b", StoreRole::Image), "template/tmpl/2/891"),
        );
        let DataTO::Template(moved) = moved.await else { panic!() };
        assert_eq!((moved.path.as_deref(), moved.size), (Some(path), Some(4 << 20)));
        let listed: ListTemplateAnswer = lab.answer(&list("b")).await;
        assert_eq!(listed.template_infos["891-2-0b1c2d3e"].install_path, path);
        let there = lab.file("b", "template/tmpl/2/891/b.vmdk");
        assert!(fs::read(there).unwrap() == *Arc::clone(&read(&lab.folder.path().join("disk.vmdk"))));
    });
}
