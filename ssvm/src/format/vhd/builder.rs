//! Makes VHDs of any content for tests, also for the suites; no tool of Debian makes differencing ones.
#![allow(unreachable_pub, reason = "the suites see it, the library does not")]

use std::collections::BTreeMap;

/// The disk that one builds on.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its identity.
    pub uuid: [u8; 16],
    /// Where it lies, by the platform that such a name is for: `MACX`, `W2ru`, `W2ku`.
    pub places: Vec<([u8; 4], String)>,
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A dynamic disk, or a differencing one where it has a parent: of `size` bytes, in blocks of so many bytes, with these
/// sectors in it by their numbers. Blocks lie in the file from the last one to the first.
pub fn build(
    size: u64,
    block: u64,
    uuid: [u8; 16],
    parent: Option<&Parent>,
    sectors: &BTreeMap<u64, [u8; 512]>,
) -> Vec<u8> {
    let count = size.div_ceil(block) as usize;
    let mut footer = [0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &2_u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
    put(&mut footer, 16, &512_u64.to_be_bytes());
    put(&mut footer, 28, b"tap\0");
    put(&mut footer, 32, &0x0001_0003_u32.to_be_bytes());
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 60, &(if parent.is_some() { 4_u32 } else { 3 }).to_be_bytes());
    put(&mut footer, 68, &uuid);
    // Hidden, as the disks below others are.
    footer[85] = 1;
    let check = sum(&footer);
    put(&mut footer, 64, &check);

    let mut header = [0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &[0xff; 8]);
    put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
    put(&mut header, 28, &(count as u32).to_be_bytes());
    put(&mut header, 32, &(block as u32).to_be_bytes());
    let mut names = Vec::new();
    if let Some(parent) = parent {
        put(&mut header, 40, &parent.uuid);
        for (number, (platform, place)) in parent.places.iter().enumerate() {
            let bytes: Vec<u8> = match platform {
                b"MACX" => place.clone().into_bytes(),
                _ => place.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            };
            let at = 576 + number * 24;
            put(&mut header, at, platform);
            put(&mut header, at + 4, &512_u32.to_be_bytes());
            put(&mut header, at + 8, &(bytes.len() as u32).to_be_bytes());
            put(&mut header, at + 16, &(1536 + names.len() as u64).to_be_bytes());
            names.extend(bytes);
            names.resize(names.len().next_multiple_of(512), 0);
        }
    }
    put(&mut header, 16, &(1536 + names.len() as u64).to_be_bytes());
    let check = sum(&header);
    put(&mut header, 36, &check);

    let mut table = vec![0xff; (count * 4).next_multiple_of(512)];
    let bitmap = (block as usize / 512 / 8).next_multiple_of(512);
    let mut blocks = Vec::new();
    let first = 1536 + names.len() + table.len();
    for number in (0..count as u64).rev() {
        let per = block / 512;
        let inside: Vec<_> = sectors.range(number * per..(number + 1) * per).collect();
        if inside.is_empty() {
            continue;
        }
        let start = ((first + blocks.len()) / 512) as u32;
        put(&mut table, number as usize * 4, &start.to_be_bytes());
        // What is not said to be there is rubbish.
        let mut content = vec![0xee; bitmap + block as usize];
        content[..bitmap].fill(0);
        for (sector, bytes) in inside {
            let at = (sector - number * per) as usize;
            content[at / 8] |= 0x80 >> (at % 8);
            put(&mut content, bitmap + at * 512, bytes);
        }
        blocks.extend(content);
    }
    [&footer[..], &header, &names, &table, &blocks, &footer].concat()
}
