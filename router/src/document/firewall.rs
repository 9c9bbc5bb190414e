//! `firewallrules` and `ipv6firewallrules` (router contract 3.13).

use std::net::Ipv4Addr;

use serde_json::Value;

use super::{DocumentError, Node};
use crate::{
    state::{Direction, FirewallRule, Packets, Protocol},
    types::{Family, Ports, Transport},
};

/// One item of a `firewallrules` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallChange {
    /// Identity of the rule; 0 is the default rule of egress.
    pub id: u64,
    /// The rule; `None` revokes it.
    pub rule: Option<FirewallRule>,
    /// Where it stood in the document.
    pub path: String,
}

impl FirewallChange {
    /// One item of the document of a family.
    pub(super) fn read(node: &Node<'_>, family: Family) -> Result<Self, DocumentError> {
        let id = node.required("id")?;
        let path = node.path().to_owned();
        if node.flag("revoked", false)? {
            return Ok(Self { id, rule: None, path });
        }
        let traffic = node.text("traffic_type")?.unwrap_or_default();
        let direction = match traffic.to_ascii_lowercase().as_str() {
            "egress" => Direction::Egress,
            // A network that is routed has no public address before it.
            "ingress" if family == Family::Six => Direction::Inward,
            "ingress" => node
                .optional::<Ipv4Addr>("src_ip")?
                .map_or(Direction::Inward, |address| Direction::Ingress { address }),
            _ => {
                return Err(
                    node.error("traffic_type", format_args!("{traffic:?} is neither Ingress nor Egress"))
                );
            }
        };
        let (sources, sources_listed) = node.nets("source_cidr_list", family)?;
        let (destinations, _) = node.nets("dest_cidr_list", family)?;
        if direction != Direction::Egress && !sources_listed {
            // An empty list would open it to everyone.
            return Err(node.error("source_cidr_list", "lists no source"));
        }
        let protocol = protocol(node)?.of(family);
        let is_default = direction == Direction::Egress
            && protocol == Protocol::All
            && !sources_listed
            && destinations.is_any();
        let rule = FirewallRule {
            direction,
            packets: Packets { protocol, sources, destinations },
            is_default,
            default_allow: node.flag("default_egress_policy", false)?,
        };
        Ok(Self { id, rule: Some(rule), path })
    }
}

fn protocol(node: &Node<'_>) -> Result<Protocol, DocumentError> {
    let word = node.required::<String>("protocol")?;
    let transport = match word.to_ascii_lowercase().as_str() {
        "all" => return Ok(Protocol::All),
        "icmp" => return icmp(node),
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        number => {
            let reason = format_args!("{word:?} is none of tcp, udp, icmp, all, nor a number");
            let number = number.parse::<u8>().map_err(|_| node.error("protocol", reason))?;
            return Ok(Protocol::Number(number));
        }
    };
    Ok(Protocol::Transport { transport, ports: ports(node)? })
}

/// ICMP, narrowed by `icmp_type` and `icmp_code`; -1 means any.
pub(super) fn icmp(node: &Node<'_>) -> Result<Protocol, DocumentError> {
    let number = |name| match node.optional::<i16>(name)? {
        None | Some(-1) => Ok(None),
        Some(n) => u8::try_from(n).map(Some).map_err(|_| node.error(name, "is neither -1 nor 0 to 255")),
    };
    Ok(Protocol::Icmp { kind: number("icmp_type")?, code: number("icmp_code")? })
}

/// `[22, 22]`, `22`, `"22:22"`; absent means every port.
fn ports(node: &Node<'_>) -> Result<Option<Ports>, DocumentError> {
    const NAME: &str = "src_port_range";
    let bad = || node.error(NAME, "is no range of ports");
    let port = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).ok_or_else(bad);
    match node.get(NAME) {
        Some(Value::Array(list)) => match list.as_slice() {
            [one] => Ports::new(port(one)?, port(one)?),
            [first, last] => Ports::new(port(first)?, port(last)?),
            _ => return Err(bad()),
        }
        .map(Some)
        .map_err(|e| node.error(NAME, e)),
        _ => node.optional(NAME),
    }
}
