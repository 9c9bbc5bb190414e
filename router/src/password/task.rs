//! The requests, and core's word on confirmed passwords.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use common::handover::Serve;
use hyper::{
    Request, StatusCode, Version,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::protocol::{HEADER, Reply, SAVED, reply};
use crate::{
    serve::{
        counters::{Counters, count},
        http::{Answer, Handler, answer},
        networks::Networks,
    },
    snapshot::{EVENT, Event, Passwords},
};

/// Time for core to forget a password durably.
const LIMIT: Duration = Duration::from_secs(5);

/// The password service.
#[derive(Debug)]
pub struct Service {
    waiting: ArcSwap<Passwords>,
    /// Serials of passwords that their guests confirmed and core still names, by guest.
    confirmed: Mutex<HashMap<Ipv4Addr, u64>>,
    networks: Arc<ArcSwap<Networks>>,
    core: Serve,
    counters: Arc<Counters>,
}

impl Service {
    /// A service without passwords.
    pub fn new(core: Serve, networks: Arc<ArcSwap<Networks>>, counters: Arc<Counters>) -> Self {
        Self { waiting: ArcSwap::default(), confirmed: Mutex::default(), networks, core, counters }
    }

    /// Takes the passwords that core names. Ones that were confirmed while core was away are told it again.
    pub fn set(&self, passwords: Passwords) {
        let mut confirmed = self.confirmed();
        confirmed.retain(|address, serial| passwords.0.get(address).is_some_and(|p| p.serial == *serial));
        for (address, serial) in confirmed.iter() {
            let event = Event::PasswordTaken { address: *address, serial: *serial };
            if let Err(error) = self.core.tell(EVENT, &event) {
                tracing::warn!(guest = %address, %error, "core was not told of a confirmed password");
            }
        }
        drop(confirmed);
        self.waiting.store(Arc::new(passwords));
    }

    fn confirmed(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, u64>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, listener: Ipv4Addr, guest: Ipv4Addr, method: &str, wanted: Option<&[u8]>) -> Reply {
        let waiting = self.waiting.load();
        let password = waiting.0.get(&guest).filter(|_| self.networks.load().share(listener, guest));
        match reply(method, wanted, password) {
            Reply::Hand(_) if password.map(|p| p.serial) == self.confirmed().get(&guest).copied() => {
                Reply::Say(SAVED.to_owned())
            }
            other => other,
        }
    }

    /// Has core forget a password; whether it has.
    async fn confirm(&self, guest: Ipv4Addr, serial: u64) -> bool {
        self.confirmed().insert(guest, serial);
        count(&self.counters.passwords_taken);
        let event = Event::PasswordTaken { address: guest, serial };
        match self.core.ask::<_, serde::de::IgnoredAny>(EVENT, &event, LIMIT).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%guest, %error, "a confirmed password is not forgotten yet");
                false
            }
        }
    }
}

impl Handler for Service {
    const KEPT: bool = false;

    async fn answer(
        self: Arc<Self>,
        listener: Ipv4Addr,
        guest: Ipv4Addr,
        request: &Request<Incoming>,
    ) -> Answer {
        let wanted = request.headers().get(HEADER).map(HeaderValue::as_bytes);
        let (status, body) = match self.decide(listener, guest, request.method().as_str(), wanted) {
            Reply::Say(text) => (StatusCode::OK, text),
            Reply::Hand(password) => {
                count(&self.counters.passwords_sent);
                (StatusCode::OK, password)
            }
            Reply::Confirm(serial) if self.confirm(guest, serial).await => (StatusCode::OK, SAVED.to_owned()),
            Reply::Confirm(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            Reply::Nothing => (StatusCode::OK, String::new()),
            Reply::Unsupported => (StatusCode::NOT_IMPLEMENTED, String::new()),
        };
        let mut answer = answer(status, body);
        *answer.version_mut() = Version::HTTP_10;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        answer
    }
}
