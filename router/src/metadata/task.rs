//! The requests.

use std::{net::Ipv4Addr, sync::Arc};

use arc_swap::ArcSwap;
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue, LOCATION},
};

use super::{
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
    networks: Arc<ArcSwap<Networks>>,
    counters: Arc<Counters>,
}

impl Service {
    /// A service that knows nobody yet.
    pub fn new(networks: Arc<ArcSwap<Networks>>, counters: Arc<Counters>) -> Self {
        Self { store: Store::default(), networks, counters }
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

    async fn answer(
        self: Arc<Self>,
        listener: Ipv4Addr,
        guest: Ipv4Addr,
        request: &Request<Incoming>,
    ) -> Answer {
        let answer = self.respond(listener, guest, request.method(), request.uri().path());
        let served = answer.status() == StatusCode::OK;
        count(if served { &self.counters.metadata_served } else { &self.counters.metadata_refused });
        answer
    }
}
