//! What the guests may read.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::snapshot::Metadata;

/// What one guest may read; immutable, replaced whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// Its user data; `None` where it has none.
    pub user_data: Option<Bytes>,
    /// The names of its keys, one a line.
    pub list: Bytes,
    keys: Vec<(String, Bytes)>,
}

impl Guest {
    /// Makes a snapshot ready to be read.
    ///
    /// # Errors
    /// Where the user data is no base64; core has checked it.
    pub fn new(metadata: Metadata) -> Result<Self, base64::DecodeError> {
        let user_data = metadata.user_data.map(|text| STANDARD.decode(text)).transpose()?;
        let list: String = metadata.keys.iter().flat_map(|(key, _)| [key, "\n"]).collect();
        let keys = metadata.keys.into_iter().map(|(key, value)| (key, value.into())).collect();
        Ok(Self { user_data: user_data.filter(|u| !u.is_empty()).map(Bytes::from), list: list.into(), keys })
    }

    /// The value of a key; its own spelling first, then any case.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        let found = |same: fn(&str, &str) -> bool| self.keys.iter().find(|(k, _)| same(k, key));
        found(|a, b| a == b).or_else(|| found(|a, b| a.eq_ignore_ascii_case(b))).map(|(_, value)| value)
    }
}

/// All guests by address. A reader holds the one it found, however the store changes meanwhile.
#[derive(Debug, Default)]
pub struct Store(RwLock<HashMap<Ipv4Addr, Arc<Guest>>>);

impl Store {
    /// The guest at an address.
    pub fn get(&self, address: Ipv4Addr) -> Option<Arc<Guest>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    /// Replaces what the guest at an address may read; `None`: nothing.
    pub fn set(&self, address: Ipv4Addr, guest: Option<Guest>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match guest {
            Some(guest) => all.insert(address, Arc::new(guest)),
            None => all.remove(&address),
        };
    }
}
