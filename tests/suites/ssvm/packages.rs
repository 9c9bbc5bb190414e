//! Files that hold or name others: packages, metalinks, snapshots of several files.

use std::{fs, path::Path, sync::Arc};

use common::command::storage::{DownloadStatus, ImageFormat, ResourceType, StoreRole};
use tests::lab::ssvm::{
    disk, in_lab,
    origin::{Act, Origin},
    read, template, tool,
};

/// A descriptor of one disk of so many MiB.
pub fn descriptor(file: &str, size: usize) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n<References><File ovf:id=\"f\" ovf:href=\"{file}\"/>\
         </References>\n<DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" ovf:capacity=\"{size}\" \
         ovf:capacityAllocationUnits=\"byte * 2^20\"/></DiskSection>\n<VirtualSystem ovf:id=\"vm\"/></Envelope>\n"
    )
}

/// A package that a script of the shell makes of `vm.ovf` and `d.vmdk`; it writes `vm.ova`.
pub fn package(folder: &Path, descriptor: &str, script: &str) -> Arc<Vec<u8>> {
    let work = folder.join("package");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).unwrap();
    fs::write(work.join("vm.ovf"), descriptor).unwrap();
    fs::copy(folder.join("disk.vmdk"), work.join("d.vmdk")).unwrap();
    tool("sh", &["-ec", &format!("cd {}; {script}", work.display())]);
    read(&work.join("vm.ova"))
}

#[test]
fn a_package_is_taken_apart_beside_itself() {
    in_lab(async |lab| {
        lab.ready().await;
        let folder = lab.folder.path();
        disk(folder, "vmdk", 4);
        let whole = package(folder, &descriptor("d.vmdk", 4), "tar -cf vm.ova vm.ovf d.vmdk");
        let origin = Origin::start(vec![Act::Serve(Arc::clone(&whole))]).await;
        let url = format!("{}/vm.ova", origin.url);
        let mut command = template(lab.nfs("a", StoreRole::Image), 850, &url, ImageFormat::Ova);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!((answer.template_size, answer.template_physical_size), (4 << 20, whole.len() as i64));
        let path = answer.install_path.unwrap();
        let mut expected = [path.rsplit('/').next().unwrap(), "d.vmdk", "template.properties", "vm.ovf"];
        expected.sort_unstable();
        assert_eq!(lab.files("template/tmpl/2/850"), expected);
        let member = lab.file("a", "template/tmpl/2/850/d.vmdk");
        assert!(fs::read(&member).unwrap() == *read(&folder.join("disk.vmdk")));
        assert_eq!(tool("stat", &["-c", "%a", member.to_str().unwrap()]).trim(), "666");

        let good = descriptor("d.vmdk", 4);
        let all = "tar -cf vm.ova vm.ovf d.vmdk";
        let external = good.replace(
            "<?xml version=\"1.0\"?>",
            "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>",
        );
        let flat =
            "qemu-img create -q -f vmdk -o subformat=monolithicFlat d.vmdk 4M; tar -cf vm.ova vm.ovf d.vmdk";
        let cases = [
            (
                good.as_str(),
                "rm d.vmdk; ln -s /etc/passwd d.vmdk; tar -cf vm.ova vm.ovf d.vmdk",
                "no plain file",
            ),
            (&good, "touch ../evil; tar -cPf vm.ova vm.ovf d.vmdk ../evil", "does not lie in the folder"),
            (&good, "tar --hard-dereference -cf vm.ova vm.ovf d.vmdk vm.ovf", "two members"),
            (
                &good,
                "touch template.properties; tar -cf vm.ova vm.ovf d.vmdk template.properties",
                "would replace",
            ),
            (&good, "tar -cf vm.ova d.vmdk", "Unable to locate OVF file"),
            (&good, "tar -cf vm.ova vm.ovf", "is not in the package"),
            (&good, "tar -cf whole vm.ovf d.vmdk; head -c 1000000 whole >vm.ova", "cut"),
            (&good, flat, "VMware disk descriptor"),
            (&external, all, "DTD"),
            (&good.replace("d.vmdk", "../../x"), all, "is not in the package"),
            (&good, "cp d.vmdk vm.ova", "VMware4 disk image"),
        ];
        for (id, (descriptor, script, expected)) in (860..).zip(cases) {
            let bytes = package(folder, descriptor, script);
            let origin = Origin::start(vec![Act::Serve(bytes)]).await;
            command = template(
                lab.nfs("a", StoreRole::Image),
                id,
                &format!("{}/vm.ova", origin.url),
                ImageFormat::Ova,
            );
            let answer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{script}: {answer:?}");
            let error = answer.error_string.unwrap();
            assert!(error.contains(expected), "{script}: {error}");
            assert_eq!(lab.files(&format!("template/tmpl/2/{id}")), [""; 0], "{script}");
        }
    });
}

