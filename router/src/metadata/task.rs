//! The requests.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue, LOCATION},
};

use super::{
    media::{self, Media},
    store::Store,
    tree::{self, Found},
};
use crate::serve::{
    counters::{Counters, count},
    http::{Answer, Handler, answer},
    networks::Networks,
};

/// The metadata service.
#[derive(Debug)]
pub struct Service {
    /// What the guests may read.
    pub store: Store,
    media: Media,
    networks: Arc<ArcSwap<Networks>>,
    counters: Arc<Counters>,
}

impl Service {
    /// A service that knows nobody yet.
    pub fn new(media: Media, networks: Arc<ArcSwap<Networks>>, counters: Arc<Counters>) -> Self {
        Self { store: Store::default(), media, networks, counters }
    }

    /// The decoded path, where it is one of the disk in the drive and the guest is of this network.
    fn on_disk(&self, listener: Ipv4Addr, guest: Ipv4Addr, path: &str) -> Option<String> {
        let path = tree::decode(path)?;
        let rest = path.strip_prefix('/')?.strip_prefix(media::NAME)?;
        let inside = rest.is_empty() || rest.starts_with('/');
        (inside && self.networks.load().share(listener, guest)).then_some(path)
    }

    fn respond(&self, listener: Ipv4Addr, guest: Ipv4Addr, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, "");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
            return refused;
        }
        let known = self.networks.load().share(listener, guest).then(|| self.store.get(guest)).flatten();
        match tree::look_up(path, guest, known.as_deref()) {
            Found::Value(value) => answer(StatusCode::OK, value),
            Found::Elsewhere(path) => {
                let mut moved = answer(StatusCode::MOVED_PERMANENTLY, "");
                moved.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
                moved
            }
            Found::Forbidden => answer(StatusCode::FORBIDDEN, ""),
            Found::Missing => answer(StatusCode::NOT_FOUND, ""),
        }
    }
}

impl Handler for Service {
    const KEPT: bool = true;
    /// A disk is fetched in one go.
    const LIFE: Duration = Duration::from_secs(1800);

    async fn answer(
        self: Arc<Self>,
        listener: Ipv4Addr,
        guest: Ipv4Addr,
        request: &Request<Incoming>,
    ) -> Answer {
        let answer = match self.on_disk(listener, guest, request.uri().path()) {
            Some(path) if matches!(*request.method(), Method::GET | Method::HEAD) => {
                self.media.answer(path, *request.method() == Method::HEAD).await
            }
            _ => self.respond(listener, guest, request.method(), request.uri().path()),
        };
        let served = answer.status() == StatusCode::OK;
        count(if served { &self.counters.metadata_served } else { &self.counters.metadata_refused });
        answer
    }
}
