//! Descriptors of OVA packages (DMTF DSP0243, "OVF"): which disks there are, and how large.

use roxmltree::{Document, Node, ParsingOptions};

/// Most elements of a descriptor.
const ELEMENTS: u32 = 100_000;
/// Deepest element that is looked at.
const DEEPEST: usize = 64;

/// A disk that a descriptor tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// Member with its content; `None` for an empty disk.
    pub(super) file: Option<String>,
    /// In bytes.
    pub(super) capacity: u64,
}

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) disks: Vec<Disk>,
    /// Members that it names, those of the disks among them.
    pub(super) files: Vec<String>,
}

/// Reads a descriptor. Documents with a type of their own (DOCTYPE) are refused: they could name other files.
pub(super) fn read(bytes: &[u8]) -> Result<Descriptor, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the descriptor is not UTF-8")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if nesting(text) > DEEPEST {
        return Err("the descriptor is nested too deeply".into());
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: ELEMENTS, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| format!("the descriptor: {e}"))?;
    let named =
        |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
    let systems = named("VirtualSystem").count();
    if systems != 1 {
        return Err(format!("found {systems} system definitions in OVA, can only handle exactly one."));
    }
    let mut files = Vec::new();
    for file in named("References").flat_map(|node| node.children()).filter(|n| n.tag_name().name() == "File")
    {
        let (id, href) =
            (attribute(file, "id").unwrap_or_default(), attribute(file, "href").unwrap_or_default());
        if let Some(word) = ["compression", "chunkSize"].iter().find(|word| attribute(file, word).is_some()) {
            return Err(format!("file {href:?} has {word}, which is not supported"));
        }
        files.push((id, href));
    }
    let mut disks = Vec::new();
    for disk in
        named("DiskSection").flat_map(|node| node.children()).filter(|n| n.tag_name().name() == "Disk")
    {
        let reference = attribute(disk, "fileRef");
        let file = match reference {
            Some(wanted) => {
                let found = files.iter().find(|(id, _)| *id == wanted);
                Some(found.ok_or_else(|| format!("a disk has file {wanted:?}, which is none"))?.1.to_owned())
            }
            None => None,
        };
        // A capacity that is no number (a property's) counts as 1.
        let capacity = attribute(disk, "capacity").and_then(|n| n.trim().parse().ok()).unwrap_or(1_u64);
        let unit = unit(attribute(disk, "capacityAllocationUnits").unwrap_or_default());
        let capacity = capacity.checked_mul(unit).ok_or("a disk is too large")?;
        disks.push(Disk { file, capacity });
    }
    let files = files.into_iter().map(|(_, href)| href.to_owned()).collect();
    Ok(Descriptor { disks, files })
}

/// An attribute, of whatever namespace.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|a| a.name() == name).map(|a| a.value())
}

/// Bytes of a unit.
fn unit(text: &str) -> u64 {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    match plain.as_str() {
        "kb" | "kilobytes" | "byte*2^10" => 1 << 10,
        "mb" | "megabytes" | "byte*2^20" => 1 << 20,
        "gb" | "gigabytes" | "byte*2^30" => 1 << 30,
        _ => 1,
    }
}

/// How deeply elements can be nested at most, from their marks alone.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for mark in text.split('<').skip(1) {
        let end = mark.split('>').next().unwrap_or_default();
        match end.as_bytes().first() {
            Some(b'/') => depth = depth.saturating_sub(1),
            Some(b'?' | b'!') => {}
            _ if end.ends_with('/') => {}
            _ => depth += 1,
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:id="f1" ovf:href="a.vmdk" ovf:size="3"/><File ovf:id="f2" ovf:href="b.iso"/></References>
  <DiskSection>
    <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^30"/>
    <Disk ovf:diskId="d2" ovf:capacity="${size}"/>
  </DiskSection>
  <VirtualSystem ovf:id="vm"/>
</Envelope>"#;

    #[test]
    fn disks_and_files() {
        let descriptor = read(GOOD.as_bytes()).unwrap();
        assert_eq!(descriptor.files, ["a.vmdk", "b.iso"]);
        let first = Disk { file: Some("a.vmdk".into()), capacity: 2 << 30 };
        assert_eq!(descriptor.disks, [first, Disk { file: None, capacity: 1 }]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let fails = |from: &str, to: &str| read(GOOD.replace(from, to).as_bytes()).unwrap_err();
        let external = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>";
        assert!(fails("<?xml version=\"1.0\"?>", external).contains("DTD"), "{external}");
        assert!(fails("<VirtualSystem ovf:id=\"vm\"/>", "").starts_with("found 0 system definitions in OVA"));
        assert!(fails("fileRef=\"f1\"", "fileRef=\"f9\"").contains("which is none"));
        assert!(
            fails("href=\"a.vmdk\"", "href=\"a.vmdk\" ovf:compression=\"gzip\"").contains("not supported")
        );
        assert!(fails("capacity=\"2\"", "capacity=\"18446744073709551615\"").contains("too large"));
        let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
        assert!(read(deep.as_bytes()).unwrap_err().contains("too deeply"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[<>a-z/\"=! ]{0,300}") {
            let _ = read(text.as_bytes());
        }
    }
}
