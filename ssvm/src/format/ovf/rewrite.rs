//! Descriptors that are changed in a few places; all else stays as its author wrote it.

use std::ops::Range;

use roxmltree::{Attribute, Node};

use super::{
    hardware::is_item,
    tree::{attribute, parse, text_of, whole_child, within},
};

/// More elements than [`super::read`] lets pass.
const ANY: usize = 100_000;

/// A change of a text: what stands in the range is replaced.
type Edit = (Range<usize>, String);

/// The same machine with one file and the disk in it: others, and the drives that have them, are left out.
pub(crate) fn single(bytes: &[u8], file: &str) -> Result<Vec<u8>, String> {
    let text = text_of(bytes)?;
    let document = parse(text)?;
    let id = |node: Node<'_, '_>, name: &str| attribute(node, name).unwrap_or_default().to_owned();
    let mut gone: Vec<Node<'_, '_>> = Vec::new();
    let (mut other_files, mut other_disks, mut disks) = (Vec::new(), Vec::new(), Vec::new());
    let mut kept = None;
    for node in within(&document, "References", "File", ANY)? {
        if attribute(node, "href") == Some(file) && kept.is_none() {
            kept = Some(id(node, "id"));
        } else {
            other_files.push(id(node, "id"));
            gone.push(node);
        }
    }
    let kept = kept.ok_or_else(|| format!("the descriptor has no file {file:?}"))?;
    for node in within(&document, "DiskSection", "Disk", ANY)? {
        if attribute(node, "fileRef") == Some(kept.as_str()) {
            disks.push(id(node, "diskId"));
        } else {
            other_disks.push(id(node, "diskId"));
            gone.push(node);
        }
    }
    for node in document.descendants().filter(|node| is_item(*node)) {
        let resource = whole_child(node, "HostResource").unwrap_or_default();
        let last = resource.rsplit('/').next().unwrap_or_default().to_owned();
        let is_file = resource.contains("/file/");
        let stays = disks.contains(&last) || (is_file && last == kept);
        let other = other_disks.contains(&last) || (is_file && other_files.contains(&last));
        if other && !stays {
            gone.push(node);
        }
    }
    let edits = gone.into_iter().map(|node| (node.range(), String::new())).collect();
    Ok(edited(text, edits).into_bytes())
}

/// The same package with its files whole and plain: `files` are what they are in the descriptor, what they are called
/// then, and how many bytes they have.
pub(crate) fn plain(bytes: &[u8], files: &[(String, String, u64)]) -> Result<Vec<u8>, String> {
    let text = text_of(bytes)?;
    let document = parse(text)?;
    let mut edits = Vec::new();
    for node in within(&document, "References", "File", ANY)? {
        let Some((_, name, size)) = files.iter().find(|(href, ..)| attribute(node, "href") == Some(href))
        else {
            continue;
        };
        let set = |attribute: Attribute<'_, '_>, value: &str| {
            format!("{}=\"{}\"", &text[attribute.range_qname()], escaped(value))
        };
        for attribute in node.attributes() {
            match attribute.name() {
                "compression" | "chunkSize" => edits.push((attribute.range(), String::new())),
                "href" => edits.push((attribute.range(), set(attribute, name))),
                "size" => edits.push((attribute.range(), set(attribute, &size.to_string()))),
                _ => {}
            }
        }
    }
    Ok(edited(text, edits).into_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// A text with its changes; one within another one does not count.
fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (range, new) in edits {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(&new);
            at = range.end;
        }
    }
    out.push_str(&text[at..]);
    out
}
