//! Chains of any shape against what they should hold, with qemu-img as the reader of the outcome; and chains that are
//! not what they seem.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use proptest::prelude::*;

use super::*;
use crate::format::vhd::{Parent, build};

const SIZE: u64 = 9 << 20;

type Sectors = BTreeMap<u64, [u8; 512]>;

/// A disk of a chain: sectors that are written to and with what, bytes of its blocks, bytes of the disk.
#[derive(Debug, Clone)]
struct Disk {
    writes: Vec<(u64, u64, u8)>,
    block: u64,
    size: u64,
}

impl Disk {
    fn sectors(&self) -> Sectors {
        let mut sectors = Sectors::new();
        for (from, count, value) in &self.writes {
            for sector in *from..(from + count).min(self.size / 512) {
                sectors.insert(sector, [*value; 512]);
            }
        }
        sectors
    }
}

fn uuid(number: usize) -> [u8; 16] {
    [number as u8 + 1; 16]
}

fn parent(number: usize) -> Parent {
    Parent { uuid: uuid(number), places: vec![(*b"MACX", format!("file://./{number}.vhd"))] }
}

/// Writes a chain, the oldest disk first, and returns the folder in which it lies.
fn chain(root: &Path, disks: &[Disk]) {
    let folder = root.join("snapshots/2/31");
    fs::create_dir_all(&folder).unwrap();
    for (number, disk) in disks.iter().enumerate() {
        let below = number.checked_sub(1).map(parent);
        let bytes = build(disk.size, disk.block, uuid(number), below.as_ref(), &disk.sectors());
        fs::write(folder.join(format!("{number}.vhd")), bytes).unwrap();
    }
}

