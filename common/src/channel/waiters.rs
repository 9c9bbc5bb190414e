//! Requests on their way, each waiting for its response by number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::packet::Packet;

/// Those who wait. Clones share the same list.
#[derive(Clone, Default)]
pub(super) struct Waiters {
    list: Arc<Mutex<HashMap<i64, oneshot::Sender<Packet>>>>,
}

/// One who waits; leaves the list when dropped.
pub(super) struct Waiter {
    list: Waiters,
    sequence: i64,
    response: oneshot::Receiver<Packet>,
}

impl Waiters {
    /// Takes a place in the list; none where `limit` wait already.
    pub(super) fn join(&self, sequence: i64, limit: usize) -> Option<Waiter> {
        let (sender, response) = oneshot::channel();
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= limit {
            return None;
        }
        list.insert(sequence, sender);
        Some(Waiter { list: self.clone(), sequence, response })
    }

    /// Hands a response to the one who waits for it; false where nobody does.
    pub(super) fn deliver(&self, response: Packet) -> bool {
        let waiter = self.list.lock().unwrap_or_else(PoisonError::into_inner).remove(&response.sequence);
        waiter.is_some_and(|waiter| waiter.send(response).is_ok())
    }

    /// The connection is gone: everybody stops waiting at once.
    pub(super) fn fail_all(&self) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Waiter {
    /// The response, or none when the connection has gone.
    pub(super) async fn response(&mut self) -> Option<Packet> {
        (&mut self.response).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.list.list.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.sequence);
    }
}
