//! Snapshots and volumes of several files, as XenServer and VMware leave them.

use std::{collections::BTreeMap, fs};

use common::command::{
    agent::Answer,
    storage::{
        CopyCmdAnswer, CopyCommand, DataStoreTO, DataTO, DeleteCommand, ImageFormat, ListTemplateAnswer,
        ListTemplateCommand, QuerySnapshotZoneCopyAnswer, QuerySnapshotZoneCopyCommand,
        SecStorageSetupAnswer, SnapshotObjectTO, StoreRole, VolumeObjectTO,
    },
};
use tests::lab::ssvm::{
    Lab, in_lab, in_lab_with_s3, tool,
    vhd::{Parent, build},
};

use super::copies::{copied, image, snapshot};

const SIZE: u64 = 12 << 20;

fn xen(store: DataStoreTO, path: &str) -> DataTO {
    DataTO::Snapshot(Box::new(SnapshotObjectTO {
        path: Some(path.to_owned()),
        data_store: Some(store),
        hypervisor_type: Some("XenServer".into()),
        ..SnapshotObjectTO::default()
    }))
}

/// Puts a chain of three disks into the export, the newest one of which is `c.vhd`; what it holds.
fn chain(lab: &Lab) -> Vec<u8> {
    let folder = lab.file("a", "snapshots/2/31");
    fs::create_dir_all(&folder).unwrap();
    let mut content = vec![0; SIZE as usize];
    let layers: [(&str, &[(u64, u64)]); 3] = [
        ("a", &[(0, 5000), (20_000, 900)]),
        ("b", &[(10, 3), (4000, 2000)]),
        ("c", &[(0, 1), (24_000, 576)]),
    ];
    for (number, (name, writes)) in layers.iter().enumerate() {
        let value = number as u8 + 1;
        let sectors: BTreeMap<u64, [u8; 512]> =
            writes.iter().flat_map(|(from, count)| *from..from + count).map(|n| (n, [value; 512])).collect();
        for sector in sectors.keys() {
            content[*sector as usize * 512..][..512].fill(value);
        }
        let below = number.checked_sub(1).map(|below| Parent {
            uuid: [below as u8; 16],
            places: vec![(*b"W2ru", format!(".\\{}.vhd", layers[below].0))],
        });
        let bytes = build(SIZE, 2 << 20, [number as u8; 16], below.as_ref(), &sectors);
        fs::write(folder.join(format!("{name}.vhd")), bytes).unwrap();
    }
    content
}

#[test]
fn a_chain_of_disks_becomes_a_template() {
    in_lab_with_s3(async |lab| {
        lab.ready().await;
        let content = chain(&lab);
        let raw = lab.folder.path().join("merged.raw");
        fs::write(&raw, &content).unwrap();
        let equal = |file: &std::path::Path| {
            let (file, raw) = (file.to_str().unwrap(), raw.to_str().unwrap());
            tool("qemu-img", &["compare", "-f", "vpc", "-F", "raw", file, raw]);
        };
        let here = || lab.nfs("a", StoreRole::Image);
        for (id, path) in [(202, "snapshots/2/31/c"), (203, "snapshots/2/31/c.vhd")] {
            let folder = format!("template/tmpl/2/{id}");
            let DataTO::Template(new) = copied(&lab, xen(here(), path), image(here(), &folder)).await else {
                panic!()
            };
            let name = new.name.clone().unwrap();
            assert_eq!(new.path, Some(format!("{folder}/{name}.vhd")));
            assert_eq!((new.format, new.size), (Some(ImageFormat::Vhd), Some(SIZE as i64)));
            let file = lab.file("a", new.path.as_deref().unwrap());
            assert_eq!(new.physical_size, Some(fs::metadata(&file).unwrap().len() as i64));
            equal(&file);
            let list = ListTemplateCommand { store: Some(here()), ..Default::default() };
            let listed: ListTemplateAnswer = lab.answer(&list).await;
            assert_eq!(listed.template_infos[&name].install_path, new.path.unwrap());
        }
        let key = "template/tmpl/2/204";
        let DataTO::Template(new) = copied(&lab, xen(here(), "snapshots/2/31/c"), image(lab.s3(), key)).await
        else {
            panic!()
        };
        let object = lab.folder.path().join("object.vhd");
        fs::write(&object, lab.s3_object(new.path.as_deref().unwrap())).unwrap();
        equal(&object);
        assert_eq!(lab.files("snapshots/2/31"), ["a.vhd", "b.vhd", "c.vhd"], "the chain stays");

        // A chain that is not whole makes no template.
        fs::remove_file(lab.file("a", "snapshots/2/31/a.vhd")).unwrap();
        let broken = CopyCommand {
            source: Some(xen(here(), "snapshots/2/31/c")),
            destination: Some(image(here(), "template/tmpl/2/205")),
            ..Default::default()
        };
        let answer: CopyCmdAnswer = lab.answer(&broken).await;
        let details = answer.answer.details.unwrap();
        assert!(!answer.answer.result && details.contains("not in its folder: a.vhd"), "{details}");
        assert_eq!(lab.files("template/tmpl/2/205"), [""; 0]);
        assert_eq!(lab.files("snapshots/2/31"), ["b.vhd", "c.vhd"]);
    });
}

