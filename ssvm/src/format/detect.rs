//! What an image is, from its first bytes.

use std::fmt;

/// Kinds that matter for the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Qcow2,
    /// Starts with the copy of a VHD footer: dynamic or differencing.
    Vhd,
    Vhdx,
    /// Sparse VMDK with an embedded descriptor.
    Vmdk,
    /// Descriptor or old form of a VMDK, which names other files.
    VmdkParts,
    Vdi,
    Iso,
    Tar,
    Luks,
    /// Compressed within: a second layer is never unpacked.
    Compressed,
    Zip,
    WebPage,
    Executable,
    BootSector,
    Unknown,
}

/// Tells the kind.
pub(crate) fn detect(head: &[u8]) -> Kind {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let starts = [
        (&b"QFI\xfb"[..], Kind::Qcow2),
        (b"conectix", Kind::Vhd),
        (b"vhdxfile", Kind::Vhdx),
        (b"KDMV", Kind::Vmdk),
        (b"COWD", Kind::VmdkParts),
        (b"# Disk DescriptorFile", Kind::VmdkParts),
        (b"LUKS\xba\xbe", Kind::Luks),
        (b"\x1f\x8b", Kind::Compressed),
        (b"BZh", Kind::Compressed),
        (b"\xfd7zXZ\0", Kind::Compressed),
        (b"\x28\xb5\x2f\xfd", Kind::Compressed),
        (b"PK\x03\x04", Kind::Zip),
        (b"\x7fELF", Kind::Executable),
    ];
    if let Some((_, kind)) = starts.iter().find(|(magic, _)| head.starts_with(magic)) {
        return *kind;
    }
    if at(0x40, b"\x7f\x10\xda\xbe") {
        return Kind::Vdi;
    }
    if at(32769, b"CD001") || at(32769, b"BEA01") || at(32769, b"CDROM") {
        return Kind::Iso;
    }
    if at(257, b"ustar") {
        return Kind::Tar;
    }
    if is_web_page(head) {
        return Kind::WebPage;
    }
    if at(510, b"\x55\xaa") { Kind::BootSector } else { Kind::Unknown }
}

fn is_web_page(head: &[u8]) -> bool {
    let start: String = head.iter().take(256).map(|b| char::from(b.to_ascii_lowercase())).collect();
    let start = start.trim_start_matches(['\u{ef}', '\u{bb}', '\u{bf}', ' ', '\n', '\r', '\t']);
    ["<!doctype", "<html", "<?xml", "<head", "<error", "{\""].iter().any(|s| start.starts_with(s))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "QEMU QCOW Image",
            Self::Vhd => "Microsoft Disk Image, Virtual Server or Virtual PC",
            Self::Vhdx => "Microsoft Disk Image eXtended",
            Self::Vmdk => "VMware4 disk image",
            Self::VmdkParts => "VMware disk descriptor",
            Self::Vdi => "VirtualBox disk image",
            Self::Iso => "ISO 9660 CD-ROM filesystem data",
            Self::Tar => "POSIX tar archive",
            Self::Luks => "LUKS encrypted file",
            Self::Compressed => "compressed data",
            Self::Zip => "Zip archive data",
            Self::WebPage => "text of a web page or document",
            Self::Executable => "executable",
            Self::BootSector => "DOS/MBR boot sector",
            Self::Unknown => "data",
        })
    }
}
