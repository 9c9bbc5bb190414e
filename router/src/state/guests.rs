//! What guests are told about themselves: metadata, and the passwords that wait for them. Kept apart
//! from the network's state, so that a change of one guest writes one small file.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::LIMIT;
use crate::{
    document::{DocumentError, MetadataChange, PasswordChange},
    snapshot::{Metadata, Password, Passwords},
};

/// Keys that name the VM: another value means another VM at the same address.
const IDENTITIES: [&str; 2] = ["vm-id", "instance-id"];

/// Metadata of all guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guests(pub BTreeMap<Ipv4Addr, Metadata>);

impl Guests {
    /// What the metadata of the guest is once a `vmdata` document is merged (router contract 3.9): only
    /// what the document names changes, but a new VM at the address starts from nothing.
    pub fn merged(&self, change: &MetadataChange) -> Result<Metadata, DocumentError> {
        if self.0.len() >= LIMIT && !self.0.contains_key(&change.address) {
            return Err(DocumentError::new("vm_ip_address", format_args!("would make more than {LIMIT} guests")));
        }
        let mut data = self.0.get(&change.address).cloned().unwrap_or_default();
        let value = |key: &str| data.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let is_new = change.keys.iter().any(|(key, new)| {
            IDENTITIES.contains(&key.as_str()) && value(key).is_some() && value(key) != new.as_ref()
        });
        if is_new {
            data = Metadata::default();
        }
        if let Some(user_data) = &change.user_data {
            data.user_data.clone_from(user_data);
        }
        for (key, value) in &change.keys {
            let place = data.keys.iter().position(|(k, _)| k == key);
            match (place, value) {
                (Some(n), Some(value)) => data.keys[n].1.clone_from(value),
                (Some(n), None) => drop(data.keys.remove(n)),
                (None, Some(value)) => data.keys.push((key.clone(), value.clone())),
                (None, None) => {}
            }
        }
        Ok(data)
    }
}

/// Passwords that wait for their guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The passwords.
    pub waiting: Passwords,
    /// The serial of the last one that ever came.
    pub last: u64,
}

impl Secrets {
    /// Merges a `vmpassword` document (router contract 3.10): the new password takes the place of an older one.
    pub fn merge(&mut self, change: &PasswordChange) -> Result<(), DocumentError> {
        let Some(value) = change.password.clone() else { return Ok(()) };
        if self.waiting.0.len() >= LIMIT {
            return Err(DocumentError::new("ip_address", format_args!("more than {LIMIT} passwords wait")));
        }
        self.last += 1;
        self.waiting.0.insert(change.address, Password { value, serial: self.last });
        Ok(())
    }

    /// Forgets a password that its guest has taken; a later one of the same guest stays. Tells whether
    /// there was anything to forget.
    pub fn taken(&mut self, address: Ipv4Addr, serial: u64) -> bool {
        let taken = self.waiting.0.get(&address).is_some_and(|p| p.serial == serial);
        if taken {
            self.waiting.0.remove(&address);
        }
        taken
    }
}
