//! `size`: how large the built image is.

use std::{os::unix::fs::MetadataExt as _, process::Command};

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
}
