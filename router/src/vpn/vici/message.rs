//! Messages: names with texts, lists of texts, or sections of more names, as bytes.
//!
//! An element begins with its type (one byte), a name has one byte of length before it, a text two.

use std::fmt;

/// Deepest nesting of sections that is read.
const DEEPEST: usize = 8;
/// Most bytes of a message that is read or written: what charon takes, too.
pub const LIMIT: usize = 512 * 1024;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// Bytes that are no message, or a message that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// They end too early.
    #[error("a message of the IKE daemon ends too early")]
    Short,
    /// An element that must not be there.
    #[error("a message of the IKE daemon has an element {0} where none such may be")]
    Element(u8),
    /// Sections in sections without end.
    #[error("a message of the IKE daemon is nested too deeply")]
    Deep,
    /// A name that is no text.
    #[error("a message of the IKE daemon has a name that is no text")]
    Name,
    /// A name or text that is too long to be written.
    #[error("a name or text is too long for the IKE daemon")]
    Long,
}

/// What a name leads to.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A text. It may be a secret.
    Text(Vec<u8>),
    /// Several texts.
    List(Vec<Vec<u8>>),
    /// More names.
    Section(Message),
}

/// Texts may be secrets: they are not shown.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "text of {} bytes", text.len()),
            Self::List(texts) => write!(f, "list of {} texts", texts.len()),
            Self::Section(section) => section.fmt(f),
        }
    }
}

/// Names in their order, each with what it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, Value)>);

impl Message {
    /// Adds a text.
    #[must_use]
    pub fn text(mut self, name: &str, text: impl Into<Vec<u8>>) -> Self {
        self.0.push((name.to_owned(), Value::Text(text.into())));
        self
    }

    /// Adds `yes` or `no`.
    #[must_use]
    pub fn flag(self, name: &str, flag: bool) -> Self {
        self.text(name, if flag { "yes" } else { "no" })
    }

