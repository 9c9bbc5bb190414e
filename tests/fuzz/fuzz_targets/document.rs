//! Any bytes as a document: read or refused with a place and a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use router::document::Document;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = Document::read(bytes) {
        assert!(!error.reason.is_empty() && error.to_string().ends_with("nothing of this document was applied"));
    }
});