fn metalink(url: &str, hash: &str) -> Vec<u8> {
    let text = format!(
        "<?xml version=\"1.0\"?><metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"d\">{hash}\
         <url priority=\"9\">http://127.0.0.1/d</url><url priority=\"2\">{url}/good</url>\
         <url priority=\"1\">{url}/gone</url></file></metalink>"
    );
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

#[test]
fn a_metalink_leads_to_the_best_mirror_that_has_the_file() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 2);
        let gone = Act::Raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        let mirrors =
            Origin::start(vec![Act::Paths(vec![("gone", gone), ("good", Act::Serve(read(&image)))])]).await;
        let sum = tool("sha256sum", &[image.to_str().unwrap()]);
        let right = format!("<hash type=\"sha-256\">{}</hash>", sum.split(' ').next().unwrap());
        let wrong = format!("<hash type=\"sha-256\">{}</hash>", "0".repeat(64));
        for (id, hash, good) in [(840, right, true), (841, wrong, false)] {
            let origin = Origin::start(vec![Act::Raw(metalink(&mirrors.url, &hash))]).await;
            let url = format!("{}/disk.qcow2.metalink", origin.url);
            let command = template(lab.nfs("a", StoreRole::Image), id, &url, ImageFormat::Qcow2);
            let answer = lab.download(&command).await;
            if good {
                assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
                let installed = lab.file("a", &answer.install_path.unwrap());
                assert!(fs::read(installed).unwrap() == *read(&image));
            } else {
                assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
                assert!(answer.error_string.unwrap().contains("didn't match the given value"));
                assert_eq!(lab.files("template/tmpl/2/841"), [""; 0]);
            }
        }
        let requests = mirrors.requests();
        let paths: Vec<&str> = requests.iter().map(|head| head.split(' ').nth(1).unwrap()).collect();
        assert_eq!(paths, ["/images/gone", "/images/good"].repeat(2));
        // A mirror is held to the same rules as a URL.
        let mine = metalink("http://169.254.169.254", "");
        let origin = Origin::start(vec![Act::Raw(mine)]).await;
        let url = format!("{}/x.metalink", origin.url);
        let command = template(lab.nfs("a", StoreRole::Image), 842, &url, ImageFormat::Qcow2);
        let answer = lab.download(&command).await;
        assert_eq!(answer.error_string.as_deref(), Some("Illegal host specified in URL."), "{answer:?}");
    });
}

#[test]
fn a_snapshot_of_several_files_has_a_folder_of_its_own() {
    in_lab(async |lab| {
        lab.ready().await;
        let gone = Act::Raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        let file = |text: &str| Act::Serve(Arc::new(text.as_bytes().to_vec()));
        let acts = vec![("s1.ovf", file("describes")), ("s1-disk0.vmdk", file("a disk")), ("none", gone)];
        let origin = Origin::start(vec![Act::Paths(acts)]).await;
        let base = format!("{}/s1", origin.url);
        let mut command = template(lab.nfs("a", StoreRole::Image), 31, "", ImageFormat::Vmdk);
        command.resource_type = ResourceType::Snapshot;
        command.format = None;
        command.install_path = Some("snapshots/2/31".into());
        command.url = Some(format!("{base}/s1.ovf\n{base}/s1-disk0.vmdk"));
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!(answer.install_path.as_deref(), Some("snapshots/2/31/s1/s1"));
        assert_eq!(answer.template_physical_size, 15);
        assert_eq!(lab.files("snapshots/2/31/s1"), ["s1-disk0.vmdk", "s1.ovf"]);
        assert_eq!(fs::read(lab.file("a", "snapshots/2/31/s1/s1.ovf")).unwrap(), b"describes");
        command.install_path = Some("snapshots/2/32".into());
        command.url = Some(format!("{base}/s1.ovf\n{base}/none"));
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
        assert_eq!(lab.files("snapshots/2/32"), [""; 0]);
    });
}
