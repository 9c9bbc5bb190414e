//! What documents would change.

use super::{Engine, Outcome};
use crate::{
    document::Document,
    preview::{Changes, Side},
    state::{Guests, LIMIT},
};

/// See [`Engine::preview`].
#[derive(Debug)]
pub(in crate::core) struct Preview {
    /// What would come of each document.
    pub(in crate::core) outcomes: Vec<Outcome>,
    /// Rules of the load balancer that would be refused alone.
    pub(in crate::core) refused: Vec<String>,
    /// What would change.
    pub(in crate::core) changes: Changes,
    /// Whether anything would be remembered that is not in force now: it waits for its NIC, or is for checks only.
    pub(in crate::core) remembers: bool,
}

impl Engine {
    /// Works out what documents would change, and changes nothing.
    pub(in crate::core) async fn preview(&mut self, documents: &[Document]) -> Preview {
        let mut next = self.network.state().clone();
        let mut refused = Vec::new();
        let merge = |d| self.merge_network(&mut next, d, &mut refused).map_err(|e| e.to_string());
        let mut outcomes: Vec<Outcome> = documents.iter().map(merge).collect();
        refused.extend(self.network.vet(&mut next).await);
        let network = &self.network;
        let side = |state| Side::new(network.setup(), state, network.devices());
        let mut changes = Changes::between(&side(network.state()), &side(&next));
        let mut fresh = Guests::default();
        for (document, outcome) in documents.iter().zip(&mut outcomes) {
            match document {
                Document::Metadata(change) => {
                    let address = change.address;
                    let before = self.guests.0.get(&address);
                    if let Some(before) = before.filter(|_| !fresh.0.contains_key(&address)) {
                        fresh.0.insert(address, before.clone());
                    }
                    match fresh.merged(change, LIMIT.saturating_sub(self.guests.0.len())) {
                        Ok(data) => {
                            changes.metadata(address, fresh.0.get(&address), &data);
                            fresh.0.insert(address, data);
                        }
                        Err(error) => *outcome = Err(error.to_string()),
                    }
                }
                Document::Password(change) if change.password.is_some() => changes.password(change.address),
                _ => {}
            }
        }
        Preview { outcomes, refused, changes, remembers: next != *self.network.state() }
    }
}
