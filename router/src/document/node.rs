//! Reads values out of a JSON document without forgetting where they stand, so that an error can name
//! the place. Permissive as the senders are: numbers and truth values may come as text, `null` and the
//! empty text count as absent.

use std::{fmt::Display, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde_json::Value;

use super::DocumentError;
use crate::types::{Family, Nets};

/// An object within a document, and the path to it.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    /// The document itself.
    pub(super) fn root(value: &'a Value) -> Result<Self, DocumentError> {
        Self::object(value, String::new())
    }

    fn object(value: &'a Value, path: String) -> Result<Self, DocumentError> {
        if value.is_object() {
            Ok(Self { value, path })
        } else {
            Err(DocumentError::new(path, "is no object"))
        }
    }

    /// An error about one of the members.
    pub(super) fn error(&self, name: &str, reason: impl Display) -> DocumentError {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        DocumentError::new(path, reason)
    }

    /// The path to this object, for errors that show up later.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A member, where it is there.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|v| !v.is_null() && v.as_str() != Some(""))
    }

    /// Whether a member is named at all, be it empty.
    pub(super) fn names(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|v| !v.is_null())
    }

    /// Objects in a list; the list must be there.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<Node<'a>>, DocumentError> {
        let Some(Value::Array(items)) = self.value.get(name) else {
            return Err(self.error(name, "is missing, or no list"));
        };
        items.iter().enumerate().map(|(n, item)| Self::object(item, format!("{name}[{n}]"))).collect()
    }

    /// A text, number or truth value as text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, DocumentError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(_) => Err(self.error(name, "is no text")),
        }
    }

    /// A truth value; `default` where it is absent.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, DocumentError> {
        match self.text(name)?.as_deref() {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(self.error(name, "is neither true nor false")),
        }
    }

    /// Something that can be read from a text, where it is there.
    pub(super) fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, DocumentError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|e| self.error(name, format_args!("{:?}: {e}", shorten(&text))))
    }

    /// Something that can be read from a text.
    pub(super) fn required<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, DocumentError> {
        self.optional(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// Networks of a family in a list, or in a text with commas between them; the second value tells whether
    /// anything was listed at all. Only those of the other family are an error.
    pub(super) fn nets(&self, name: &str, family: Family) -> Result<(Nets, bool), DocumentError> {
        let (nets, listed) = self.nets_of(name, family)?;
        let version = match family {
            Family::Four => 4,
            Family::Six => 6,
        };
        let nets = nets.ok_or_else(|| self.error(name, format_args!("holds no IPv{version} network")))?;
        Ok((nets, listed))
    }

    /// The same; `None` where only networks of the other family are listed, which say nothing about packets of this
    /// one, and are not to be taken for any. A bare address is a network of one.
    pub(super) fn nets_of(&self, name: &str, family: Family) -> Result<(Option<Nets>, bool), DocumentError> {
        let mut texts: Vec<&str> = Vec::new();
        match self.get(name) {
            None => {}
            Some(Value::String(text)) => texts.extend(text.split([',', ' ']).filter(|t| !t.is_empty())),
            Some(Value::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    let bad = || self.error(&format!("{name}[{n}]"), "is no text");
                    let text = item.as_str().ok_or_else(bad)?.trim();
                    texts.extend((!text.is_empty()).then_some(text));
                }
            }
            Some(_) => return Err(self.error(name, "is no list of networks")),
        }
        let mut nets: Vec<IpNet> = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            let bad =
                || self.error(&format!("{name}[{n}]"), format_args!("{:?} is no network", shorten(text)));
            let net = net.ok_or_else(bad)?;
            if net.addr().is_ipv6() == (family == Family::Six) {
                nets.push(net);
            }
        }
        let listed = !texts.is_empty();
        Ok(((!nets.is_empty() || !listed).then(|| Nets::new(nets)), listed))
    }
}

/// The beginning of a text, for messages.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
