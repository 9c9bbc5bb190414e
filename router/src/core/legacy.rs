//! Scripts that one kind of host (Hyper-V) still calls in the place of documents (router contract 2.7.3): each
//! becomes the document that it stands for, and goes the way of all documents.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// The documents that a script stands for; `None` for a script that is not known here.
pub(super) fn documents(command: &str, arguments: &[&str]) -> Option<Result<Vec<Value>, String>> {
    let read = match command {
        "savepassword.sh" => password,
        "vmdata.py" => metadata,
        "edithosts.sh" => reservation,
        _ => return None,
    };
    Some(read(arguments).map_err(|reason| format!("{command}: {reason}")))
}

/// The word behind a flag.
fn after<'a>(arguments: &[&'a str], flag: &str) -> Option<&'a str> {
    let place = arguments.iter().position(|word| *word == flag)?;
    arguments.get(place + 1).copied()
}

/// `-v ADDRESS -p PASSWORD`.
fn password(arguments: &[&str]) -> Result<Vec<Value>, String> {
    match (after(arguments, "-v"), after(arguments, "-p")) {
        (Some(address), Some(password)) => {
            Ok(vec![json!({"type": "vmpassword", "ip_address": address, "password": password})])
        }
        _ => Err("expects -v and an address, -p and a password".to_owned()),
    }
}

/// `-d` and an object in base64: for each address its folders, files and contents.
fn metadata(arguments: &[&str]) -> Result<Vec<Value>, String> {
    let text = after(arguments, "-d").ok_or("expects -d and an object in base64")?;
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    let guests: serde_json::Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| format!("no JSON: {e}"))?;
    let one = |(address, items)| json!({"type": "vmdata", "vm_ip_address": address, "vm_metadata": items});
    Ok(guests.into_iter().map(one).collect())
}

/// `-m MAC -4 ADDRESS -h NAME -d GATEWAY`, and more that is not needed. Without a gateway it is not the guest's
/// main NIC.
fn reservation(arguments: &[&str]) -> Result<Vec<Value>, String> {
    let (Some(mac), Some(address)) = (after(arguments, "-m"), after(arguments, "-4")) else {
        return Err("expects -m and a MAC, -4 and an address".to_owned());
    };
    let gateway = after(arguments, "-d").filter(|g| *g != "0.0.0.0");
    Ok(vec![json!({
        "type": "dhcpentry",
        "mac_address": mac,
        "ipv4_address": address,
        "host_name": after(arguments, "-h"),
        "default_gateway": gateway,
        "default_entry": gateway.is_some(),
        "remove": false,
    })])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    #[test]
    fn each_script_is_a_document_that_can_be_read() {
        let data = STANDARD.encode(r#"{"10.1.1.20":[["metadata","vm-id","1"]],"10.1.1.21":[]}"#);
        for (command, arguments, count) in [
            ("savepassword.sh", vec!["-v", "10.1.1.20", "-p", "pw"], 1),
            ("vmdata.py", vec!["-d", &data], 2),
            (
                "edithosts.sh",
                vec!["-m", "02:00:00:00:00:01", "-4", "10.1.1.20", "-h", "vm", "-d", "10.1.1.1"],
                1,
            ),
        ] {
            let all = documents(command, &arguments).unwrap().unwrap();
            assert_eq!(all.len(), count, "{command}");
            for document in all {
                Document::read(document.to_string().as_bytes()).unwrap();
            }
            assert!(documents(command, &[]).unwrap().is_err());
        }
        assert!(documents("ipassoc.sh", &[]).is_none());
    }

    #[test]
    fn a_nic_without_a_gateway_is_not_the_main_one() {
        let words = ["-m", "02:00:00:00:00:01", "-4", "10.1.1.20", "-d", "0.0.0.0"];
        let document = &documents("edithosts.sh", &words).unwrap().unwrap()[0];
        assert_eq!(document["default_entry"], false);
    }
}
