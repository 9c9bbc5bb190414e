//! Any bytes as the descriptor of a package.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::descriptor(bytes));
