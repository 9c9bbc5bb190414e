//! Images made by qemu-img are judged as qemu-img sees them; hostile ones are refused.

use std::{path::Path, process::Command};

use proptest::prelude::*;

use super::*;

fn judge(format: ImageFormat, bytes: &[u8]) -> Result<Sizes, Refusal> {
    let mut inspector = Inspector::new(Some(format));
    for chunk in bytes.chunks(70_001) {
        inspector.feed(chunk)?;
    }
    inspector.finish()
}

/// The bytes of an image made by `qemu-img create` with these words; `image` stands for its path.
fn made(words: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let words: Vec<&str> =
        words.iter().map(|w| if *w == "image" { image.to_str().unwrap() } else { *w }).collect();
    let out = Command::new("qemu-img").current_dir(&folder).arg("create").args(&words).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(Path::new(&image)).unwrap()
}

#[test]
fn sizes_of_good_images() {
    let gib = 1 << 30;
    for (format, words) in [
        (ImageFormat::Qcow2, &["-f", "qcow2", "image", "1G"][..]),
        (ImageFormat::Qcow2, &["-f", "qcow2", "-o", "compat=0.10", "image", "1G"][..]),
        (ImageFormat::Qcow2, &["-f", "qcow2", "-o", "compression_type=zstd", "image", "1G"][..]),
        (ImageFormat::Vmdk, &["-f", "vmdk", "image", "1G"][..]),
        (ImageFormat::Vhdx, &["-f", "vhdx", "image", "1G"][..]),
        (ImageFormat::Vhdx, &["-f", "vhdx", "-o", "block_size=1M", "image", "1G"][..]),
        (ImageFormat::Vdi, &["-f", "vdi", "image", "1G"][..]),
        (ImageFormat::Vmdk, &["-f", "vmdk", "-o", "subformat=streamOptimized", "image", "1G"][..]),
    ] {
        let bytes = made(words);
        let sizes = judge(format, &bytes).unwrap_or_else(|e| panic!("{words:?}: {}", e.reason()));
        assert_eq!((sizes.virtual_size, sizes.physical_size), (gib, bytes.len() as u64), "{words:?}");
    }
    for subformat in ["subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"] {
        let bytes = made(&["-f", "vpc", "-o", subformat, "image", "16M"]);
        assert_eq!(judge(ImageFormat::Vhd, &bytes).unwrap().virtual_size, 16 << 20, "{subformat}");
    }
    let raw = vec![7; 2 << 20];
    assert_eq!(judge(ImageFormat::Raw, &raw).unwrap().virtual_size, 2 << 20);
    let mut iso = vec![0; 65536];
    iso[32769..32774].copy_from_slice(b"CD001");
    assert_eq!(judge(ImageFormat::Iso, &iso).unwrap().physical_size, 65536);
}

#[test]
fn images_that_lean_on_other_files_are_refused() {
    let reason = |format, words: &[&str]| judge(format, &made(words)).unwrap_err().reason();
    let backing = ["-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", "image", "1G"];
    assert_eq!(reason(ImageFormat::Qcow2, &backing), "it has a backing file");
    let data = ["-f", "qcow2", "-o", "data_file=d", "image", "1G"];
    assert_eq!(reason(ImageFormat::Qcow2, &data), "it has an external data file");
    let extended = ["-f", "qcow2", "-o", "extended_l2=on", "image", "1G"];
    assert!(reason(ImageFormat::Qcow2, &extended).contains("incompatible features"));
    let flat = ["-f", "vmdk", "-o", "subformat=monolithicFlat", "image", "1G"];
    assert!(reason(ImageFormat::Vmdk, &flat).contains("VMware disk descriptor"));
}

#[test]
fn a_vhd_that_leans_on_another_is_refused() {
    let parent = vhd::Parent { uuid: [7; 16], places: vec![(*b"W2ru", ".\\base.vhd".into())] };
    let sectors = [(0, [1; 512])].into();
    let delta = vhd::build(4 << 20, 2 << 20, [8; 16], Some(&parent), &sectors);
    assert_eq!(
        judge(ImageFormat::Vhd, &delta).unwrap_err().reason(),
        refusal_of("it is a differencing disk")
    );
    assert!(judge(ImageFormat::Raw, &delta).is_err(), "nor as something else");
    let whole = vhd::build(4 << 20, 2 << 20, [8; 16], None, &sectors);
    assert_eq!(judge(ImageFormat::Vhd, &whole).unwrap().virtual_size, 4 << 20);
}

