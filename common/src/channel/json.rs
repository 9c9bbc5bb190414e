//! The text of a packet: a JSON array of objects with one key each, written in pure ASCII.
//!
//! A peer may use any character set of its platform, so everything above U+007E leaves here as
//! `\uXXXX`; what arrives is read as UTF-8, with U+FFFD for bytes that are none.

use std::fmt;
use std::io;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::{Map, Value};

use super::message::{Message, MessageError};

/// Most elements in one packet.
pub const MAX_ELEMENTS: usize = 10_000;

/// Why the text of a packet is not a list of messages.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Not JSON, or no array.
    #[error("the packet's text is not a JSON array: {0}")]
    Json(#[from] serde_json::Error),
    /// More elements than anyone sends.
    #[error("the packet has {0} elements, more than {MAX_ELEMENTS}")]
    TooMany(usize),
}

/// Reads the text of a packet. An element that is no message leaves an error in its place, so that
/// it can be answered while the others are executed.
pub fn parse(text: &[u8]) -> Result<Vec<Result<Message, MessageError>>, TextError> {
    let text = String::from_utf8_lossy(text);
    let elements: Vec<Element> = serde_json::from_str(&text)?;
    if elements.len() > MAX_ELEMENTS {
        return Err(TextError::TooMany(elements.len()));
    }
    Ok(elements
        .into_iter()
        .enumerate()
        .map(|(index, element)| element.0.ok_or(MessageError::NotTagged { index }))
        .collect())
}

/// Writes messages as the text of a packet: compact, ASCII only.
pub fn write(messages: &[Message]) -> Vec<u8> {
    to_text(&List(messages)).into_bytes()
}

/// Any value as compact ASCII-only JSON.
pub(super) fn to_text<T: Serialize>(value: &T) -> String {
    let mut text = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Ascii);
    // Writing to memory cannot fail, nor can a value whose keys are text.
    if value.serialize(&mut serializer).is_err() {
        text = b"[]".to_vec();
    }
    String::from_utf8(text).unwrap_or_default()
}

struct List<'a>(&'a [Message]);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Tagged))
    }
}

struct Tagged<'a>(&'a Message);

impl Serialize for Tagged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.0.class, &self.0.body)?;
        map.end()
    }
}

/// The first member of an object, where that is an object too; further members are ignored.
struct Element(Option<Message>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a class name as its key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
        let Some((class, body)) = map.next_entry::<String, Value>()? else {
            return Ok(Element(None));
        };
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Element(match body {
            Value::Object(body) => Some(Message { class, body }),
            Value::Null => Some(Message { class, body: Map::new() }),
            _ => None,
        }))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Element, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Element, E> {
        Ok(Element(None))
    }

    fn visit_unit<E>(self) -> Result<Element, E> {
        Ok(Element(None))
    }
}

/// Compact, and `\uXXXX` for everything above U+007E.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if text.bytes().all(|byte| byte < 0x7f) {
            return CompactFormatter.write_string_fragment(writer, text);
        }
        let mut units = [0; 2];
        for character in text.chars() {
            if (character as u32) < 0x7f {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_ascii_and_reads_it_back() {
        let text = "Größe <&='> \u{2028} 🦀 \u{7f} \"\\\n";
        let mut body = Map::new();
        body.insert(text.to_owned(), Value::from(text));
        let message = Message { class: "a.B".to_owned(), body };
        let written = write(std::slice::from_ref(&message));
        assert!(written.iter().all(|byte| (0x20..0x7f).contains(byte)));
        assert_eq!(parse(&written).unwrap().remove(0).unwrap(), message);
    }

    #[test]
    fn keeps_the_place_of_what_is_no_message() {
        let read = parse(br#"[{"a.B":{"x":1},"c.D":{}},7,"x",[1],{},{"e.F":null},null,true,1.5,{"g.H":3}]"#)
            .unwrap();
        assert_eq!(read.len(), 10);
        assert_eq!(read[0].as_ref().unwrap().class, "a.B");
        assert_eq!(read[5].as_ref().unwrap().class, "e.F");
        for bad in [1, 2, 3, 4, 6, 7, 8, 9] {
            assert!(matches!(read[bad], Err(MessageError::NotTagged { index }) if index == bad));
        }
    }

    #[test]
    fn survives_bytes_that_are_no_utf8() {
        let read = parse(b"[{\"a.B\":{\"x\":\"\xff\xfe\"}}]").unwrap();
        assert_eq!(read[0].as_ref().unwrap().body["x"], "\u{fffd}\u{fffd}");
    }

    #[test]
    fn refuses_other_texts() {
        for text in [&b""[..], b"{}", b"[", b"[{]", b"\0\0", b"[{\"a\":{}}"] {
            assert!(matches!(parse(text), Err(TextError::Json(_))), "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
        let many = format!("[{}0]", "0,".repeat(MAX_ELEMENTS));
        assert!(matches!(parse(many.as_bytes()), Err(TextError::TooMany(_))));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_text_comes_back(text in ".*") {
            let mut body = Map::new();
            body.insert("x".to_owned(), Value::from(text));
            let message = Message { class: "a.B".to_owned(), body };
            let read = parse(&write(std::slice::from_ref(&message))).unwrap().remove(0).unwrap();
            prop_assert_eq!(read, message);
        }
    }
}
