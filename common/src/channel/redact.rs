//! What of a message may be logged: everything but secrets (management channel 2.6).

use std::fmt::Write as _;

use serde_json::Value;

use super::json;
use super::message::Message;

const HIDDEN: &str = "***";
/// Longest text that is logged of one message.
const MAX_TEXT: usize = 16 * 1024;

/// Parts of member names (in lower case) whose values are never shown.
const SECRET_NAMES: &[&str] = &[
    "password",
    "passphrase",
    "passwd",
    "privatekey",
    "prvkey",
    "pubkey",
    "secret",
    "accesskey",
    "keystore",
    "encryptor",
    "certificate",
    "certs",
    "csr",
    "postuploadkey",
    "ticket",
    "_sid",
    "authkey",
    "apikey",
    "token",
    "validitydays",
    "ovfinformationto",
    "tunnelsession",
    "userdata",
    "vmdata",
];
/// Exact member names (in lower case) whose values are never shown.
const SECRET_EXACT: &[&str] = &["sid", "key", "auth", "cert", "credentials"];
/// What makes a text suspicious although its name is not.
const SECRET_TEXT: &[&str] =
    &["password", "passphrase", "privatekey", "private key", "secretkey", "accesskey", "authorized_key"];

/// One message as `{"class":{…}}` with its secrets hidden, cut at 16 KiB.
pub fn message(message: &Message) -> String {
    let body = Value::Object(message.body.clone());
    let mut text = format!("{{\"{}\":{}}}", message.class, json::to_text(&hide(&body)));
    cut(&mut text);
    text
}

/// Several messages as they stand in a packet, secrets hidden.
pub fn messages<'a>(list: impl IntoIterator<Item = &'a Message>) -> String {
    let mut text = String::from("[");
    for (index, item) in list.into_iter().enumerate() {
        if text.len() > MAX_TEXT {
            text.push_str(",…");
            break;
        }
        if index > 0 {
            text.push(',');
        }
        let _ = write!(text, "{}", message(item));
    }
    text.push(']');
    text
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

fn hide(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| {
                let shown = if is_secret(name) && !is_blank(member) { HIDDEN.into() } else { hide(member) };
                (name.clone(), shown)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(hide).collect::<Vec<_>>().into(),
        Value::String(text) if is_suspicious(text) => HIDDEN.into(),
        other => other.clone(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_EXACT.contains(&name.as_str()) || SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn is_blank(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(_)) || value.as_str() == Some("")
}

/// A text that carries a secret inside: nested JSON, boot arguments, PEM, a URL with a login.
fn is_suspicious(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let share = lower.split_once("cifs://").is_some_and(|(_, rest)| rest.contains('?'));
    share || SECRET_TEXT.iter().any(|part| lower.contains(part)) || has_login(&lower)
}

fn has_login(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let host = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        host.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        let parsed = json::parse(json.as_bytes()).unwrap();
        messages(parsed.iter().map(|item| item.as_ref().unwrap()))
    }

    #[test]
    fn hides_every_secret_of_the_protocol() {
        let cases = [
            r#"[{"a.SecStorageVMSetupCommand":{"allowedInternalSites":["10.0.0.0/8"],"copyUserName":"cloud","copyPassword":"S3CRET"}}]"#,
            r#"[{"a.SetupKeyStoreCommand":{"validityDays":365,"keystorePassword":"S3CRET"}}]"#,
            r#"[{"a.SetupCertificateCommand":{"certificate":"S3CRET","privateKey":"S3CRET","caCertificates":"S3CRET"}}]"#,
            r#"[{"a.SetupKeystoreAnswer":{"csr":"S3CRET"}}]"#,
            r#"[{"a.StartConsoleProxyAgentHttpHandlerCommand":{"keystoreBits":"S3CRET","keystorePassword":"S3CRET","encryptorPassword":"S3CRET"}}]"#,
            r#"[{"a.ModifySshKeysCommand":{"_pubKey":"S3CRET","_prvKey":"S3CRET"}}]"#,
            r#"[{"a.SecStorageSetupCommand":{"certs":{"privKey":"S3CRET"},"postUploadKey":"S3CRET"}}]"#,
            r#"[{"a.ConsoleAccessAuthenticationCommand":{"_sid":"S3CRET","_ticket":"S3CRET"}}]"#,
            r#"[{"a.X":{"store":{"com.cloud.agent.api.to.S3TO":{"accessKey":"S3CRET","secretKey":"S3CRET"}}}}]"#,
            r#"[{"a.X":{"store":{"com.cloud.agent.api.to.SwiftTO":{"userName":"u","key":"S3CRET"}}}}]"#,
            r#"[{"a.X":{"vm":{"vncPassword":"S3CRET","bootArgs":"type=x keystore_password=S3CRET"}}}]"#,
            r#"[{"a.X":{"note":"{\"password\":\"S3CRET\"}","url":"cifs://user:S3CRET@host/share"}}]"#,
            r#"[{"a.X":{"store":{"com.cloud.agent.api.to.NfsTO":{"_url":"cifs://host/share?user=u&pass=S3CRET"}}}}]"#,
            r#"[{"a.X":{"ovfInformationTO":{"x":"S3CRET"},"auth":{"username":"u","password":"S3CRET"}}}]"#,
        ];
        for case in cases {
            let shown = of(case);
            assert!(!shown.contains("S3CRET"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
    }

    #[test]
    fn shows_the_rest() {
        let shown = of(r#"[{"a.X":{"guid":"s-1-VM","url":"nfs://10.0.0.1/export","wait":5}}]"#);
        assert_eq!(shown, r#"[{"a.X":{"guid":"s-1-VM","url":"nfs://10.0.0.1/export","wait":5}}]"#);
    }

    #[test]
    fn is_bounded() {
        let long = "ä".repeat(MAX_TEXT);
        let shown = of(&format!(r#"[{{"a.X":{{"text":"{long}"}}}},{{"a.X":{{"text":"{long}"}}}}]"#));
        assert!(shown.len() < 3 * MAX_TEXT);
    }
}
