//! Passwords: what the scripts inside guests do, with curl and wget.

use tests::lab::Namespace;

use crate::lab::Lab;

const A: [u8; 4] = [10, 9, 1, 10];

fn ask(guest: &Namespace, word: &str) -> String {
    guest.ok(&format!("curl -s -m 20 -w '|%{{http_code}}' -H 'DomU_Request: {word}' http://10.9.1.1:8080"))
}

#[test]
fn a_password_is_fetched_confirmed_and_gone() {
    let lab = Lab::new();
    lab.address_guests();
    assert_eq!(ask(&lab.a, "send_my_password"), "saved_password|200");
    lab.set_password(A, " p%+&= \u{fc}#'", 1);
    for _ in 0..2 {
        assert_eq!(ask(&lab.a, "send_my_password"), " p%+&= \u{fc}#'|200", "until it is confirmed");
    }
    let wget = "wget -q -t 3 -T 20 -O - --header 'DomU_Request: send_my_password' 10.9.1.1:8080";
    assert_eq!(lab.a.ok(wget), " p%+&= \u{fc}#'");
    assert_eq!(ask(&lab.b, "send_my_password"), "saved_password|200", "not B's");
    assert_eq!(ask(&lab.b, "saved_password"), "saved_password|200");
    assert_eq!(lab.core.passwords.lock().unwrap().0.len(), 1, "B cannot confirm for A");
    assert_eq!(ask(&lab.a, "saved_password"), "saved_password|200");
    assert!(
        lab.core.passwords.lock().unwrap().0.is_empty(),
        "core has forgotten it before the guest was told"
    );
    assert_eq!(ask(&lab.a, "send_my_password"), "saved_password|200");
}

#[test]
fn other_requests_get_their_fixed_answers() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_password(A, "secret", 1);
    assert_eq!(ask(&lab.a, "nonsense"), "bad_request|200");
    let at = "http://10.9.1.1:8080";
    assert_eq!(lab.a.ok(&format!("curl -s -m 10 -w '|%{{http_code}}' {at}")), "bad_request|200");
    let post = format!(
        "curl -s -m 10 -w '|%{{http_code}}' -H 'DomU_Request: save_password' -d 'ip=10.9.1.10&password=x&token=y' {at}"
    );
    assert_eq!(lab.a.ok(&post), "|200");
    assert_eq!(lab.a.ok(&format!("curl -s -m 10 -w '|%{{http_code}}' -X PUT {at}")), "|501");
    assert_eq!(ask(&lab.a, "send_my_password"), "secret|200", "still there");
    let head = lab.a.ok(&format!("curl -s -m 10 -i -H 'DomU_Request: send_my_password' {at}"));
    assert!(
        head.starts_with("HTTP/1.0 200 OK\r\n") && head.contains("content-type: text/plain\r\n"),
        "{head}"
    );
}

#[test]
fn without_core_nothing_is_confirmed_and_nothing_handed_out_twice() {
    let mut lab = Lab::new();
    lab.address_guests();
    lab.set_password(A, "secret", 1);
    lab.core.kill();
    assert_eq!(ask(&lab.a, "send_my_password"), "secret|200");
    assert_eq!(ask(&lab.a, "saved_password"), "|503");
    assert_eq!(ask(&lab.a, "send_my_password"), "saved_password|200");
    lab.restart_core();
    tests::lab::wait_until("core has been told", crate::lab::SOON, || {
        lab.core.passwords.lock().unwrap().0.is_empty()
    });
    assert_eq!(ask(&lab.a, "saved_password"), "saved_password|200");
    lab.set_password(A, "newer", 2);
    assert_eq!(ask(&lab.a, "send_my_password"), "newer|200");
}
