//! What guests are told about themselves: metadata, and the passwords that wait for them. Kept apart
//! from the network's state, so that a change of one guest writes one small file.

use std::{borrow::Cow, collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::LIMIT;
use crate::{
    document::{DocumentError, MetadataChange, PasswordChange},
    snapshot::{Metadata, Password, Passwords},
};

/// Keys that name the VM: another value means another VM at the same address.
const IDENTITIES: [&str; 2] = ["vm-id", "instance-id"];

/// Metadata of all guests; of some, it is the record of a change on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests(pub BTreeMap<Ipv4Addr, Metadata>);

impl Guests {
    /// Takes over what others have.
    pub fn edit(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The record of one guest.
    pub fn record<'a>((address, data): (&Ipv4Addr, &Metadata)) -> Cow<'a, Self> {
        Cow::Owned(Self(BTreeMap::from([(*address, data.clone())])))
    }

    /// What the metadata of the guest is once a `vmdata` document is merged (router contract 3.9): only
    /// what the document names changes, but a new VM at the address starts from nothing. `room` is how many
    /// guests there may be here.
    pub fn merged(&self, change: &MetadataChange, room: usize) -> Result<Metadata, DocumentError> {
        if self.0.len() >= room && !self.0.contains_key(&change.address) {
            return Err(DocumentError::new(
                "vm_ip_address",
                format_args!("would make more than {LIMIT} guests"),
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn change(values: &str) -> MetadataChange {
        let text = format!(r#"{{"vm_ip_address":"10.1.1.20","vm_metadata":{values},"type":"vmdata"}}"#);
        match Document::read(text.as_bytes()).unwrap() {
            Document::Metadata(change) => change,
            other => panic!("{other:?}"),
        }
    }

    fn after(changes: &[&str]) -> Metadata {
        let mut guests = Guests::default();
        for values in changes {
            let change = change(values);
            let data = guests.merged(&change, LIMIT).unwrap();
            guests.0.insert(change.address, data);
        }
        guests.0.into_values().next().unwrap()
    }

    #[test]
    fn only_what_is_named_changes() {
        let data = after(&[
            r#"[["userdata","user-data","YQ=="],["metadata","vm-id","1"],["metadata","a","x"],["metadata","b","y"]]"#,
            r#"[["metadata","a",""],["metadata","b","z"]]"#,
        ]);
        assert_eq!(data.user_data.as_deref(), Some("YQ=="));
        assert_eq!(data.keys, [("vm-id".to_owned(), "1".to_owned()), ("b".to_owned(), "z".to_owned())]);
    }

    #[test]
    fn a_new_vm_sees_nothing_of_the_one_before() {
        let data = after(&[
            r#"[["userdata","user-data","YQ=="],["metadata","vm-id","1"],["metadata","public-keys","ssh"]]"#,
            r#"[["metadata","vm-id","2"]]"#,
        ]);
        assert_eq!(data, Metadata { user_data: None, keys: vec![("vm-id".into(), "2".into())] });
    }

    #[test]
    fn a_password_is_forgotten_once_it_is_taken_and_not_a_later_one() {
        let mut secrets = Secrets::default();
        let address = Ipv4Addr::new(10, 1, 1, 20);
        let give = |text: &str, secrets: &mut Secrets| {
            secrets.merge(&PasswordChange { address, password: Some(text.into()) }).unwrap();
            secrets.last
        };
        let first = give("a", &mut secrets);
        let second = give("b", &mut secrets);
        assert!(!secrets.taken(address, first));
        assert_eq!(secrets.waiting.0[&address].value, "b");
        assert!(secrets.taken(address, second) && secrets.waiting.0.is_empty());
        secrets.merge(&PasswordChange { address, password: None }).unwrap();
        assert!(secrets.waiting.0.is_empty(), "no password is no password");
    }
}
