//! Any bytes as a message of the IKE daemon: what is read can be written, and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use router::vpn::{Report, vici::Message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::read(bytes) else { return };
    let written = message.write().expect("bytes");
    assert_eq!(Message::read(&written).expect("a message"), message);
    let _ = Report::read(&[message]);
});
