//! Any bytes as what a browser says: the query with its token, and the handshake before the screen, at once with the
//! request and after it.
#![no_main]

use std::sync::LazyLock;

use common::token::{Token, TokenKey};
use cpvm::{rfb::browser::Browser, ticket::Query};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncWriteExt as _, duplex},
    runtime::{Builder, Runtime},
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));
static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::generate().expect("a key"));

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (first, later) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(Query::parse(text).open(&KEY).is_err(), "nobody can make a token");
        // What is in a good one is management's; it may still be anything.
        if let Ok(token) = serde_json::from_str::<Token>(text) {
            let _ = Query::parse(text).order(token, client, cut & 1 == 1);
        }
    }
    RUNTIME.block_on(async {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(later).await.expect("room");
        far.shutdown().await.expect("closed");
        tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
        let mut browser = Browser::new(near, first);
        if let Ok(version) = browser.greet().await {
            let _ = browser.admit(version).await;
        }
        let parts = browser.into_parts();
        assert!(parts.early.len() <= bytes.len() && parts.replies.len() <= bytes.len() + 4096);
    });
});
