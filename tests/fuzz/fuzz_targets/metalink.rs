//! Any bytes as a document that names the mirrors of a download.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::metalink(bytes));
