//! Names of mount folders and images.

use std::net::IpAddr;

use common::command::storage::ImageFormat;
use md5::{Digest as _, Md5};

use super::StorePath;

/// Longest name made from a stranger's text.
const LONGEST: usize = 200;

/// Name of the folder at which the export `path` of `host` is mounted: the version-3 UUID of
/// `<host>:<path>`. The management server and the other VMs of the zone compute the same.
pub(crate) fn mount_name(host: IpAddr, path: &str) -> String {
    let mut bytes: [u8; 16] = Md5::digest(format!("{host}:{path}")).into();
    bytes[6] = (bytes[6] & 0x0f) | 0x30;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// File name of an installed image: an ISO keeps the name that was asked for, anything else is
/// named after its job.
pub(crate) fn image_name(name: &str, job: &str, format: ImageFormat) -> String {
    match format {
        ImageFormat::Iso => format!("{}.iso", sanitized(name.trim()).unwrap_or_else(|| job.to_owned())),
        other => format!("{job}.{}", other.extension()),
    }
}

/// The last component of a URL's path, free of anything but letters, digits, `.`, `_` and `-`.
pub(crate) fn name_from_url(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?;
    let (_, rest) = path.split_once("://")?;
    let (_, last) = rest.rsplit_once('/')?;
    sanitized(last)
}

/// A file name made from a stranger's text; `None` where nothing usable is left.
pub(crate) fn sanitized(text: &str) -> Option<String> {
    let clean = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let name: String = text.chars().map(clean).take(LONGEST).collect();
    let name = name.trim_start_matches('.');
    (!name.is_empty() && StorePath::parse(name).is_ok()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mount_folders_have_the_names_that_others_compute() {
        let host = "10.1.1.5".parse().unwrap();
        assert_eq!(mount_name(host, "/export/sec"), "860dc93d-6a36-33f1-88a9-b190084fe6a4");
        assert_eq!(mount_name(host, "/export/sec/"), "eb91a107-e707-380e-8cbb-dae012506890");
    }

    #[test]
    fn images_are_named_by_kind() {
        assert_eq!(image_name(" my iso 1 ", "j", ImageFormat::Iso), "my_iso_1.iso");
        assert_eq!(image_name("../../x", "j", ImageFormat::Iso), "_.._x.iso");
        assert_eq!(image_name("x", "5a6b", ImageFormat::Qcow2), "5a6b.qcow2");
        assert_eq!(name_from_url("http://h/a/b.qcow2?sig=1").as_deref(), Some("b.qcow2"));
        assert_eq!(name_from_url("http://h/a/"), None);
        assert_eq!(name_from_url("http://h"), None);
    }

    proptest! {
        #[test]
        fn a_sanitized_name_is_one_component(text in ".{0,300}") {
            if let Some(name) = sanitized(&text) {
                prop_assert!(StorePath::parse("a").unwrap().join(&name).is_ok());
                prop_assert!(!name.starts_with('.'));
            }
        }
    }
}
