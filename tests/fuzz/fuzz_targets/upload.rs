//! Any bytes as the body of an upload: files come out, or a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::upload(bytes));
