//! `template.properties` and `volume.properties`: Java property files beside the images.

use std::collections::BTreeMap;

use common::command::storage::{ImageFormat, TemplateProp};

use super::StorePath;

/// Largest property file that is read, in bytes.
pub(crate) const LIMIT: usize = 64 * 1024;

/// Keys and values of a property file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(BTreeMap<String, String>);

/// What is installed in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Name of the image file.
    pub(crate) filename: String,
    /// Text for users.
    pub(crate) description: String,
    /// Unique name of a template, name of a volume.
    pub(crate) unique_name: String,
    /// Number at the management server.
    pub(crate) id: i64,
    /// Runs with full virtualisation.
    pub(crate) hvm: bool,
    /// Format of the image.
    pub(crate) format: ImageFormat,
    /// Virtual size in bytes.
    pub(crate) virtual_size: u64,
    /// Bytes of the file.
    pub(crate) physical_size: u64,
    /// Checksum as it was asked for; written for volumes only.
    pub(crate) checksum: Option<String>,
}

impl Entry {
    /// The property file that describes it.
    pub(crate) fn properties(&self) -> Properties {
        let extension = self.format.extension();
        let mut map = BTreeMap::new();
        let mut set = |key: String, value: String| map.insert(key, value);
        set("filename".into(), self.filename.clone());
        set("description".into(), self.description.clone());
        set("hvm".into(), self.hvm.to_string());
        set("size".into(), self.physical_size.to_string());
        set("id".into(), self.id.to_string());
        set("public".into(), "true".into());
        set("uniquename".into(), self.unique_name.clone());
        set("virtualsize".into(), self.virtual_size.to_string());
        set(extension.into(), "true".into());
        set(format!("{extension}.filename"), self.filename.clone());
        set(format!("{extension}.size"), self.physical_size.to_string());
        set(format!("{extension}.virtualsize"), self.virtual_size.to_string());
        if let Some(checksum) = &self.checksum {
            set("checksum".into(), checksum.clone());
        }
        Properties(map)
    }
}

impl Properties {
    /// Reads a property file; whatever bytes it holds, the result is what a Java reader would see.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        let mut map = BTreeMap::new();
        for line in logical_lines(&text) {
            let (key, value) = split(&line);
            map.insert(unescape(key), unescape(value));
        }
        Self(map)
    }

    /// The file's bytes.
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut out = String::from("#\n");
        for (key, value) in &self.0 {
            out.push_str(&escape(key, true));
            out.push('=');
            out.push_str(&escape(value, false));
            out.push('\n');
        }
        out.into_bytes()
    }

    /// The same with one more.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// What a property file in `folder` says is installed there; `None` where an install has not finished.
pub(crate) fn entry_of(folder: &StorePath, properties: &Properties) -> Option<TemplateProp> {
    let number = |key: &str| properties.get(key).and_then(|v| v.trim().parse::<i64>().ok()).unwrap_or(-1);
    let unique_name = properties.get("uniquename")?;
    properties.get("virtualsize")?;
    let formats: Vec<&str> = ImageFormat::FILES
        .iter()
        .map(|f| f.extension())
        .filter(|e| properties.get(e).is_some() && properties.get(&format!("{e}.filename")).is_some())
        .collect();
    if formats.is_empty() {
        return None;
    }
    let sizes_wrong =
        formats.iter().any(|e| number(&format!("{e}.size")) <= 0 || number(&format!("{e}.virtualsize")) <= 0);
    let file =
        properties.get("filename").and_then(|name| folder.join(name).ok().filter(|_| !name.is_empty()));
    Some(TemplateProp {
        template_name: unique_name.to_owned(),
        is_corrupted: sizes_wrong || file.is_none(),
        install_path: file.map_or_else(|| folder.to_string(), String::from),
        size: number("virtualsize"),
        physical_size: number("size"),
        id: number("id").max(0),
        is_public: properties.get("public") == Some("true"),
    })
}

/// Lines with continuations joined, without blank lines and comments.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for raw in text.split(['\n', '\r']) {
        let part = raw.trim_start_matches([' ', '\t', '\x0c']);
        let mut line = match open.take() {
            Some(line) => line + part,
            None if part.is_empty() || part.starts_with(['#', '!']) => continue,
            None => part.to_owned(),
        };
        if line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
            line.pop();
            open = Some(line);
        } else {
            lines.push(line);
        }
    }
    lines.extend(open);
    lines
}

