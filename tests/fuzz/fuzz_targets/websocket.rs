//! Any bytes as a browser's websocket: portions change nothing, no more comes out than went in, and of who may only
//! look nothing but questions for the picture.
#![no_main]

use cpvm::{
    end::End,
    rfb::view::ViewOnly,
    websocket::Decoder,
};
use libfuzzer_sys::fuzz_target;

/// Data, replies and the end.
fn decoded(portions: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Option<End>) {
    let (mut decoder, mut data, mut replies) = (Decoder::default(), Vec::new(), Vec::new());
    for portion in portions {
        let mut portion = portion.to_vec();
        let found = decoder.decode(&mut portion, &mut replies);
        data.extend_from_slice(&portion[..found.data]);
        if found.end.is_some() {
            return (data, replies, found.end);
        }
    }
    (data, replies, None)
}

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    let whole = decoded(&[bytes]);
    assert_eq!(whole, decoded(&[&bytes[..cut], &bytes[cut..]]));
    assert!(whole.0.len() + whole.1.len() <= bytes.len());
    let mut through = Vec::new();
    if ViewOnly::default().pass(bytes, &mut through).is_ok() {
        assert!(through.first().is_none_or(|kind| matches!(kind, 0 | 2 | 3 | 150 | 248)));
    }
});
