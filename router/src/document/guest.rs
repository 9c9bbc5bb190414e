//! `dhcpentry`, `vmdata`, `vmpassword` (router contract 3.8 to 3.10).

use std::{fmt, net::Ipv4Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::Value;

use super::{DocumentError, Node, node::shorten};
use crate::{mac::Mac, snapshot::DhcpHost};

/// Longest user data in bytes, decoded: what the management server lets through (1 MiB), and some more.
const USER_DATA_LIMIT: usize = 4 * 1024 * 1024;

/// Most keys in one document, and longest key in bytes.
const KEYS: (usize, usize) = (4096, 255);

/// A `dhcpentry` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpChange {
    /// Whether the reservation goes away.
    pub remove: bool,
    /// The reservation.
    pub host: DhcpHost,
}

impl DhcpChange {
    /// `None` where the document is about an IPv6 address only.
    pub(super) fn read(root: &Node<'_>) -> Result<Option<Self>, DocumentError> {
        let mac: Mac = root.required("mac_address")?;
        let remove = root.flag("remove", false)? || !root.flag("add", true)?;
        let Some(address) = root.optional("ipv4_address")? else { return Ok(None) };
        let gateway = root.optional::<Ipv4Addr>("default_gateway")?.filter(|g| !g.is_unspecified());
        let name = root.text("host_name")?.unwrap_or_default();
        if name.len() > 255 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(root.error("host_name", format_args!("{:?} is no host name", shorten(&name))));
        }
        let default_nic = root.flag("default_entry", true)?;
        let six = root.optional("ipv6_address")?;
        Ok(Some(Self { remove, host: DhcpHost { mac, address, six, name, gateway, default_nic } }))
    }
}

/// A `vmdata` document: for each value that it names, what the value is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataChange {
    /// The guest.
    pub address: Ipv4Addr,
    /// User data in base64 with padding; `Some(None)` takes it away, `None` leaves it as it is.
    pub user_data: Option<Option<String>>,
    /// Keys in the order of the document; `None` takes the key away.
    pub keys: Vec<(String, Option<String>)>,
}

impl MetadataChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let mut change = Self { address: root.required("vm_ip_address")?, user_data: None, keys: Vec::new() };
        let Some(Value::Array(items)) = root.get("vm_metadata") else {
            return Err(root.error("vm_metadata", "is missing, or no list"));
        };
        for (n, item) in items.iter().enumerate() {
            let bad = |reason: &str| root.error(&format!("vm_metadata[{n}]"), reason);
            let Some([folder, key, value]) = item.as_array().map(Vec::as_slice) else {
                return Err(bad("is no list of folder, file and content"));
            };
            let (Some(folder), Some(key)) = (folder.as_str(), key.as_str()) else {
                return Err(bad("has no text for folder and file"));
            };
            let value = match value {
                Value::Null => None,
                Value::String(text) => Some(text.as_str()),
                _ => return Err(bad("has a content that is neither text nor null")),
            };
            match folder {
                "userdata" if key == "user-data" => {
                    let value = value.filter(|v| !v.is_empty());
                    change.user_data = Some(value.map(user_data).transpose().map_err(|e| bad(&e))?);
                }
                "metadata" if !key.is_empty() => {
                    if key.len() > KEYS.1 || key.contains(['/', '\0', '\n', '\r']) || key.starts_with('.') {
                        return Err(bad("has a file name that cannot be asked for"));
                    }
                    let value = match value {
                        Some("") => None,
                        other => Some(other.unwrap_or_default().to_owned()),
                    };
                    change.keys.push((key.to_owned(), value));
                }
                _ => {}
            }
        }
        if change.keys.len() > KEYS.0 {
            return Err(root.error("vm_metadata", format_args!("has more than {} keys", KEYS.0)));
        }
        Ok(change)
    }
}

/// Checks base64, with or without padding, and gives it padding.
fn user_data(text: &str) -> Result<String, String> {
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = STANDARD_NO_PAD
        .decode(compact.trim_end_matches('='))
        .map_err(|e| format!("has user data that is not base64: {e}"))?;
    if bytes.len() > USER_DATA_LIMIT {
        return Err(format!("has user data of more than {USER_DATA_LIMIT} bytes"));
    }
    Ok(STANDARD.encode(bytes))
}

/// A `vmpassword` document.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordChange {
    /// The guest.
    pub address: Ipv4Addr,
    /// Its new password; `None` for the word by which the management server says that there is none.
    pub password: Option<String>,
}

impl PasswordChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let password = root.required::<String>("password")?;
        if password.len() > 4096 {
            return Err(root.error("password", "is longer than 4096 bytes"));
        }
        let address = root.required("ip_address")?;
        // `required` trims what it reads; a password keeps its blanks.
        let password = root.text("password")?.filter(|p| p != "saved_password");
        Ok(Self { address, password })
    }
}

impl fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "password of {}", self.address)
    }
}
