//! Any bytes as what a guest asks for metadata and passwords: nobody is told what is another's.
#![no_main]

use std::{net::Ipv4Addr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use router::{
    metadata::{
        store::Guest,
        tree::{Found, look_up},
    },
    password::protocol::{Reply, reply},
    snapshot::{Metadata, Password},
};

static GUEST: LazyLock<Guest> = LazyLock::new(|| {
    let keys = vec![("instance-id".to_owned(), "i-7".to_owned()), ("a b".to_owned(), String::new())];
    Guest::new(Metadata { user_data: Some("AP8K".into()), keys }).expect("metadata")
});

fuzz_target!(|bytes: &[u8]| {
    let caller = Ipv4Addr::new(10, 1, 1, 20);
    if let Ok(path) = std::str::from_utf8(bytes) {
        let _ = look_up(path, caller, Some(&GUEST));
        assert!(!matches!(look_up(path, caller, None), Found::Value(_)), "nothing is known of it");
    }
    let password = Password { value: "hunter2".into(), serial: 1 };
    let (method, wanted) = bytes.split_at(bytes.len().min(3));
    let method = std::str::from_utf8(method).unwrap_or("GET");
    let handed = matches!(reply(method, Some(wanted), Some(&password)), Reply::Hand(_));
    assert_eq!(handed, method == "GET" && wanted == b"send_my_password");
});
