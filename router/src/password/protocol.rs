//! What a request is answered. The word in the request's header `DomU_Request` says what is wanted.

use crate::snapshot::Password;

/// The header that says what is wanted.
pub const HEADER: &str = "DomU_Request";
/// "There is no password, or no more"; also the word of the management end for none.
pub const SAVED: &str = "saved_password";
/// "This is no question".
pub const BAD: &str = "bad_request";

/// What comes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// This text, status 200.
    Say(String),
    /// The guest's password.
    Hand(String),
    /// The guest has its password: core forgets the one of this serial, then [`SAVED`] is said.
    Confirm(u64),
    /// Nothing, status 200: guests store no passwords.
    Nothing,
    /// Status 501.
    Unsupported,
}

/// Decides about a request of a guest with `password` waiting for it.
pub fn reply(method: &str, wanted: Option<&[u8]>, password: Option<&Password>) -> Reply {
    match (method, wanted) {
        ("GET", Some(b"send_my_password")) => {
            match password.filter(|p| !p.value.is_empty() && p.value != SAVED) {
                Some(password) => Reply::Hand(password.value.clone()),
                None => Reply::Say(SAVED.to_owned()),
            }
        }
        ("GET", Some(b"saved_password")) => match password {
            Some(password) => Reply::Confirm(password.serial),
            None => Reply::Say(SAVED.to_owned()),
        },
        ("GET", _) => Reply::Say(BAD.to_owned()),
        ("POST", _) => Reply::Nothing,
        _ => Reply::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(value: &str) -> Password {
        Password { value: value.into(), serial: 7 }
    }

    fn get(wanted: &str, password: Option<&Password>) -> Reply {
        reply("GET", Some(wanted.as_bytes()), password)
    }

    #[test]
    fn a_password_is_handed_out_until_it_is_confirmed() {
        let password = stored(" p%+&= \u{fc}ß");
        assert_eq!(get("send_my_password", Some(&password)), Reply::Hand(" p%+&= \u{fc}ß".into()));
        assert_eq!(get("saved_password", Some(&password)), Reply::Confirm(7));
    }

    #[test]
    fn without_a_password_both_words_mean_saved() {
        for wanted in ["send_my_password", "saved_password"] {
            assert_eq!(get(wanted, None), Reply::Say("saved_password".into()));
        }
        for none in ["saved_password", ""] {
            assert_eq!(get("send_my_password", Some(&stored(none))), Reply::Say("saved_password".into()));
        }
    }

    #[test]
    fn all_else_gets_its_fixed_answer() {
        let password = stored("x");
        for wanted in ["", "SEND_MY_PASSWORD", "send_my_password ", "save_password"] {
            assert_eq!(get(wanted, Some(&password)), Reply::Say("bad_request".into()), "{wanted:?}");
        }
        assert_eq!(reply("GET", None, Some(&password)), Reply::Say("bad_request".into()));
        assert_eq!(reply("POST", Some(b"save_password"), Some(&password)), Reply::Nothing);
        for method in ["PUT", "HEAD", "DELETE", "get"] {
            assert_eq!(reply(method, Some(b"send_my_password"), Some(&password)), Reply::Unsupported);
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_word_gets_the_password(method in "\\PC{0,8}", wanted in any::<Vec<u8>>()) {
            let handed = matches!(reply(&method, Some(&wanted), Some(&stored("x"))), Reply::Hand(_));
            prop_assert_eq!(handed, method == "GET" && wanted == b"send_my_password");
        }
    }
}
