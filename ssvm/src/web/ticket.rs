//! Upload tickets: what the management server has signed and sealed, and a browser brings along.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::command::storage::{ImageFormat, ResourceType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What the management server says of an upload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ticket {
    pub(crate) entity_id: i64,
    #[serde(rename = "entityUUID")]
    pub(crate) entity_uuid: Option<String>,
    /// Folder below the root of the store.
    pub(crate) absolute_path: Option<String>,
    pub(crate) checksum: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: ResourceType,
    /// Unique name of a template, name of a volume.
    pub(crate) name: Option<String>,
    pub(crate) requires_hvm: bool,
    pub(crate) image_format: Option<ImageFormat>,
    /// URL of the store.
    pub(crate) data_to: Option<String>,
    /// GiB, as text.
    pub(crate) max_upload_size: Option<String>,
    pub(crate) description: Option<String>,
    /// What the account may hold; -1: as much as it likes.
    #[serde(rename = "defaultMaxSecondaryStorageInGB")]
    pub(crate) account_limit: Option<i64>,
    pub(crate) account_id: i64,
    pub(crate) nfs_version: Option<String>,
}

/// Whether `signature` is that of these three texts.
pub(super) fn is_signed(key: &str, metadata: &str, url: &str, expires: &str, signature: &str) -> bool {
    let Ok(signature) = STANDARD.decode(signature.trim()) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    hmac::verify(&key, format!("{metadata}{url}{expires}").as_bytes(), &signature).is_ok()
}

/// Opens the sealed part: base64 of nonce, JSON under AES-256-GCM, and tag.
pub(super) fn open(key: &str, metadata: &str) -> Option<Ticket> {
    let mut bytes = STANDARD.decode(metadata.trim()).ok()?;
    let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let key = UnboundKey::new(&AES_256_GCM, &Sha256::digest(key.as_bytes())).ok()?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let plain = LessSafeKey::new(key).open_in_place(nonce, Aad::empty(), sealed).ok()?;
    serde_json::from_slice(plain).ok()
}

/// Seconds since 1970 of `2030-01-01T00:00:00.000Z`.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let text = text.trim().strip_suffix('Z').or_else(|| text.trim().strip_suffix("+0000"))?;
    let (date, time) = text.split_once('T')?;
    let (time, millis) = time.split_once('.')?;
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let numbers: Vec<i64> = text
            .split(by)
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten())
            .collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let good = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && !millis.is_empty()
        && millis.bytes().all(|b| b.is_ascii_digit());
    if !good {
        return None;
    }
    // Days since 1970 of the Gregorian calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "https://10-0-0-5.example.org/upload/11111111-2222-3333-4444-555555555555";
    const EXPIRES: &str = "2030-01-01T00:00:00.000Z";

    #[test]
    fn signatures() {
        let good = "GCfa0scQmhbOxvtF1Mk5k2Dcriw=";
        assert!(is_signed("psk-test", "TUVUQQ==", URL, EXPIRES, good));
        assert!(!is_signed("psk-tesT", "TUVUQQ==", URL, EXPIRES, good));
        assert!(!is_signed("psk-test", "TUVUQQ==", &URL.replace("https", "http"), EXPIRES, good));
        for bad in ["", "GCfa", "no base64", "GCfa0scQmhbOxvtF1Mk5k2Dcriw"] {
            assert!(!is_signed("psk-test", "TUVUQQ==", URL, EXPIRES, bad), "{bad}");
        }
    }

    #[test]
    fn sealed_metadata() {
        let sealed = "AAAAAAAAAAAAAAAAdFMTzo+q5iWv+U89Ju9yNBh6kbxCOcbACiGmPfKA";
        assert_eq!(open("psk-test", sealed).unwrap().entity_id, 7);
        assert_eq!(open("other", sealed), None);
        for bad in ["", "AAAA", "%", "AAAAAAAAAAAAAAAAdFMTzo"] {
            assert_eq!(open("psk-test", bad), None, "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(seconds("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(seconds(EXPIRES), Some(1_893_456_000));
        assert_eq!(seconds("2024-02-29T12:34:56.789+0000"), Some(1_709_210_096));
        for bad in
            ["", "2030-01-01", "2030-13-01T00:00:00.000Z", "2030-01-01T00:00:00Z", "2030-01-01T25:00:00.0Z"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in ".{0,60}") {
            let _ = seconds(&text);
            prop_assert_eq!(open("psk-test", &text), None);
        }
    }
}
