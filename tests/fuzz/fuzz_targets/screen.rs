//! Any bytes as what a hypervisor says: a VNC server with and without TLS, XenServer's interface, VMware's websocket, and
//! the screen of which a picture is taken.
#![no_main]

use std::sync::LazyLock;

use cpvm::{
    rfb::hypervisor::{authenticate, initialise},
    screen::{Duplex, tunnel, websocket},
    serve::picture,
};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    runtime::{Builder, Runtime},
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

/// A far end that has said all of this and closed.
async fn said(bytes: &[u8]) -> Box<dyn Duplex> {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(bytes).await.expect("room");
    far.shutdown().await.expect("closed");
    // What is written to it goes nowhere.
    tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
    Box::new(near)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    RUNTIME.block_on(async {
        let mut stream = said(bytes).await;
        if kind & 1 == 1 && tunnel::connect(&mut *stream, "host", "/console", "session").await.is_err() {
            return;
        }
        if kind & 2 == 2 {
            if let Ok(mut remote) = websocket::connect(stream, "ws://host/ticket").await {
                let mut all = Vec::new();
                let _ = remote.read_to_end(&mut all).await;
            }
            return;
        }
        let tls = common::channel::tls::peer_config(&[], None).ok();
        let Ok(mut ready) = authenticate(stream, "password", &tls, kind & 4 == 4).await else { return };
        let Ok(init) = initialise(&mut ready.stream, 1).await else { return };
        if let Ok(picture) = picture::take(&mut ready.stream, &init).await {
            let _ = picture.within((usize::from(*kind), 100));
        }
    });
});