#[test]
fn what_vmware_leaves_moves_with_its_folder() {
    in_lab(async |lab| {
        for export in ["a", "b"] {
            let _: SecStorageSetupAnswer = lab.answer(&lab.set_up(export)).await;
        }
        let put = |path: &str, text: &str| {
            let file = lab.file("a", path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        for file in ["volumes/2/7/v1/v1", "snapshots/2/31/s1/s1"] {
            put(&format!("{file}.ovf"), "describes");
            put(&format!("{file}-disk0.vmdk"), "a disk");
        }
        put("snapshots/2/31/other", "another");
        let (from, to) = (|| lab.nfs("a", StoreRole::Image), || lab.nfs("b", StoreRole::Image));
        let there = |path: &str| fs::read_to_string(lab.file("b", path)).unwrap();

        let volume = |store, path: &str| {
            DataTO::Volume(Box::new(VolumeObjectTO {
                path: Some(path.into()),
                data_store: Some(store),
                size: Some(5 << 30),
                ..VolumeObjectTO::default()
            }))
        };
        let new = copied(&lab, volume(from(), "volumes/2/7/v1"), volume(to(), "volumes/2/7")).await;
        assert_eq!(new.path(), Some("volumes/2/7/v1"));
        let DataTO::Volume(new) = new else { panic!() };
        assert_eq!(new.size, Some(5 << 30));
        assert_eq!(
            (there("volumes/2/7/v1/v1.ovf"), there("volumes/2/7/v1/v1-disk0.vmdk")),
            ("describes".into(), "a disk".into())
        );

        let new =
            copied(&lab, snapshot(from(), "snapshots/2/31/s1/s1"), snapshot(to(), "snapshots/2/31")).await;
        assert_eq!(new.path(), Some("snapshots/2/31/s1/s1"));
        assert_eq!(there("snapshots/2/31/s1/s1-disk0.vmdk"), "a disk");
        let new =
            copied(&lab, snapshot(from(), "snapshots/2/31/other"), snapshot(to(), "snapshots/2/31")).await;
        assert_eq!(new.path(), Some("snapshots/2/31/other"));
        for (missing, kind) in [("snapshots/2/31/s1/s2", "snapshots"), ("volumes/2/7/v2", "volumes")] {
            let (source, destination) = match kind {
                "volumes" => (volume(from(), missing), volume(to(), "volumes/2/7")),
                _ => (snapshot(from(), missing), snapshot(to(), "snapshots/2/31")),
            };
            let command =
                CopyCommand { source: Some(source), destination: Some(destination), ..Default::default() };
            let answer: CopyCmdAnswer = lab.answer(&command).await;
            assert_eq!(answer.answer.details, Some(format!("Can't find src file:{missing}")));
        }

        let files = async |path: &str| {
            let snapshot = SnapshotObjectTO {
                path: Some(path.into()),
                data_store: Some(from()),
                ..SnapshotObjectTO::default()
            };
            let command =
                QuerySnapshotZoneCopyCommand { snapshot: Some(Box::new(snapshot)), ..Default::default() };
            lab.answer::<_, QuerySnapshotZoneCopyAnswer>(&command).await
        };
        let found = files("snapshots/2/31/s1/s1").await;
        assert_eq!(found.files, ["snapshots/2/31/s1/s1-disk0.vmdk", "snapshots/2/31/s1/s1.ovf"]);
        assert!(!files("snapshots/2/31/none").await.answer.result, "its neighbours are not it");

        put("checkpoints/2/31/s1", "a checkpoint");
        let DataTO::Snapshot(mut gone) = snapshot(from(), "snapshots/2/31/s1/s1") else { panic!() };
        gone.checkpoint_path = Some("/mnt/x/checkpoints/2/31/s1".into());
        let delete = DeleteCommand { data: Some(DataTO::Snapshot(gone)), ..Default::default() };
        let answer: Answer = lab.answer(&delete).await;
        assert!(answer.answer.result, "{answer:?}");
        assert_eq!(lab.files("snapshots/2/31"), ["other"], "the folder of its own goes, neighbours stay");
        assert!(!lab.file("a", "checkpoints/2/31/s1").exists());
    });
}
