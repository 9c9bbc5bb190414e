//! Any bytes as a bundle of a router's start: what was read of it is in it, byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use router::core::bundle::{Item, read};

fuzz_target!(|bytes: &[u8]| {
    let Ok(items) = read(bytes) else { return };
    for item in items {
        if let Item::File(_, content) = item {
            assert!(content.is_empty() || bytes.windows(content.len()).any(|part| part == content));
        }
    }
});