/// Splits a line at the first separator that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\x0c');
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if !escaped && (c == '=' || c == ':' || blank(c)) {
            let rest = line[at..].trim_start_matches(blank);
            let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
            return (&line[..at], rest.trim_start_matches(blank));
        }
        escaped = c == '\\' && !escaped;
    }
    (line, "")
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut units: Vec<u16> = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some(other) => other,
                None => continue,
            },
            other => other,
        };
        flush(&mut units, &mut out);
        out.push(plain);
    }
    flush(&mut units, &mut out);
    out
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    out.push_str(&String::from_utf16_lossy(units));
    units.clear();
}

fn escape(text: &str, key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0c' => out.push_str("\\f"),
            '=' | ':' | '#' | '!' => out.extend(['\\', c]),
            ' ' if key || at == 0 => out.push_str("\\ "),
            ' '..='~' => out.push(c),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            filename: "3f.qcow2".into(),
            description: "x\nfilename=../../evil".into(),
            unique_name: "201-2-0b1c".into(),
            id: 201,
            hvm: true,
            format: ImageFormat::Qcow2,
            virtual_size: 10_737_418_240,
            physical_size: 196_616,
            checksum: None,
        }
    }

    #[test]
    fn a_description_cannot_change_another_key() {
        let read = Properties::parse(&entry().properties().render());
        assert_eq!(read, entry().properties());
        let folder = StorePath::parse("template/tmpl/2/201").unwrap();
        let listed = entry_of(&folder, &read).unwrap();
        assert_eq!(listed.install_path, "template/tmpl/2/201/3f.qcow2");
        assert_eq!((listed.size, listed.physical_size, listed.id), (10_737_418_240, 196_616, 201));
        assert!(listed.is_public && !listed.is_corrupted);
    }

    #[test]
    fn seeded_files_of_the_management_server_are_read() {
        let text =
            b"#\n#Sat Nov 21 2026\nfilename=ab.qcow2\ndescription=SystemVM Template\nhvm=false\nsize=1000\n\
            qcow2=true\nid=3\npublic=true\nqcow2.filename=ab.qcow2\nuniquename=routing-3\n\
            qcow2.virtualsize=2000\nvirtualsize=2000\nqcow2.size=1000\n";
        let listed =
            entry_of(&StorePath::parse("template/tmpl/1/3").unwrap(), &Properties::parse(text)).unwrap();
        assert_eq!((listed.template_name.as_str(), listed.size), ("routing-3", 2000));
    }

    #[test]
    fn unfinished_and_corrupted_entries() {
        let folder = StorePath::parse("template/tmpl/2/9").unwrap();
        let of = |text: &str| entry_of(&folder, &Properties::parse(text.as_bytes()));
        assert_eq!(of(""), None);
        assert_eq!(of("uniquename=a\nvirtualsize=5\n"), None);
        let zero = "uniquename=a\nvirtualsize=5\nfilename=a.raw\nraw=false\nraw.filename=a.raw\nraw.size=0\nraw.virtualsize=5\nsize=0";
        assert!(of(zero).unwrap().is_corrupted);
        let evil = "uniquename=a\nvirtualsize=5\nfilename=../../x\nraw=1\nraw.filename=x\nraw.size=4\nraw.virtualsize=5\nsize=4";
        let evil = of(evil).unwrap();
        assert!(evil.is_corrupted && evil.install_path == "template/tmpl/2/9");
    }

    #[test]
    fn the_java_syntax() {
        let p =
            Properties::parse(b"! c\n a : b\\\n   c\nk\\ 1=v\\u00e9\\uD83D\\uDE00\nempty\nlast=1\nlast=2");
        assert_eq!(p.get("a"), Some("bc"));
        assert_eq!(p.get("k 1"), Some("v\u{e9}\u{1f600}"));
        assert_eq!(p.get("empty"), Some(""));
        assert_eq!(p.get("last"), Some("2"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(description in any::<String>(), name in any::<String>()) {
            let e = Entry { description, unique_name: name, ..entry() };
            prop_assert_eq!(Properties::parse(&e.properties().render()), e.properties());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let properties = Properties::parse(&bytes);
            if let Some(found) = entry_of(&StorePath::parse("a/b").unwrap(), &properties) {
                prop_assert!(found.install_path.starts_with("a/b"));
            }
        }
    }
}
