//! What the core remembers over restarts of itself and of the VM.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use common::{
    command::{Secret, storage::Certificates},
    paths::Paths,
    persist::{self, PersistError},
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::export::Export;
use crate::web::Link;

/// Version of the state file.
const VERSION: u32 = 1;

/// What the management server has told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Addresses that may copy from this VM.
    pub(crate) peers: BTreeSet<Ipv4Addr>,
    /// Internal sites that downloads may reach.
    pub(crate) sites: Vec<Ipv4Net>,
    /// Key that signs upload tickets.
    pub(crate) upload_key: Option<Secret>,
    /// Certificates of the https service; the root is trusted by downloads.
    pub(crate) certificates: Option<Certificates>,
    /// User and password of the copy service.
    pub(crate) copy_login: Option<(String, Secret)>,
    /// Exports by the name of their mount folder.
    pub(crate) exports: BTreeMap<String, Export>,
    /// Files that are offered, by what follows `/userdata/` in their URL.
    pub(crate) links: BTreeMap<String, Link>,
    /// Addresses and ports of object stores on the management network.
    pub(crate) endpoints: BTreeSet<(Ipv4Addr, u16)>,
}

/// The settings in force and their file.
#[derive(Debug)]
pub(crate) struct State {
    file: PathBuf,
    settings: Mutex<Settings>,
}

impl State {
    /// Loads what was saved last. A file that cannot be used is reported and counts as empty: the
    /// management server tells everything again when the VM connects.
    pub(crate) fn load(paths: &Paths) -> Self {
        let file = paths.state("ssvm").join("settings.json");
        let settings = match persist::load::<Settings>(&file, VERSION) {
            Ok(loaded) => {
                if let Some(fallback) = loaded.fallback {
                    tracing::warn!("{fallback}");
                }
                loaded.value.unwrap_or_default()
            }
            Err(error) => {
                tracing::error!(%error, "starting without settings");
                Settings::default()
            }
        };
        Self { file, settings: Mutex::new(settings) }
    }

    /// The settings in force.
    pub(crate) fn get(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the settings; they are in force once they are saved. Returns whether anything changed.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<bool, PersistError> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = settings.clone();
        change(&mut next);
        if next == *settings {
            return Ok(false);
        }
        persist::save(&self.file, VERSION, &next)?;
        *settings = next;
        Ok(true)
    }
}
