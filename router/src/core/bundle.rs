//! The aggregated file of a router start (router contract 2.5): files and commands in one, taken byte
//! for byte.

/// One item, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A file and its content, without the line break before its closing tag.
    File(String, Vec<u8>),
    /// A command, split into words.
    Script(Vec<String>),
}

/// A bundle that cannot be read. Nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}; nothing of this bundle was applied")]
pub struct BundleError {
    line: usize,
    reason: &'static str,
}

/// Reads a bundle.
pub fn read(bytes: &[u8]) -> Result<Vec<Item>, BundleError> {
    let mut items = Vec::new();
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let tag = line.trim_ascii();
        let closing: &[u8] = match tag {
            b"<file>" => b"</file>",
            b"<script>" => b"</script>",
            b"<version>" => b"</version>",
            _ if tag.is_empty() || tag.starts_with(b"#") => {
                at += 1;
                continue;
            }
            _ => return Err(BundleError { line: at + 1, reason: "is neither a tag nor a comment" }),
        };
        let length = lines.iter().skip(at + 1).position(|line| line.trim_ascii() == closing);
        let length = length.ok_or(BundleError { line: at + 1, reason: "opens a tag that nothing closes" })?;
        let body = lines.get(at + 1..at + 1 + length).unwrap_or_default();
        match tag {
            b"<file>" => {
                let (name, content) =
                    body.split_first().ok_or(BundleError { line: at + 1, reason: "names no file" })?;
                let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
                items.push(Item::File(name, content.join(&b'\n')));
            }
            b"<script>" => {
                let text = String::from_utf8_lossy(&body.join(&b' ')).into_owned();
                items.push(Item::Script(text.split_ascii_whitespace().map(str::to_owned).collect()));
            }
            _ => {}
        }
        at += length + 2;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_byte_for_byte() {
        let text = b"#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n<file>\n\
            /var/cache/cloud/a.json.1\n{\"a\":\"two  blanks  *\"}\nsecond line\n</file>\n<script>\n\
            /opt/cloud/bin/update_config.py a.json.1 false\n</script>\n";
        let items = read(text).unwrap();
        let content = b"{\"a\":\"two  blanks  *\"}\nsecond line".to_vec();
        let script = ["/opt/cloud/bin/update_config.py", "a.json.1", "false"].map(str::to_owned).to_vec();
        assert_eq!(items, [Item::File("/var/cache/cloud/a.json.1".into(), content), Item::Script(script)]);
    }

    #[test]
    fn what_is_not_closed_is_refused() {
        assert_eq!(read(b"<file>\nx\n").unwrap_err().line, 1);
        assert_eq!(read(b"# x\nnonsense\n").unwrap_err().line, 2);
        assert_eq!(read(b"<file>\n</file>").unwrap_err().reason, "names no file");
        assert_eq!(read(b"").unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
