//! The file `agent.properties`: where the agent keeps what servers told it, beside what operators
//! and scripts keep there. Lines that are not the agent's own stay as they are.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest file that is read.
const MAX: u64 = 1024 * 1024;

/// A properties file.
#[derive(Debug, Clone)]
pub(super) struct Properties {
    path: PathBuf,
}

impl Properties {
    /// The file `agent.properties` of `folder`; it need not exist.
    pub(super) fn of(folder: &Path) -> Self {
        Self { path: folder.join("agent.properties") }
    }

    /// The value of `key`, the last one where there are several.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let text = self.text().ok()?;
        text.lines()
            .rev()
            .find_map(|line| split(line).filter(|(name, _)| name == key))
            .map(|(_, value)| value)
    }

    /// Sets keys, each to one value. The file is written whole or not at all.
    pub(super) fn set(&self, values: &[(&str, &str)]) -> io::Result<()> {
        let old = match self.text() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut text = String::with_capacity(old.len() + 256);
        for line in old.lines() {
            let replaced = split(line).is_some_and(|(name, _)| values.iter().any(|(key, _)| *key == name));
            if !replaced {
                text.push_str(line);
                text.push('\n');
            }
        }
        for (key, value) in values {
            text.push_str(&format!("{}={}\n", escape(key), escape(value)));
        }
        if text == old {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = self.path.with_extension("properties.new");
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)
    }

    fn text(&self) -> io::Result<String> {
        use io::Read;
        let mut bytes = Vec::new();
        fs::File::open(&self.path)?.take(MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Key and value of a line; none for comments and blank lines.
fn split(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with(['#', '!']) {
        return None;
    }
    let mut escaped = false;
    let end = line.char_indices().find(|(_, character)| {
        let ends = !escaped && matches!(character, '=' | ':' | ' ' | '\t');
        escaped = !escaped && *character == '\\';
        ends
    });
    let (key, rest) = line.split_at(end.map_or(line.len(), |(at, _)| at));
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    Some((unescape(key), unescape(value)))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let code: String = characters.by_ref().take(4).collect();
                let known = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                out.push(known.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' | '=' | ':' | '#' | '!' | ' ' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_what_is_not_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.properties");
        let old =
            "#Thu Oct 09\nkeystore.passphrase=a\\=b\\:c\nhost=10.0.0.1\n\n! note\nname : s-1-VM\nlast=é\n";
        fs::write(&path, old).unwrap();
        let properties = Properties::of(folder.path());
        assert_eq!(properties.get("keystore.passphrase").as_deref(), Some("a=b:c"));
        assert_eq!(properties.get("name").as_deref(), Some("s-1-VM"));
        assert_eq!(properties.get("zone"), None);
        properties.set(&[("host", "10.0.0.2,fd00::1@static"), ("X.id", "4")]).unwrap();
        let new = fs::read_to_string(&path).unwrap();
        assert!(new.contains("keystore.passphrase=a\\=b\\:c\n"), "{new}");
        assert_eq!(new.matches("host").count(), 1);
        assert_eq!(properties.get("host").as_deref(), Some("10.0.0.2,fd00::1@static"));
        assert_eq!(properties.get("X.id").as_deref(), Some("4"));
    }

    #[test]
    fn needs_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let properties = Properties::of(&folder.path().join("below"));
        assert_eq!(properties.get("host"), None);
        properties.set(&[("host", "a@static")]).unwrap();
        assert_eq!(properties.get("host").as_deref(), Some("a@static"));
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value in "[\\x00-\\x{ffff}]{0,40}") {
            prop_assert_eq!(unescape(&escape(&value)), value);
        }

        #[test]
        fn any_line_is_read(line in ".*") {
            let _ = split(&line);
        }
    }
}
