//! How many downloads run at once: in all, and from one host, so that one slow server does not take
//! the places of others.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections for downloads of one worker.
const ALL: usize = 50;
/// Connections to one host.
const ONE_HOST: usize = 6;

static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(ALL)));
static HOSTS: LazyLock<Mutex<HashMap<String, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);

/// A place in the crowd, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _host: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

/// Waits for a place for a download from `host`: first among those from that host, so that who
/// waits there keeps nobody else away.
pub(super) async fn enter(host: &str) -> Place {
    let at_host = {
        let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(hosts.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(ONE_HOST))))
    };
    // Neither is ever closed, so there always is a permit in the end.
    let host = at_host.acquire_owned().await.ok();
    let all = Arc::clone(&PLACES).acquire_owned().await.ok();
    Place { _host: host, _all: all }
}

/// A place for one more connection of a download that has one, where nobody waits for it.
pub(super) fn spare(host: &str) -> Option<Place> {
    let at_host = {
        let hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.get(host)?)
    };
    let host = at_host.try_acquire_owned().ok()?;
    let all = Arc::clone(&PLACES).try_acquire_owned().ok()?;
    Some(Place { _host: Some(host), _all: Some(all) })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_crowded_host_does_not_keep_others_away() {
        let mut places = Vec::new();
        for _ in 0..ONE_HOST {
            places.push(enter("slow").await);
        }
        assert!(enter("slow").now_or_never().is_none());
        assert!(spare("slow").is_none() && spare("unknown").is_none());
        assert!(enter("other").now_or_never().is_some());
        places.pop();
        drop(spare("slow").unwrap());
        assert!(enter("slow").now_or_never().is_some());
    }
}
