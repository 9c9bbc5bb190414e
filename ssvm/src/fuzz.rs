//! Doors for the fuzz targets to the decoders that strangers' bytes reach. What must hold for any bytes is
//! asserted here; nothing else calls this.

use bytes::Bytes;
use common::command::storage::ImageFormat;
use futures_util::{FutureExt as _, stream};
use tokio::io::AsyncReadExt as _;

use crate::{
    format::{
        Inspector, plain_descriptor, read_descriptor, single_descriptor,
        vhd::{Footer, HEADER, Header, Table},
    },
    layout::Properties,
    transfer::only_file,
    web::Parts,
};

const FORMATS: [ImageFormat; 9] = [
    ImageFormat::Qcow2,
    ImageFormat::Raw,
    ImageFormat::Vhd,
    ImageFormat::Vhdx,
    ImageFormat::Vmdk,
    ImageFormat::Vdi,
    ImageFormat::Iso,
    ImageFormat::Tar,
    ImageFormat::Ova,
];

/// An image that is declared to be of a format, which the first byte chooses. It comes in two pieces, with room
/// between them that the third byte chooses: headers point far ahead.
///
/// # Panics
/// Where a verdict is none: a disk without size, or a file that is counted wrongly.
pub fn image(bytes: &[u8]) {
    let [format, cut, gap, image @ ..] = bytes else { return };
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let (head, rest) = image.split_at(usize::from(*cut).min(image.len()));
    let gap = vec![0; usize::from(*gap) << 14];
    let mut inspector = Inspector::new(Some(format));
    for piece in [head, &gap, rest] {
        if inspector.feed(piece).is_err() {
            return;
        }
    }
    if let Ok(sizes) = inspector.finish() {
        assert_eq!(sizes.physical_size, (image.len() + gap.len()) as u64);
        assert!(sizes.virtual_size > 0 && sizes.virtual_size <= 64 << 40);
    }
}

/// A ZIP archive: what comes out of it, at most a mebibyte.
pub fn archive(bytes: &[u8]) {
    let mut plain = only_file(bytes).take(1 << 20);
    // All bytes are there: nothing is waited for.
    let _ = plain.read_to_end(&mut Vec::new()).now_or_never();
}

/// The body of an upload, in pieces whose length the first byte tells.
///
/// # Panics
/// Where more comes out than went in.
pub fn upload(bytes: &[u8]) {
    let [length, body @ ..] = bytes else { return };
    let pieces: Vec<Result<Bytes, String>> =
        body.chunks(usize::from(*length).max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut parts = Parts::new("b", stream::iter(pieces));
    let all = async {
        let mut count = 0;
        while let Ok(Some(_)) = parts.next_file().await {
            while let Ok(Some(bytes)) = parts.chunk().await {
                count += bytes.len();
            }
        }
        count
    };
    assert!(all.now_or_never().is_some_and(|count| count <= body.len()));
}

/// A document that names mirrors.
pub fn metalink(bytes: &[u8]) {
    let _ = crate::source::check_metalink(bytes);
}

/// The descriptor of a package: what is made of one that is taken can be read, too.
///
/// # Panics
/// Where it cannot.
pub fn descriptor(bytes: &[u8]) {
    let Ok(descriptor) = read_descriptor(bytes) else { return };
    for file in descriptor.files {
        if let Ok(single) = single_descriptor(bytes, &file.href) {
            assert!(read_descriptor(&single).is_ok());
        }
        let plain = plain_descriptor(bytes, &[(file.href.clone(), file.plain().to_owned(), 7)]);
        assert!(plain.is_ok_and(|plain| read_descriptor(&plain).is_ok()));
    }
}

/// What describes a VHD, at the beginning of its file; its sums are made right.
///
/// # Panics
/// Where a block lies outside the file.
pub fn vhd(bytes: &[u8]) {
    let sealed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        if let Some(sum) = bytes.get_mut(at..at + 4) {
            sum.fill(0);
            let sum = !bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    };
    let Some((footer, _)) = bytes.split_at_checked(512) else { return };
    let Ok(footer) = Footer::parse(&sealed(footer, 64)) else { return };
    let part = |from: u64, length: usize| {
        let from = usize::try_from(from).ok()?;
        bytes.get(from..from.checked_add(length)?)
    };
    let Some(header) = part(footer.header, HEADER) else { return };
    let Ok(header) = Header::parse(&sealed(header, 36)) else { return };
    for locator in &header.locators {
        let name = part(locator.offset, locator.length as usize).and_then(|bytes| locator.name(bytes));
        assert!(name.is_none_or(|name| !name.contains('/')));
    }
    let file = bytes.len() as u64 + (1 << 30);
    let Ok((at, length)) = header.table(footer.size) else { return };
    let Some(table) = part(at, length) else { return };
    if let Ok(table) = Table::parse(table, &footer, &header, file) {
        for block in 0..table.len() as u64 {
            assert!(table.place(block).is_none_or(|(_, sectors)| sectors + table.block <= file));
        }
    }
}

/// A property file as it may lie in a store: what is written of it reads the same.
///
/// # Panics
/// Where it does not.
pub fn properties(bytes: &[u8]) {
    let properties = Properties::parse(bytes);
    let again = Properties::parse(&properties.render());
    assert_eq!(again, properties);
}
