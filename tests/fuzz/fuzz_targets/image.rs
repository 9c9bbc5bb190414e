//! Any bytes as an image of any format: judged, never more than its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::image(bytes));
