//! The ticket inside a token: management's proof that the URL is at most two minutes old.

use aws_lc_rs::hmac::{HMAC_SHA512, Key, sign};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;

use super::Token;

/// The minute that a moment lies in; `milliseconds` since 1970.
pub fn minute(milliseconds: i64) -> i64 {
    milliseconds.div_euclid(60_000)
}

/// Computes the ticket for `token` in `minute`. `secret` is the text of management's hash key,
/// taken as bytes. A port that is rewritten afterwards keeps the ticket of the one before.
pub fn ticket(secret: &str, token: &Token, minute: i64) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let message = format!(
        "host={}&port={}&sid={}&tag={}&session={}{minute}",
        text(&token.host),
        token.port,
        text(&token.password),
        text(&token.tag),
        text(&token.session_uuid),
    );
    STANDARD.encode(sign(&Key::new(HMAC_SHA512, secret.as_bytes()), message.as_bytes()))
}

/// Whether `given` is the ticket of `minute` or of the one before.
pub fn verify(secret: &str, token: &Token, minute: i64, given: &str) -> bool {
    [minute, minute - 1]
        .into_iter()
        .any(|minute| ticket(secret, token, minute).as_bytes().ct_eq(given.as_bytes()).into())
}
