//! Any bytes as a ZIP archive: unpacked or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::archive(bytes));
