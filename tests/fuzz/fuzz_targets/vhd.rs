//! Any bytes as what describes a VHD.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ssvm::fuzz::vhd(bytes));
