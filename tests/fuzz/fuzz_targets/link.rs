//! Any bytes in any portions as link frames: the same frames as in one piece, none too long.
#![no_main]

use common::channel::link::{Deframer, MAX_PAYLOAD, Records};
use libfuzzer_sys::fuzz_target;

/// The payloads of the frames, and whether the end was an error.
fn frames(portions: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut deframer, mut payloads) = (Deframer::default(), Vec::new());
    for portion in portions {
        deframer.push(portion);
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => payloads.push(frame.payload),
                Ok(None) => break,
                Err(_) => return (payloads, true),
            }
        }
    }
    (payloads, false)
}

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    let whole = frames(&[bytes]);
    assert_eq!(whole, frames(&[&bytes[..cut], &bytes[cut..]]));
    for payload in &whole.0 {
        assert!(payload.len() <= MAX_PAYLOAD);
        let read: usize = Records(payload).filter_map(Result::ok).map(<[u8]>::len).sum();
        assert!(read <= payload.len());
    }
});
