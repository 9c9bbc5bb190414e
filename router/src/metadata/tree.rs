//! Which path means what.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::store::Guest;

/// The longest path that is looked at, bytes.
const LONGEST: usize = 1024;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A value, whole and as it is.
    Value(Bytes),
    /// The folder itself, with the slash at its end.
    Elsewhere(&'static str),
    /// It is there but not for this guest, or not to be listed.
    Forbidden,
    /// Nothing.
    Missing,
}

/// Looks a path up for the guest at `caller`, of whom `guest` is known (`None`: nothing is).
pub fn look_up(path: &str, caller: Ipv4Addr, guest: Option<&Guest>) -> Found {
    let Some(path) = decode(path) else { return Found::Missing };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // One slash at the end changes nothing.
    let (parts, slash) = match &parts[..] {
        [parts @ .., ""] => (parts, true),
        parts => (parts, false),
    };
    match parts {
        [latest] if is(latest, "latest") && slash => Found::Forbidden,
        [latest] if is(latest, "latest") => Found::Elsewhere("/latest/"),
        [latest, rest @ ..] if is(latest, "latest") => of_latest(rest, guest),
        [userdata, address, file] if is(userdata, "userdata") && is(file, "user-data") => {
            of_address(address, caller, user_data(guest))
        }
        [metadata, address, key] if is(metadata, "metadata") => {
            let value = if is(key, "meta-data") { list(guest) } else { value(key, guest) };
            of_address(address, caller, value)
        }
        _ => Found::Missing,
    }
}

fn of_latest(rest: &[&str], guest: Option<&Guest>) -> Found {
    match rest {
        [name] if is(name, "user-data") => user_data(guest),
        [name] if is(name, "meta-data") => list(guest),
        [name, key] if is(name, "meta-data") => value(key, guest),
        [key] => value(key, guest),
        _ => Found::Missing,
    }
}

fn of_address(address: &str, caller: Ipv4Addr, found: Found) -> Found {
    if address.parse() == Ok(caller) { found } else { Found::Forbidden }
}

fn user_data(guest: Option<&Guest>) -> Found {
    guest.and_then(|g| g.user_data.clone()).map_or(Found::Missing, Found::Value)
}

fn list(guest: Option<&Guest>) -> Found {
    guest.map_or(Found::Missing, |g| Found::Value(g.list.clone()))
}

fn value(key: &str, guest: Option<&Guest>) -> Found {
    guest.and_then(|g| g.get(key)).map_or(Found::Missing, |v| Found::Value(v.clone()))
}

fn is(part: &str, name: &str) -> bool {
    part.eq_ignore_ascii_case(name)
}

/// Percent-decodes a path; `None` where that gives no text.
pub(super) fn decode(path: &str) -> Option<String> {
    if path.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digit = |d: u8| char::from(d).to_digit(16);
            bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::Metadata;

    const A: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);

    fn guest() -> Guest {
        Guest::new(Metadata {
            user_data: Some("AP8K".into()),
            keys: [("instance-id", "i-7"), ("public-keys", ""), ("Odd Key", "x"), ("vm-id", "i-7")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        })
        .unwrap()
    }

    fn ask(path: &str) -> Found {
        look_up(path, A, Some(&guest()))
    }

    fn value(text: &'static [u8]) -> Found {
        Found::Value(Bytes::from_static(text))
    }

    #[test]
    fn user_data_is_exact_under_all_its_paths() {
        for path in [
            "/latest/user-data",
            "/latest/user-data/",
            "/LATEST/User-Data",
            "/userdata/10.1.1.10/user-data",
            "//latest/user-data",
        ] {
            assert_eq!(ask(path), value(&[0, 255, 10]), "{path}");
        }
    }

    #[test]
    fn keys_are_listed_in_order_with_a_final_newline() {
        for path in ["/latest/meta-data", "/latest/meta-data/", "/metadata/10.1.1.10/meta-data"] {
            assert_eq!(ask(path), value(b"instance-id\npublic-keys\nOdd Key\nvm-id\n"), "{path}");
        }
    }

    #[test]
    fn values_have_no_newline_and_several_paths() {
        for path in [
            "/latest/meta-data/instance-id",
            "/latest/instance-id/",
            "/metadata/10.1.1.10/instance-id",
            "/Latest/Meta-Data/Instance-ID",
        ] {
            assert_eq!(ask(path), value(b"i-7"), "{path}");
        }
        assert_eq!(ask("/latest/meta-data/public-keys"), value(b""), "an empty file");
        assert_eq!(ask("/latest/meta-data/odd%20key"), value(b"x"));
    }

    #[test]
    fn what_is_not_there_is_missing_or_forbidden() {
        for path in [
            "/",
            "",
            "/latest/meta-data/nothing",
            "/latest/cloud-domain",
            "/latest/meta-data/public-keys/0/openssh-key",
            "/2009-04-04/meta-data/instance-id",
            "/latest//user-data",
            "/latest/../userdata/10.1.1.10/user-data",
            "/latest/%",
            "/latest/%zz",
            "/latest/%ff",
        ] {
            assert_eq!(ask(path), Found::Missing, "{path}");
        }
        assert_eq!(ask("/latest/"), Found::Forbidden);
        assert_eq!(ask("/latest"), Found::Elsewhere("/latest/"));
    }

    #[test]
    fn nobody_reads_what_is_another_guests() {
        for path in [
            "/userdata/10.1.1.20/user-data",
            "/metadata/10.1.1.20/instance-id",
            "/metadata/10.1.1.20/meta-data",
            "/metadata/x/meta-data",
        ] {
            assert_eq!(ask(path), Found::Forbidden, "{path}");
        }
    }

    #[test]
    fn a_guest_without_data_finds_nothing() {
        for path in [
            "/latest/user-data",
            "/latest/meta-data/",
            "/latest/meta-data/instance-id",
            "/userdata/10.1.1.10/user-data",
        ] {
            assert_eq!(look_up(path, A, None), Found::Missing, "{path}");
            let empty = Guest::new(Metadata { user_data: Some(String::new()), keys: Vec::new() }).unwrap();
            assert_eq!(look_up("/latest/user-data", A, Some(&empty)), Found::Missing);
        }
    }

    proptest! {
        #[test]
        fn any_path_is_found_or_not(path in "\\PC{0,200}") {
            let _ = ask(&path);
            let _ = ask(&format!("/latest/{path}"));
        }
    }
}
