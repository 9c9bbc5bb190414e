//! Scripts that one kind of host (Hyper-V) still calls in the place of documents (router contract 2.7.3): each
//! becomes the document that it stands for, and goes the way of all documents.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// The documents that a script stands for; `None` for a script that is not known here. `file` reads a file that the
/// host has copied here before.
pub(super) fn documents(
    command: &str,
    arguments: &[&str],
    file: impl Fn(&str) -> Option<Vec<u8>>,
) -> Option<Result<Vec<Value>, String>> {
    let read = match command {
        "savepassword.sh" => password(arguments),
        "vmdata.py" => metadata(arguments, file),
        "edithosts.sh" => reservation(arguments),
        "ipassoc.sh" => address(arguments),
        "vpc_staticroute.sh" => routes(arguments),
        "loadbalancer.sh" => balance(arguments, file),
        // What these would bring about follows from documents by itself: ranges of DHCP, the source NAT address, the
        // services that are watched.
        "dnsmasq.sh" | "vpc_snat.sh" | "monitor_service.sh" => Ok(Vec::new()),
        _ => return None,
    };
    Some(read.map_err(|reason| format!("{command}: {reason}")))
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

/// `-d` and an object in base64, or `-f` and a file with one: for each address its folders, files and contents.
fn metadata(arguments: &[&str], file: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<Value>, String> {
    let text = match (after(arguments, "-d"), after(arguments, "-f")) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(path)) => file(path).ok_or_else(|| format!("{path} is not there"))?,
        (None, None) => {
            return Err("expects -d and an object in base64, or -f and a file with one".to_owned());
        }
    };
    let bytes = STANDARD.decode(text.trim_ascii()).map_err(|e| e.to_string())?;
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

/// `-A|-D -l ADDRESS/SIZE -c ethN -g GATEWAY [-s] [-f]`: a public address comes or goes.
fn address(arguments: &[&str]) -> Result<Vec<Value>, String> {
    let has = |flag: &str| arguments.contains(&flag);
    let net = after(arguments, "-l").and_then(|text| text.parse::<Ipv4Net>().ok());
    let nic = after(arguments, "-c").and_then(|nic| nic.strip_prefix("eth")?.parse::<u32>().ok());
    let (Some(net), Some(nic), true) = (net, nic, has("-A") != has("-D")) else {
        return Err("expects -A or -D, -l with an address and its prefix, -c with a NIC".to_owned());
    };
    Ok(vec![json!({
        "type": "ips",
        "ip_address": [{
            "public_ip": net.addr(),
            "netmask": net.netmask(),
            "gateway": after(arguments, "-g").filter(|g| *g != "0.0.0.0"),
            "nic_dev_id": nic,
            "add": has("-A"),
            "source_nat": has("-s"),
            "first_i_p": has("-f"),
            "one_to_one_nat": false,
            "nw_type": "Public",
        }],
    })])
}

/// `-a NETWORK:GATEWAY:,NETWORK:GATEWAY:`: routes of a VPC.
fn routes(arguments: &[&str]) -> Result<Vec<Value>, String> {
    let list = after(arguments, "-a").ok_or("expects -a and routes")?;
    let route = |text: &str| {
        let network = text.split(':').find(|part| part.parse::<Ipv4Net>().is_ok());
        let gateway = text.split(':').find(|part| part.parse::<std::net::Ipv4Addr>().is_ok());
        let (Some(network), Some(gateway)) = (network, gateway) else {
            return Err(format!("{text:?} is no route: expects a network and a gateway"));
        };
        Ok(json!({"revoke": false, "network": network, "gateway": gateway}))
    };
    let routes: Result<Vec<Value>, String> =
        list.split(',').filter(|text| !text.is_empty()).map(route).collect();
    Ok(vec![json!({"type": "staticroutes", "routes": routes?})])
}

/// `-i ADDRESS -f FILE -a ADD -d REMOVE -s STATISTICS`: the lines of a whole configuration.
fn balance(arguments: &[&str], file: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<Value>, String> {
    let path = after(arguments, "-f").ok_or("expects -f and a file")?;
    let text = file(path).ok_or_else(|| format!("{path} is not there"))?;
    let text = String::from_utf8_lossy(&text);
    let list =
        |flag: &str| after(arguments, flag).map_or_else(Vec::new, |l| l.split(',').collect::<Vec<_>>());
    Ok(vec![json!({
        "type": "loadbalancer",
        "rules": [{
            "configuration": text.lines().collect::<Vec<_>>(),
            "add_rules": list("-a"),
            "remove_rules": list("-d"),
            "stat_rules": list("-s"),
        }],
    })])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    const LINES: &[u8] = b"listen 203_0_113_10-80\n\tbind 203.0.113.10:80\n\tbalance roundrobin\n";

    fn of(command: &str, words: &str) -> Option<Result<Vec<Value>, String>> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let data = STANDARD.encode(r#"{"10.1.1.20":[["metadata","vm-id","1"]]}"#);
        documents(command, &words, |path| match path {
            "/var/cache/cloud/cfg" => Some(LINES.to_vec()),
            "/var/cache/cloud/data" => Some(data.clone().into_bytes()),
            _ => None,
        })
    }

    #[test]
    fn each_script_is_a_document_that_can_be_read() {
        let data = STANDARD.encode(r#"{"10.1.1.20":[["metadata","vm-id","1"]],"10.1.1.21":[]}"#);
        for (command, arguments, count) in [
            ("savepassword.sh", "-v 10.1.1.20 -p pw", 1),
            ("vmdata.py", &*format!("-d {data}"), 2),
            ("vmdata.py", "-f /var/cache/cloud/data", 1),
            ("edithosts.sh", "-m 02:00:00:00:00:01 -4 10.1.1.20 -h vm -d 10.1.1.1", 1),
            ("ipassoc.sh", "-A -l 203.0.113.11/24 -c eth2 -g 203.0.113.1 -s -f", 1),
            ("ipassoc.sh", "-D -l 203.0.113.11/24 -c eth2", 1),
            ("vpc_staticroute.sh", "-a 172.30.0.0/24:172.16.5.1:,172.31.0.0/16:172.16.5.1", 1),
            ("loadbalancer.sh", "-i 203.0.113.10 -f /var/cache/cloud/cfg -a 203.0.113.10:80:", 1),
        ] {
            let all = of(command, arguments).unwrap().unwrap();
            assert_eq!(all.len(), count, "{command}");
            for document in all {
                Document::read(document.to_string().as_bytes()).unwrap();
            }
            assert!(of(command, "").unwrap().is_err());
        }
        for (command, wrong) in [
            ("ipassoc.sh", "-A -D -l 203.0.113.11/24 -c eth2"),
            ("ipassoc.sh", "-A -l 203.0.113.11 -c eth2"),
            ("vpc_staticroute.sh", "-a 172.30.0.0/24"),
            ("loadbalancer.sh", "-f /etc/shadow"),
        ] {
            assert!(of(command, wrong).unwrap().is_err(), "{command} {wrong}");
        }
        assert_eq!(of("dnsmasq.sh", "10.1.1.1:10.1.1.1:255.255.255.0:10.1.1.1"), Some(Ok(Vec::new())));
        assert!(of("vpn_l2tp.sh", "").is_none());
    }

    #[test]
    fn a_nic_without_a_gateway_is_not_the_main_one() {
        let document =
            of("edithosts.sh", "-m 02:00:00:00:00:01 -4 10.1.1.20 -d 0.0.0.0").unwrap().unwrap().remove(0);
        assert_eq!(document["default_entry"], false);
    }
}
