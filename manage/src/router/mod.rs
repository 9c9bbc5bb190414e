//! What a router is told: from the zone to the documents of the contract.
//!
//! `rules` is the model (what should hold), `documents` renders it in the wire's form, `bundle`
//! packs documents into the one file that `vr_cfg.sh` takes.

mod bundle;
mod documents;
mod rules;

pub(crate) use bundle::bundle;
pub(crate) use documents::{Document, Password, render};
pub(crate) use rules::Rules;

use serde_json::Value;

/// A document from the operator that cannot be sent to a router.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// Not JSON.
    #[error("The document is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// No such type.
    #[error("The document's type is {0:?}; known are {known}", known = TYPES.map(|(t, _)| t).join(", "))]
    Type(String),
}

/// The types of documents and the file name of each (router contract 3.3).
const TYPES: [(&str, &str); 19] = [
    ("ips", "ip_associations"),
    ("guestnetwork", "guest_network"),
    ("networkacl", "network_acl"),
    ("dhcpentry", "vm_dhcp_entry"),
    ("dhcpconfig", "dhcp"),
    ("vmdata", "vm_metadata"),
    ("vmpassword", "vm_password"),
    ("forwardrules", "forwarding_rules"),
    ("staticnatrules", "staticnat_rules"),
    ("firewallrules", "firewall_rules"),
    ("ipv6firewallrules", "ipv6_firewall_rules"),
    ("loadbalancer", "load_balancer"),
    ("vpnuserlist", "vpn_user_list"),
    ("remoteaccessvpn", "remote_access_vpn"),
    ("site2sitevpn", "site_2_site_vpn"),
    ("wireguard", "wireguard"),
    ("staticroutes", "static_routes"),
    ("ipaliases", "ip_aliases"),
    ("monitorservice", "monitor_service"),
];

/// Reads a document that the operator wrote; its `type` decides the file name. What is in it
/// is for the router to judge.
pub(crate) fn read(text: &str) -> Result<Document, DocumentError> {
    let value: Value = serde_json::from_str(text)?;
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    let (_, name) =
        TYPES.iter().find(|(t, _)| *t == kind).ok_or_else(|| DocumentError::Type(kind.to_owned()))?;
    Ok(Document { name, json: value.to_string() })
}

#[cfg(test)]
mod tests;
