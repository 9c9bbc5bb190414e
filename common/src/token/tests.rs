//! Vectors recorded from the reference, and what any other text may do: be refused.

use proptest::prelude::*;
use serde::Deserialize;

use super::{
    OpenError, Token, TokenKey,
    ticket::{minute, ticket, verify},
};

#[derive(Deserialize)]
struct Vectors {
    encryptor_password: String,
    hash_key: String,
    minute: i64,
    tokens: Vec<Good>,
    bad: Vec<Bad>,
}

#[derive(Deserialize)]
struct Good {
    case: String,
    nonce: String,
    text: String,
    token: String,
    other_nonce: String,
    ticket: String,
    ticket_before: String,
}

#[derive(Deserialize)]
struct Bad {
    case: String,
    token: String,
    error: Option<String>,
}

fn vectors() -> (Vectors, TokenKey) {
    let vectors: Vectors = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let key = TokenKey::from_encryptor_password(&vectors.encryptor_password).unwrap();
    (vectors, key)
}

#[test]
fn recorded_tokens_open_and_are_made_byte_for_byte() {
    let (vectors, key) = vectors();
    for good in vectors.tokens {
        let wanted: Token = serde_json::from_str(&good.text).unwrap();
        assert_eq!(key.open(&good.token).unwrap(), wanted, "{}", good.case);
        assert_eq!(key.open(&good.other_nonce).unwrap(), wanted, "{}", good.case);
        let nonce = hex::decode(&good.nonce).unwrap().try_into().unwrap();
        assert_eq!(wanted.text().unwrap(), good.text, "{}", good.case);
        assert_eq!(key.seal_with(&wanted, nonce).unwrap(), good.token, "{}", good.case);
    }
}

#[test]
fn recorded_bad_tokens_are_refused() {
    let (vectors, key) = vectors();
    for bad in vectors.bad {
        let got = key.open(&bad.token).err().map(|error| format!("{error:?}"));
        assert_eq!(got, bad.error, "{}", bad.case);
    }
}

#[test]
fn tickets_are_the_recorded_ones_and_live_two_minutes() {
    let (vectors, _) = vectors();
    for good in vectors.tokens {
        let token: Token = serde_json::from_str(&good.text).unwrap();
        let now = vectors.minute;
        assert_eq!(ticket(&vectors.hash_key, &token, now), good.ticket, "{}", good.case);
        assert_eq!(ticket(&vectors.hash_key, &token, now - 1), good.ticket_before, "{}", good.case);
        assert!(verify(&vectors.hash_key, &token, now, &good.ticket));
        assert!(verify(&vectors.hash_key, &token, now + 1, &good.ticket));
        assert!(!verify(&vectors.hash_key, &token, now + 2, &good.ticket));
        assert!(!verify(&vectors.hash_key, &token, now - 1, &good.ticket));
        assert!(!verify("another key", &token, now, &good.ticket));
    }
    assert_eq!(minute(1_761_782_400_000 + 59_999), 29_363_040);
}

#[test]
fn key_text_reads_back_and_bad_ones_name_the_member() {
    let key = TokenKey::generate().unwrap();
    let again = TokenKey::from_encryptor_password(&key.encryptor_password()).unwrap();
    let token = Token { host: Some("10.0.0.1".to_owned()), port: 5900, ..Token::default() };
    assert_eq!(again.open(&key.seal(&token).unwrap()), Ok(token.clone()));
    let other = TokenKey::generate().unwrap();
    assert_eq!(other.open(&key.seal(&token).unwrap()), Err(OpenError::Seal));

    for (text, named) in [
        ("", "JSON object"),
        ("[]", "JSON object"),
        (r#"{"base64EncodedKeyBytes":"AAECAwQFBgcICQoLDA0ODw"}"#, "JSON object"),
        (r#"{"base64EncodedKeyBytes":"AAEC","base64EncodedIvBytes":"8OHSw7Sllod4aVpLPC0eDw"}"#, "KeyBytes"),
        (r#"{"base64EncodedKeyBytes":"AAECAwQFBgcICQoLDA0ODw==","base64EncodedIvBytes":"!"}"#, "IvBytes"),
    ] {
        let error = TokenKey::from_encryptor_password(text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    let standard = r#"{"base64EncodedKeyBytes":"+/v7+/v7+/v7+/v7+/v7+w==","base64EncodedIvBytes":"-_v7-_v7-_v7-_v7-_v7-w"}"#;
    assert!(TokenKey::from_encryptor_password(standard).is_ok());
}

#[test]
fn secrets_do_not_show() {
    let (vectors, key) = vectors();
    let token = key.open(&vectors.tokens[0].token).unwrap();
    let shown = format!("{token:?} {key:?}");
    assert!(!shown.contains("Secr3tPw") && !shown.contains("31RT3U6Q68su"), "{shown}");
}

#[test]
fn a_token_of_any_length_is_refused_in_time() {
    let (_, key) = vectors();
    assert_eq!(key.open(&"A".repeat(1 << 24)), Err(OpenError::Long));
}

proptest! {
    #[test]
    fn any_text_is_refused(text in "\\PC{0,200}") {
        prop_assert!(vectors().1.open(&text).is_err());
    }

    #[test]
    fn any_base64_is_refused(text in "[A-Za-z0-9+/]{0,400}={0,2}") {
        prop_assert!(vectors().1.open(&text).is_err());
    }

    #[test]
    fn any_token_reads_back(host in "\\PC{0,40}", port in any::<i32>(), name in any::<String>(), extra in proptest::option::of(any::<String>())) {
        let key = vectors().1;
        let token = Token { host: Some(host), port, display_name: Some(name), extra_security_token: extra, ..Token::default() };
        prop_assert_eq!(key.open(&key.seal(&token).unwrap()).unwrap(), token);
    }
}
