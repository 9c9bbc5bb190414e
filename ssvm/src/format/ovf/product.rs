//! What a descriptor says to users: properties that they set, licenses, the operating system.

use std::io::Write as _;

use common::command::storage::{GuestOs, OVFEulaSectionTO, OVFPropertyTO};
use flate2::{Compression, write::GzEncoder};
use roxmltree::Document;

use super::tree::{child, named, told, whole_child};

/// Most properties and licenses.
const PROPERTIES: usize = 2000;
const LICENSES: usize = 50;
const SECTIONS: usize = 500;
/// Where VMware's name of an operating system stands.
const VMWARE: &str = "http://www.vmware.com/schema/ovf";

/// The properties that users may set, in their order.
pub(super) fn properties(document: &Document<'_>) -> Result<Vec<OVFPropertyTO>, String> {
    let mut found = Vec::new();
    for section in named(document, "ProductSection", SECTIONS)? {
        let mut category = None;
        for node in section.children() {
            match node.tag_name().name() {
                "Category" => category = node.text().map(|text| text.trim().chars().take(1000).collect()),
                "Property" => {
                    let is = |name: &str| {
                        Ok::<_, String>(
                            told(node, name)?.is_some_and(|text| text.eq_ignore_ascii_case("true")),
                        )
                    };
                    let Some(key) = told(node, "key")?.filter(|_| is("userConfigurable") == Ok(true)) else {
                        continue;
                    };
                    if found.len() >= PROPERTIES {
                        return Err(format!("the descriptor has more than {PROPERTIES} properties"));
                    }
                    found.push(OVFPropertyTO {
                        key,
                        kind: told(node, "type")?,
                        value: told(node, "value")?,
                        qualifiers: told(node, "qualifiers")?,
                        user_configurable: true,
                        label: child(node, "Label")?,
                        description: child(node, "Description")?,
                        password: is("password")?,
                        index: i32::try_from(found.len()).unwrap_or(i32::MAX),
                        category: category.clone(),
                    });
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The licenses, in their order.
pub(super) fn licenses(document: &Document<'_>) -> Result<Vec<OVFEulaSectionTO>, String> {
    let sections = named(document, "EulaSection", LICENSES)?;
    let license = |(node, index)| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        let text = whole_child(node, "License").unwrap_or_default();
        let bytes = packed.write_all(text.as_bytes()).and_then(|()| packed.finish());
        let bytes = bytes.map_err(|e| format!("a license: {e}"))?;
        let compressed_license = bytes.into_iter().map(u8::cast_signed).collect();
        Ok(OVFEulaSectionTO { info: child(node, "Info")?, compressed_license, index })
    };
    sections.into_iter().zip(0..).map(license).collect()
}

/// The operating system.
pub(super) fn system(document: &Document<'_>) -> Result<Option<GuestOs>, String> {
    let section = document.descendants().find(|node| node.tag_name().name() == "OperatingSystemSection");
    let Some(node) = section else { return Ok(None) };
    let kind = node.attribute((VMWARE, "osType")).map(|kind| kind.chars().take(1000).collect());
    Ok(Some(GuestOs { kind, description: child(node, "Description")? }))
}