fn refusal_of(reason: &str) -> String {
    Refusal::Invalid { format: ImageFormat::Vhd, reason: reason.into() }.to_string()
}

#[test]
fn what_a_header_may_say_and_an_archive_are_taken() {
    // Not shut down in order, and marked as damaged: whoever opens it repairs it.
    let mut dirty = made(&["-f", "qcow2", "image", "1G"]);
    dirty[79] |= 0b11;
    assert_eq!(judge(ImageFormat::Qcow2, &dirty).unwrap().virtual_size, 1 << 30);
    assert!(judge(ImageFormat::Qcow2, &dirty[..60]).is_err());
    let mut archive = vec![0; 10_240];
    archive[257..262].copy_from_slice(b"ustar");
    let sizes = judge(ImageFormat::Tar, &archive).unwrap();
    assert_eq!((sizes.virtual_size, sizes.physical_size), (10_240, 10_240));
}

#[test]
fn vhdx_and_vdi_that_lean_on_others_are_refused() {
    let reason = |format, bytes: &[u8]| judge(format, bytes).unwrap_err().reason();
    let good = made(&["-f", "vhdx", "image", "1G"]);
    let patched = |at: &[usize], value: u8| {
        let mut bytes = good.clone();
        at.iter().for_each(|at| bytes[*at] = value);
        reason(ImageFormat::Vhdx, &bytes)
    };
    assert!(patched(&[64 * 1024 + 50], 1).contains("log"));
    assert!(patched(&[256 * 1024 + 40], 1).contains("region tables differ"));
    // The flag of the file parameters, and the item of a parent in place of another one.
    let at = |needle: &[u8]| good.windows(needle.len()).position(|w| w == needle).unwrap();
    let table = at(b"metadata");
    let parameters = at(&[0x37, 0x67, 0xa1, 0xca]);
    let item = table + le32(&good, parameters + 16).unwrap() as usize;
    assert!(patched(&[item + 4], 2).contains("parent"));
    let mut parent = good.clone();
    parent[parameters..parameters + 16]
        .copy_from_slice(b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c");
    assert!(reason(ImageFormat::Vhdx, &parent).contains("parent"));
    for length in [1000, 1 << 20, table + 100_000] {
        assert!(reason(ImageFormat::Vhdx, &good[..length]).contains("cut"), "{length}");
    }
    assert!(judge(ImageFormat::Vhd, &good).is_err());

    let folder = tempfile::tempdir().unwrap();
    let (raw, vdi) = (folder.path().join("raw"), folder.path().join("vdi"));
    std::fs::write(&raw, vec![7; 3 << 20]).unwrap();
    let done =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "vdi"]).args([&raw, &vdi]).status();
    assert!(done.unwrap().success());
    let good = std::fs::read(vdi).unwrap();
    assert_eq!(judge(ImageFormat::Vdi, &good).unwrap().virtual_size, 3 << 20);
    assert!(reason(ImageFormat::Vdi, &good[..good.len() - 4096]).contains("cut"));
    for (at, value, text) in [(0x4c, 4, "differencing"), (0x1a8, 1, "parent"), (0x46, 2, "version")] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(reason(ImageFormat::Vdi, &bytes).contains(text));
    }
}

#[test]
fn a_patched_header_does_not_hide_a_data_file() {
    let mut bytes = made(&["-f", "qcow2", "-o", "data_file=d", "image", "1G"]);
    bytes[79] &= !0b100;
    assert_eq!(judge(ImageFormat::Qcow2, &bytes).unwrap_err().reason(), "it names an external data file");
    let mut luks = made(&["-f", "qcow2", "image", "1G"]);
    luks[35] = 2;
    assert_eq!(judge(ImageFormat::Qcow2, &luks).unwrap_err().reason(), "it is encrypted");
    let mut huge = made(&["-f", "qcow2", "image", "1G"]);
    huge[24] = 0x7f;
    assert!(judge(ImageFormat::Qcow2, &huge).is_err());
}

