//! A descriptor as a tree of elements, read within bounds.

use roxmltree::{Document, Node, ParsingOptions};

/// Most elements of a descriptor.
const ELEMENTS: u32 = 100_000;
/// Deepest element that is looked at.
const DEEPEST: usize = 64;
/// Longest text of an attribute or element that is told, in bytes.
const LONGEST: usize = 64 * 1024;

/// The text of a descriptor.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the descriptor is not UTF-8")?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Reads a descriptor. Documents with a type of their own (DOCTYPE) are refused: they could name other files.
pub(super) fn parse(text: &str) -> Result<Document<'_>, String> {
    if nesting(text) > DEEPEST {
        return Err("the descriptor is nested too deeply".into());
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: ELEMENTS, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|e| format!("the descriptor: {e}"))
}

/// All elements of a name, of whatever namespace; an error where there are more than `most`.
pub(super) fn named<'a, 'i>(
    document: &'a Document<'i>,
    name: &str,
    most: usize,
) -> Result<Vec<Node<'a, 'i>>, String> {
    few(document.descendants().filter(|node| node.tag_name().name() == name), name, most)
}

/// The elements of a name within those of another one.
pub(super) fn within<'a, 'i>(
    document: &'a Document<'i>,
    section: &str,
    name: &str,
    most: usize,
) -> Result<Vec<Node<'a, 'i>>, String> {
    let sections = document.descendants().filter(|node| node.tag_name().name() == section);
    let inner = sections.flat_map(|node| node.children()).filter(|node| node.tag_name().name() == name);
    few(inner, name, most)
}

/// Those that there are, if they are not too many.
pub(super) fn few<T>(all: impl Iterator<Item = T>, name: &str, most: usize) -> Result<Vec<T>, String> {
    let found: Vec<T> = all.take(most + 1).collect();
    if found.len() > most {
        return Err(format!("the descriptor has more than {most} elements {name}"));
    }
    Ok(found)
}

/// An attribute, of whatever namespace.
pub(super) fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|a| a.name() == name).map(|a| a.value())
}

/// An attribute that is told; nothing where it is empty.
pub(super) fn told(node: Node<'_, '_>, name: &str) -> Result<Option<String>, String> {
    attribute(node, name).map_or(Ok(None), |value| short(value, name))
}

/// The text of the first child of a name.
pub(super) fn child(node: Node<'_, '_>, name: &str) -> Result<Option<String>, String> {
    whole_child(node, name).map_or(Ok(None), |text| short(&text, name))
}

/// The same, however long it is.
pub(super) fn whole_child(node: Node<'_, '_>, name: &str) -> Option<String> {
    let child = node.children().find(|child| child.tag_name().name() == name)?;
    let texts = child.descendants().filter(|inner| inner.is_text()).filter_map(|inner| inner.text());
    Some(texts.collect::<String>().trim().to_owned()).filter(|text| !text.is_empty())
}

fn short(text: &str, name: &str) -> Result<Option<String>, String> {
    if text.len() > LONGEST {
        return Err(format!("{name} in the descriptor has {} bytes", text.len()));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.trim().is_empty()))
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
