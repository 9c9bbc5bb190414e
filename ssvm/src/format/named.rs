//! What the name of a file says of its format.

use common::command::storage::ImageFormat;

use super::Kind;

/// Endings of what is undone on the way.
const PACKED: [&str; 5] = ["gz", "bz2", "xz", "zst", "zip"];

/// The formats that a name may stand for; `None` where it says nothing.
pub(crate) fn named(name: &str) -> Option<&'static [ImageFormat]> {
    let name = name.to_ascii_lowercase();
    let plain = PACKED.iter().find_map(|end| name.strip_suffix(end)?.strip_suffix('.')).unwrap_or(&name);
    let (_, extension) = plain.rsplit_once('.')?;
    Some(match extension {
        "img" => &[ImageFormat::Qcow2, ImageFormat::Raw],
        "qcow2" => &[ImageFormat::Qcow2],
        "raw" => &[ImageFormat::Raw],
        "iso" => &[ImageFormat::Iso],
        "vhd" => &[ImageFormat::Vhd],
        "vhdx" => &[ImageFormat::Vhdx],
        "vmdk" => &[ImageFormat::Vmdk],
        "vdi" => &[ImageFormat::Vdi],
        "ova" => &[ImageFormat::Ova],
        "tar" => &[ImageFormat::Tar],
        _ => return None,
    })
}

impl Kind {
    /// Whether a file of this kind may have the name.
    pub(crate) fn fits(self, name: &str) -> bool {
        named(name).unwrap_or_default().iter().any(|format| match format {
            ImageFormat::Qcow2 => self == Self::Qcow2,
            ImageFormat::Raw => matches!(self, Self::BootSector | Self::Unknown),
            ImageFormat::Iso => matches!(self, Self::Iso | Self::BootSector),
            // A fixed disk begins with its own first sector.
            ImageFormat::Vhd => matches!(self, Self::Vhd | Self::BootSector | Self::Unknown),
            ImageFormat::Vhdx => self == Self::Vhdx,
            ImageFormat::Vmdk => matches!(self, Self::Vmdk | Self::VmdkParts | Self::Unknown),
            ImageFormat::Vdi => self == Self::Vdi,
            ImageFormat::Ova | ImageFormat::Tar => self == Self::Tar,
            ImageFormat::Zip | ImageFormat::Other => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_formats() {
        assert_eq!(named("a.b.QCOW2.gz"), Some(&[ImageFormat::Qcow2][..]));
        assert_eq!(named("disk.img"), Some(&[ImageFormat::Qcow2, ImageFormat::Raw][..]));
        for nothing in ["disk", "disk.gz", "gz", "disk.txt", ""] {
            assert_eq!(named(nothing), None, "{nothing}");
        }
        for (kind, name, fits) in [
            (Kind::Qcow2, "x.qcow2", true),
            (Kind::Qcow2, "x.img.xz", true),
            (Kind::BootSector, "x.img", true),
            (Kind::BootSector, "x.iso", true),
            (Kind::Unknown, "x.vhd", true),
            (Kind::Qcow2, "x.raw", false),
            (Kind::WebPage, "x.raw", false),
            (Kind::Unknown, "x", false),
            (Kind::Iso, "x.ova", false),
        ] {
            assert_eq!(kind.fits(name), fits, "{kind} {name}");
        }
    }
}