#[test]
fn a_cut_image_is_refused_and_a_whole_one_is_not() {
    for format in ["qcow2", "vpc"] {
        for options in [&[][..], &["-o", "preallocation=metadata"], &["-o", "refcount_bits=1"]] {
            if format == "vpc" && !options.is_empty() {
                continue;
            }
            let whole = made(&[&["-f", format], options, &["image", "64M"]].concat());
            let declared = if format == "vpc" { ImageFormat::Vhd } else { ImageFormat::Qcow2 };
            assert!(judge(declared, &whole).is_ok(), "{options:?}");
            let cut = judge(declared, &whole[..whole.len() / 2]);
            assert!(cut.unwrap_err().reason().contains("it is cut after"), "{options:?}");
        }
    }
}

#[test]
fn declared_and_found_must_agree() {
    let qcow2 = made(&["-f", "qcow2", "image", "1G"]);
    assert!(matches!(judge(ImageFormat::Raw, &qcow2), Err(Refusal::Mismatch { .. })));
    assert!(matches!(judge(ImageFormat::Vmdk, &qcow2), Err(Refusal::Mismatch { .. })));
    let page = b"<!DOCTYPE html><html>no".repeat(100);
    for format in [ImageFormat::Qcow2, ImageFormat::Raw, ImageFormat::Vhd, ImageFormat::Iso] {
        let text = judge(format, &page).unwrap_err().to_string();
        assert!(text.starts_with("Failed to install: Template content is unsupported"), "{text}");
    }
    assert!(judge(ImageFormat::Qcow2, b"QFI\xfb\0\0\0\x03 much too short").is_err());
    assert!(judge(ImageFormat::Raw, b"").is_err());
    assert!(judge(ImageFormat::Vhd, &vec![1; 3 << 20]).is_err());
}

#[test]
fn snapshots_are_only_counted() {
    let backing = made(&["-f", "qcow2", "-u", "-b", "base", "-F", "qcow2", "image", "1G"]);
    let mut inspector = Inspector::new(None);
    inspector.feed(&backing).unwrap();
    assert_eq!(inspector.finish().unwrap().physical_size, backing.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_bytes_upset_an_inspector(magic in 0_usize..9, mut bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let magics: [&[u8]; 9] = [b"", b"QFI\xfb\0\0\0\x03", b"QFI\xfb\0\0\0\x02", b"conectix", b"KDMV\x01\0\0\0", b"vhdxfile",
            b"COWD", b"PK\x03\x04", b"\x7fELF"];
        let magic = magics[magic];
        if bytes.len() >= magic.len() {
            bytes[..magic.len()].copy_from_slice(magic);
        }
        for format in ImageFormat::FILES {
            let _ = judge(format, &bytes);
        }
    }

    #[test]
    fn no_vhdx_upsets_an_inspector(changes in proptest::collection::vec((0_usize..700_000, any::<u8>()), 1..40)) {
        static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = GOOD.get_or_init(|| made(&["-f", "vhdx", "image", "1G"])).clone();
        for (at, value) in changes {
            // The tables, and then the metadata.
            let at = if at < 350_000 { at } else { (3 << 20) + at - 350_000 };
            bytes[at] = value;
        }
        let _ = judge(ImageFormat::Vhdx, &bytes);
    }

    #[test]
    fn a_flipped_header_never_gets_a_backing_file_through(at in 4_usize..112, value in any::<u8>()) {
        let mut header = vec![0_u8; 65536];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[23] = 16;
        header[30] = 1;
        header[103] = 104;
        prop_assert!(judge(ImageFormat::Qcow2, &header).is_ok());
        header[at] = value;
        if be64(&header, 8) != Some(0) || be64(&header, 72).is_some_and(|f| f & 4 != 0) {
            prop_assert!(judge(ImageFormat::Qcow2, &header).is_err());
        }
    }
}
