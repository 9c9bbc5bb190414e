//! `size`: how large the built image is, beside one with the packages of the reference's template, and what it is
//! made of.

use std::{os::unix::fs::MetadataExt as _, path::Path, process::Command};

use super::{Figure, Floor};
use crate::lab::vm::image_folder;

/// Prints the sizes of the image and of its root.
pub fn run() {
    let folder = image_folder();
    let disk = folder.join("trivium.qcow2");
    let info =
        Command::new("qemu-img").args(["info", "--output=json"]).arg(&disk).output().expect("qemu-img");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).expect("JSON of qemu-img info");
    let file = |name: &str| std::fs::metadata(folder.join(name)).map_or(f64::NAN, |m| m.len() as f64);
    let blocks = std::fs::metadata(&disk).map_or(f64::NAN, |m| m.blocks() as f64 * 512.0);
    for (name, bytes, at_most) in [
        ("size_virtual", info["virtual-size"].as_f64().unwrap_or(f64::NAN), None),
        ("size_compressed", file("trivium.qcow2"), Some(100.0)),
        ("size_on_disk", blocks, None),
        ("size_root", file("root.squashfs"), None),
        ("size_kernel", file("vmlinuz"), None),
        ("size_initrd", file("initrd"), None),
    ] {
        Figure::host(name, "MB", vec![bytes / 1e6], at_most.map(Floor::AtMost)).print();
    }
    if let Ok(stock) = std::fs::metadata(folder.join("../cache/stock/stock.qcow2")) {
        let ours = vec![file("trivium.qcow2") / 1e6];
        Figure::host("size_beside_stock", "MB", ours, Some(Floor::RatioAtMost(0.25)))
            .against("stock", vec![stock.len() as f64 / 1e6])
            .print();
    } else {
        println!("# size_beside_stock was not measured: tests/stock/build has made no image");
    }
    for (path, bytes) in largest(&folder.join("root.squashfs"), 10) {
        println!("# {:.1} MB before compression: {path}", bytes as f64 / 1e6);
    }
}

/// The largest files of a root, with their sizes in bytes.
fn largest(root: &Path, count: usize) -> Vec<(String, u64)> {
    let listed = Command::new("unsquashfs").arg("-lls").arg(root).output().expect("unsquashfs");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let mut files: Vec<(String, u64)> = listed
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let path = words.last()?.strip_prefix("squashfs-root")?;
            Some((path.to_owned(), words.get(2)?.parse().ok()?))
        })
        .collect();
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    files.truncate(count);
    files
}
