//! The decoders that strangers reach, with any bytes at all.

use std::io::Write;

use common::channel::link::{Deframer, Frame, FrameHeader, LinkError, MAX_PAYLOAD, Records, frame};
use common::channel::packet::{Flags, HEADER, MAX_CONTENT, Packet, PacketError};
use proptest::collection::vec;
use proptest::prelude::*;

fn zipped(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn header(flags: u16, length: i32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    bytes[12..16].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn wrong_packets_are_named() {
    assert!(matches!(Packet::decode(&[0; 39], MAX_CONTENT), Err(PacketError::Short(39))));
    for version in [1, 2, 255] {
        let mut bytes = header(1, 0);
        bytes[0] = version;
        assert!(
            matches!(Packet::decode(&bytes, MAX_CONTENT), Err(PacketError::Version(found)) if found == version)
        );
    }
    for length in [-1, i32::MIN, 64 * 1024 * 1024 + 1, i32::MAX] {
        let decoded = Packet::decode(&header(1, length), MAX_CONTENT);
        assert!(matches!(decoded, Err(PacketError::Limit { announced, .. }) if announced == length));
    }
    let long = [header(1, 2), b"[1]".to_vec()].concat();
    assert!(matches!(
        Packet::decode(&long, MAX_CONTENT),
        Err(PacketError::Length { announced: 2, found: 3 })
    ));
    let no_zip = [header(0x81, 3), b"[1]".to_vec()].concat();
    assert!(matches!(Packet::decode(&no_zip, MAX_CONTENT), Err(PacketError::Zip(_))));
}

#[test]
fn a_zip_bomb_does_not_burst() {
    let bomb = zipped(&vec![b' '; 50 * 1024 * 1024]);
    assert!(bomb.len() < 100_000);
    let bytes = [header(0x81, 1000), bomb].concat();
    assert!(matches!(
        Packet::decode(&bytes, MAX_CONTENT),
        Err(PacketError::Length { announced: 1000, found: 1001 })
    ));
}

#[test]
fn short_zipped_text_is_read_too() {
    let bytes = [header(0x81, 2), zipped(b"[]")].concat();
    let packet = Packet::decode(&bytes, MAX_CONTENT).unwrap();
    assert_eq!((packet.flags, packet.content.as_slice()), (Flags::REQUEST, &b"[]"[..]));
}

/// Frames and the error of a stream that arrives in these portions; also how much was ever held.
fn deframe(portions: &[&[u8]]) -> (Vec<Frame>, Option<LinkError>, bool) {
    let (mut deframer, mut frames) = (Deframer::default(), Vec::new());
    for portion in portions {
        deframer.push(portion);
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), deframer.is_empty()),
            }
        }
    }
    (frames, None, deframer.is_empty())
}

#[test]
fn headers_are_those_of_the_trace() {
    for (bytes, length, following) in [
        ([0, 0, 2, 0xff], 767, false),
        ([0, 1, 0x40, 0x1d], 16_413, true),
        ([0, 0, 0x13, 0x99], 5_017, false),
    ] {
        let header = FrameHeader { length, following };
        assert_eq!(FrameHeader::decode(bytes).unwrap(), header);
        assert_eq!(header.encode(), bytes);
    }
    // Bits without a meaning are ignored.
    assert_eq!(FrameHeader::decode([0xff, 0xfe, 0, 1]).unwrap(), FrameHeader { length: 1, following: false });
    assert_eq!(FrameHeader::decode([0x15, 3, 3, 0]), Err(LinkError::Unframed(0x15)));
}

#[test]
fn a_frame_that_is_split_into_single_bytes_comes_whole() {
    let bytes = [0, 1, 0, 6, 0x17, 3, 3, 0, 1, 9, 0, 0, 0, 0];
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let (frames, error, empty) = deframe(&single);
    let payload = vec![0x17, 3, 3, 0, 1, 9];
    assert_eq!(frames, [Frame { payload, following: true }, Frame { payload: vec![], following: false }]);
    assert!(error.is_none() && empty);
    assert!(!deframe(&single[..7]).2);
}

fn records(lengths: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for length in lengths {
        bytes.extend([0x17, 3, 3]);
        bytes.extend((*length as u16).to_be_bytes());
        bytes.extend(vec![7; *length]);
    }
    bytes
}

proptest! {
    #[test]
    fn any_bytes_as_a_packet(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = Packet::decode(&bytes, 1000) {
            prop_assert!(packet.content.len() <= 1000);
            let _ = packet.messages();
            let _ = packet.describe("Received");
        }
    }

    #[test]
    fn any_content_after_a_good_header(flags in any::<u16>(), content in vec(any::<u8>(), 0..300)) {
        let bytes = [header(flags, i32::try_from(content.len()).unwrap()), content].concat();
        if let Ok(packet) = Packet::decode(&bytes, 1000) {
            let again = Packet::decode(&packet.encode(), 1000).unwrap();
            prop_assert_eq!(again.content, packet.content);
            prop_assert_eq!(again.flags, packet.flags);
        }
    }

    #[test]
    fn every_packet_comes_back(
        flags in any::<u16>(),
        ids in any::<[i64; 4]>(),
        content in prop_oneof![vec(any::<u8>(), 0..100), vec(any::<u8>(), 8190..8200)],
    ) {
        let [sequence, management, agent, via] = ids;
        let flags = Flags(flags).without(Flags::COMPRESSED);
        let packet = Packet { flags, sequence, management, agent, via, content };
        prop_assert_eq!(Packet::decode(&packet.encode(), MAX_CONTENT).unwrap(), packet);
    }

    #[test]
    fn any_bytes_as_frames(bytes in vec(any::<u8>(), 0..500), cut in 0_usize..500) {
        let cut = cut.min(bytes.len());
        let (whole, whole_error, _) = deframe(&[&bytes]);
        let (parts, parts_error, _) = deframe(&[&bytes[..cut], &bytes[cut..]]);
        prop_assert!(whole.iter().all(|frame| frame.payload.len() <= MAX_PAYLOAD));
        prop_assert_eq!((whole, whole_error), (parts, parts_error));
    }

    #[test]
    fn any_bytes_as_records(bytes in vec(any::<u8>(), 0..300)) {
        let mut read = 0;
        let mut broken = false;
        for record in Records(&bytes) {
            match record {
                Ok(record) => read += record.len(),
                Err(error) => {
                    prop_assert_eq!(error, LinkError::PartialRecord);
                    broken = true;
                }
            }
        }
        prop_assert_eq!(read == bytes.len(), !broken);
        let _ = frame(&bytes, false);
    }

    #[test]
    fn records_are_framed_one_by_one(lengths in vec(0_usize..2000, 1..6), following: bool) {
        let bytes = records(&lengths);
        let (frames, error, empty) = deframe(&[&frame(&bytes, following).unwrap()]);
        prop_assert!(error.is_none() && empty);
        prop_assert_eq!(frames.len(), lengths.len());
        prop_assert_eq!(frames.iter().flat_map(|frame| frame.payload.clone()).collect::<Vec<_>>(), bytes);
        let marks: Vec<bool> = frames.iter().map(|frame| frame.following).collect();
        let mut wanted = vec![true; lengths.len()];
        wanted[lengths.len() - 1] = following;
        prop_assert_eq!(marks, wanted);
    }
}
