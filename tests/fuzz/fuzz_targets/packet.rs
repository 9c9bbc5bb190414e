//! Any bytes as a packet: bounded, and what was read comes back after writing.
#![no_main]

use common::channel::packet::Packet;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::decode(bytes, LIMIT) {
        assert!(packet.content.len() <= LIMIT);
        let again = Packet::decode(&packet.encode(), LIMIT).expect("what was written");
        assert!(again == packet);
        let _ = packet.describe("Received");
    }
});