    /// Adds a list.
    #[must_use]
    pub fn list<T: Into<Vec<u8>>>(mut self, name: &str, texts: impl IntoIterator<Item = T>) -> Self {
        self.0.push((name.to_owned(), Value::List(texts.into_iter().map(Into::into).collect())));
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn section(mut self, name: &str, section: Self) -> Self {
        self.0.push((name.to_owned(), Value::Section(section)));
        self
    }

    /// All names and what they lead to.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// What a name leads to: the first of that name counts.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// A text, where there is one of this name and it is UTF-8.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The texts of a list; none where there is no such list.
    pub fn strs(&self, name: &str) -> Vec<&str> {
        match self.get(name) {
            Some(Value::List(texts)) => texts.iter().filter_map(|t| std::str::from_utf8(t).ok()).collect(),
            _ => Vec::new(),
        }
    }

    /// The sections with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name, section)),
            _ => None,
        })
    }

    /// The section of a name.
    pub fn sub(&self, name: &str) -> Option<&Self> {
        self.sections().find(|(known, _)| *known == name).map(|(_, section)| section)
    }

    /// The bytes of it.
    ///
    /// # Errors
    /// Where a name has more than 255 bytes, or a text more than 65535.
    pub fn write(&self) -> Result<Vec<u8>, MessageError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes)?;
        if bytes.len() > LIMIT { Err(MessageError::Long) } else { Ok(bytes) }
    }

    fn append(&self, bytes: &mut Vec<u8>) -> Result<(), MessageError> {
        for (name, value) in &self.0 {
            match value {
                Value::Text(text) => {
                    begin(bytes, KEY_VALUE, name)?;
                    append_text(bytes, text)?;
                }
                Value::List(texts) => {
                    begin(bytes, LIST_START, name)?;
                    for text in texts {
                        bytes.push(LIST_ITEM);
                        append_text(bytes, text)?;
                    }
                    bytes.push(LIST_END);
                }
                Value::Section(section) => {
                    begin(bytes, SECTION_START, name)?;
                    section.append(bytes)?;
                    bytes.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// Where they are no message.
    pub fn read(mut bytes: &[u8]) -> Result<Self, MessageError> {
        let message = Self::read_section(&mut bytes, 0)?;
        if bytes.is_empty() { Ok(message) } else { Err(MessageError::Element(SECTION_END)) }
    }

    /// To the end of the section that has begun, or of the bytes.
    fn read_section(bytes: &mut &[u8], depth: usize) -> Result<Self, MessageError> {
        let mut message = Self::default();
        while let Some(kind) = take(bytes, 1).ok().and_then(|kind| kind.first().copied()) {
            let value = match kind {
                SECTION_END if depth > 0 => return Ok(message),
                SECTION_START if depth >= DEEPEST => return Err(MessageError::Deep),
                SECTION_START => {
                    let name = read_name(bytes)?;
                    (name, Value::Section(Self::read_section(bytes, depth + 1)?))
                }
                KEY_VALUE => (read_name(bytes)?, Value::Text(read_text(bytes)?)),
                LIST_START => (read_name(bytes)?, Value::List(read_list(bytes)?)),
                other => return Err(MessageError::Element(other)),
            };
            message.0.push(value);
        }
        if depth == 0 { Ok(message) } else { Err(MessageError::Short) }
    }
}

fn begin(bytes: &mut Vec<u8>, kind: u8, name: &str) -> Result<(), MessageError> {
    bytes.push(kind);
    bytes.push(u8::try_from(name.len()).map_err(|_| MessageError::Long)?);
    bytes.extend(name.as_bytes());
    Ok(())
}

fn append_text(bytes: &mut Vec<u8>, text: &[u8]) -> Result<(), MessageError> {
    bytes.extend(u16::try_from(text.len()).map_err(|_| MessageError::Long)?.to_be_bytes());
    bytes.extend(text);
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], MessageError> {
    let (head, tail) = bytes.split_at_checked(length).ok_or(MessageError::Short)?;
    *bytes = tail;
    Ok(head)
}

fn read_name(bytes: &mut &[u8]) -> Result<String, MessageError> {
    let length = take(bytes, 1)?.first().copied().unwrap_or_default();
    let name = take(bytes, usize::from(length))?;
    std::str::from_utf8(name).map(str::to_owned).map_err(|_| MessageError::Name)
}

fn read_text(bytes: &mut &[u8]) -> Result<Vec<u8>, MessageError> {
    let length = take(bytes, 2)?.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
    Ok(take(bytes, length)?.to_vec())
}

fn read_list(bytes: &mut &[u8]) -> Result<Vec<Vec<u8>>, MessageError> {
    let mut texts = Vec::new();
    loop {
        match take(bytes, 1)?.first().copied().unwrap_or_default() {
            LIST_ITEM => texts.push(read_text(bytes)?),
            LIST_END => return Ok(texts),
            other => return Err(MessageError::Element(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Message {
        let inner = Message::default().list("local_ts", ["10.1.0.0/16"]).flag("encap", true);
        Message::default().text("version", "2").section("net", inner).list::<&str>("none", [])
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample().write().unwrap();
        assert_eq!(&bytes[..12], b"\x03\x07version\x00\x012");
        let read = Message::read(&bytes).unwrap();
        assert_eq!(read, sample());
        assert_eq!(read.str("version"), Some("2"));
        assert_eq!(read.sub("net").unwrap().strs("local_ts"), ["10.1.0.0/16"]);
        assert!(!format!("{read:?}").contains("10.1"), "texts are not shown");
        for end in 0..bytes.len() {
            // Cut anywhere it is refused, or means the elements before.
            if let Ok(message) = Message::read(&bytes[..end]) {
                assert!(message.0.len() < read.0.len());
            }
        }
    }

    #[test]
    fn strange_bytes_are_refused() {
        for (bytes, error) in [
            (&b"\x02"[..], MessageError::Element(2)),
            (b"\x07", MessageError::Element(7)),
            (b"\x01\x01a", MessageError::Short),
            (b"\x03\x05ab", MessageError::Short),
            (b"\x04\x01a\x03", MessageError::Element(3)),
        ] {
            assert_eq!(Message::read(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(Message::read(&b"\x01\x01a".repeat(DEEPEST + 1)), Err(MessageError::Deep));
        let long = Message::default().text("a", vec![0; 70_000]);
        assert_eq!(long.write(), Err(MessageError::Long));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok(message) = Message::read(&bytes) {
                prop_assert_eq!(Message::read(&message.write().unwrap()).unwrap(), message);
            }
        }

        #[test]
        fn any_elements_are_read_or_refused(kinds in prop::collection::vec(0_u8..8, 0..40)) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|kind| match kind {
                1 | 4 => vec![*kind, 1, b'n'],
                3 => vec![3, 1, b'n', 0, 1, b'v'],
                5 => vec![5, 0, 1, b'v'],
                other => vec![*other],
            }).collect();
            let _ = Message::read(&bytes);
        }
    }
}