/// The file that comes of the chain whose newest disk has this name.
async fn flattened(root: &Path, name: &str) -> Result<Vec<u8>, String> {
    let store = FolderStore::open(root.to_str().unwrap(), "j").await.map_err(|e| e.to_string())?;
    let path = StorePath::parse("snapshots/2/31").unwrap().join(name).unwrap();
    let mut source = Flattened::open(store, &path, [9; 16]).await.map_err(|f| f.text)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = source.chunk().await.map_err(|e| e.to_string())? {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(source.size(), Some(bytes.len() as u64));
    Ok(bytes)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The content of a VHD as qemu-img reads it.
fn content(folder: &Path, vhd: &[u8]) -> Vec<u8> {
    let (image, raw) = (folder.join("image.vhd"), folder.join("image.raw"));
    fs::write(&image, vhd).unwrap();
    let out = Command::new("qemu-img")
        .args(["convert", "-f", "vpc", "-O", "raw"])
        .args([&image, &raw])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::read(&raw).unwrap()
}

fn merged(disks: &[Disk]) -> Vec<u8> {
    let size = disks.last().unwrap().size;
    let mut all = vec![0; size as usize];
    for disk in disks {
        for (sector, bytes) in disk.sectors() {
            if sector * 512 < size {
                all[sector as usize * 512..][..512].copy_from_slice(&bytes);
            }
        }
    }
    all
}

fn disks() -> impl Strategy<Value = Vec<Disk>> {
    let writes = prop::collection::vec((0..SIZE / 512, 1..6000_u64, any::<u8>()), 0..6);
    let block = prop_oneof![3 => Just(2_u64 << 20), 1 => Just(512 << 10), 1 => Just(4 << 20)];
    let size = prop_oneof![3 => Just(SIZE), 1 => (1..SIZE / 512).prop_map(|sectors| sectors * 512)];
    let disk = (writes, block, size).prop_map(|(writes, block, size)| Disk { writes, block, size });
    prop::collection::vec(disk, 1..=4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_chain_becomes_one_disk_with_the_same_content(disks in disks()) {
        let root = tempfile::tempdir().unwrap();
        chain(root.path(), &disks);
        let bytes = run(flattened(root.path(), &format!("{}.vhd", disks.len() - 1))).unwrap();
        prop_assert!(content(root.path(), &bytes) == merged(&disks));
        // What came of it is a disk like those that it was made of.
        fs::write(root.path().join("snapshots/2/31/again.vhd"), &bytes).unwrap();
        let again = run(flattened(root.path(), "again.vhd")).unwrap();
        prop_assert!(again == bytes);
    }

    /// Any damage to what describes a disk: another content at worst, or a refusal.
    #[test]
    fn a_damaged_chain_is_read_or_refused(at in 0_usize..4096, value: u8, which in 0_usize..2) {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk { writes: vec![(5, 9, 7)], block: 2 << 20, size: 4 << 20 };
        chain(root.path(), &[disk.clone(), disk]);
        let file = root.path().join(format!("snapshots/2/31/{which}.vhd"));
        let mut bytes = fs::read(&file).unwrap();
        bytes[at] = value;
        fs::write(&file, bytes).unwrap();
        if let Ok(bytes) = run(flattened(root.path(), "1.vhd")) {
            prop_assert!(content(root.path(), &bytes).len() == 4 << 20);
        }
    }
}

#[test]
fn disks_of_other_makers() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("snapshots/2/31");
    fs::create_dir_all(&folder).unwrap();
    for kind in ["dynamic", "fixed"] {
        let (raw, base) = (folder.join("base.raw"), folder.join(format!("{kind}.vhd")));
        let mut plain = vec![0_u8; 4 << 20];
        plain[3_000_000..3_100_000].fill(5);
        fs::write(&raw, &plain).unwrap();
        let options = format!("subformat={kind},force_size=on");
        let out = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vpc", "-o", &options])
            .args([&raw, &base])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let made = fs::read(&base).unwrap();
        let footer = Footer::parse(&made[made.len() - 512..]).unwrap();
        // The other names lead nowhere, or out of the folder.
        let places = vec![
            (*b"W2ku", "C:\\disks\\dynamic.vhd".to_owned()),
            (*b"MACX", "file:///var/run/dynamic.vhd".to_owned()),
            (*b"W2ru", format!(".\\{kind}.vhd")),
        ];
        let below = Parent { uuid: footer.uuid, places };
        let sectors = Sectors::from([(0, [1; 512]), (5870, [2; 512])]);
        fs::write(folder.join("top.vhd"), build(4 << 20, 2 << 20, uuid(1), Some(&below), &sectors)).unwrap();
        let bytes = run(flattened(root.path(), "top.vhd")).unwrap();
        plain[..512].fill(1);
        plain[5870 * 512..][..512].fill(2);
        assert!(content(root.path(), &bytes) == plain, "{kind}");
    }
}

#[test]
fn chains_that_are_not_what_they_seem_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("snapshots/2/31");
    let disk = Disk { writes: vec![(5, 9, 7), (5000, 3, 8)], block: 2 << 20, size: 4 << 20 };
    let fails = |change: &dyn Fn()| {
        let _ = fs::remove_dir_all(&folder);
        chain(root.path(), &[disk.clone(), disk.clone(), disk.clone()]);
        change();
        run(flattened(root.path(), "2.vhd")).unwrap_err()
    };
    let file = |name: &str| folder.join(name);
    let put = |name: &str, parent: Option<&Parent>, number: usize| {
        fs::write(file(name), build(4 << 20, 2 << 20, uuid(number), parent, &disk.sectors())).unwrap();
    };
    let named =
        |number: usize, place: &str| Parent { uuid: uuid(number), places: vec![(*b"MACX", place.into())] };
    assert!(fails(&|| fs::remove_file(file("0.vhd")).unwrap()).contains("not in its folder: 0.vhd"));
    assert!(fails(&|| put("0.vhd", None, 7)).contains("is another disk"));
    assert!(fails(&|| put("0.vhd", Some(&parent(2)), 0)).contains("2.vhd builds on itself"));
    assert!(fails(&|| put("1.vhd", Some(&parent(1)), 1)).contains("1.vhd builds on itself"));
    for outside in ["file:///etc/0.vhd", "file://./../31/0.vhd", "file://./x/0.vhd", "file://..", "0.vhd\0/x"]
    {
        assert!(
            fails(&|| put("1.vhd", Some(&named(0, outside)), 1)).contains("not in its folder"),
            "{outside}"
        );
    }
    let link = || {
        fs::rename(file("0.vhd"), root.path().join("0.vhd")).unwrap();
        std::os::unix::fs::symlink(root.path().join("0.vhd"), file("0.vhd")).unwrap();
    };
    assert!(fails(&link).contains("not in its folder"));
    // The table of the newest disk begins behind its header and the name of the disk below.
    let entry = |number: usize, value: u32| {
        let mut bytes = fs::read(file("2.vhd")).unwrap();
        bytes[2048 + number * 4..][..4].copy_from_slice(&value.to_be_bytes());
        fs::write(file("2.vhd"), bytes).unwrap();
    };
    let other = || {
        let bytes = fs::read(file("2.vhd")).unwrap();
        u32::from_be_bytes(bytes[2052..2056].try_into().unwrap())
    };
    assert!(fails(&|| entry(0, 1 << 24)).contains("ends behind them"));
    assert!(fails(&|| entry(0, u32::MAX - 1)).contains("ends behind them"));
    assert!(fails(&|| entry(0, other())).contains("lie over each other"));
    assert!(fails(&|| entry(0, other() + 1)).contains("over each other"));
    assert!(fails(&|| entry(0, 2)).contains("over each other"));
    let cut =
        |bytes: u64| fs::OpenOptions::new().write(true).open(file("1.vhd")).unwrap().set_len(bytes).unwrap();
    for bytes in [0, 511, 512, 1000, 2000, 2_000_000] {
        let failure = fails(&|| cut(bytes));
        assert!(failure.contains("cut") || failure.contains("ends behind them"), "{bytes}: {failure}");
    }
    assert!(fails(&|| fs::write(file("0.vhd"), vec![7; 4096]).unwrap()).contains("it is no VHD"));
}
