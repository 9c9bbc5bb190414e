//! Protocols whose connections announce others: FTP, TFTP, PPTP (router behaviour 1.5). The kernel follows such a
//! conversation, translates the addresses in it, and lets in what it announces. No kernel from 6.0 on does so by
//! itself: each protocol is named here, for the ports it is known by and for port forwards that lead to them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    nft::{Action, Match, Table, run},
    types::{Ports, Transport},
    view::View,
};

/// The chain that names them.
pub(crate) const CHAIN: &str = "helpers";

/// A protocol that the kernel can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Helper {
    /// FTP.
    Ftp,
    /// PPTP.
    Pptp,
    /// TFTP.
    Tftp,
}

impl Helper {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ftp, Self::Pptp, Self::Tftp];

    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Pptp => "pptp",
            Self::Tftp => "tftp",
        }
    }

    /// The transport of its conversation.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Ftp | Self::Pptp => Transport::Tcp,
            Self::Tftp => Transport::Udp,
        }
    }

    /// The port of its servers.
    pub const fn port(self) -> u16 {
        match self {
            Self::Ftp => 21,
            Self::Pptp => 1723,
            Self::Tftp => 69,
        }
    }
}

/// Those that this kernel has; asked once, at the start.
pub async fn present() -> BTreeSet<Helper> {
    let mut present = BTreeSet::new();
    for helper in Helper::ALL {
        match run::knows(helper).await {
            Ok(()) => drop(present.insert(helper)),
            Err(error) => {
                tracing::warn!(name = helper.name(), %error, "connections of this protocol are not followed");
            }
        }
    }
    present
}

/// Whether there is anything to follow: where packets pass through.
pub(crate) fn is_used(view: &View<'_>) -> bool {
    view.setup.kind.forwards() && !view.setup.helpers.is_empty()
}

/// Adds the chain. It is entered by the first packet of a connection, before any translation.
pub fn plan(view: &View<'_>, table: &mut Table) {
    if !is_used(view) {
        return;
    }
    let helpers = &view.setup.helpers;
    table.helpers.clone_from(helpers);
    for helper in helpers {
        let known = Ports::new(helper.port(), helper.port()).into_iter();
        let matches: Vec<Match> = known.map(|ports| Match::Ports(helper.transport(), ports)).collect();
        table.chain(CHAIN).add(matches, Action::Help(*helper));
    }
    for (key, forwards) in &view.state.forwards {
        let leads_to = |helper: &&Helper| {
            let port = helper.port();
            helper.transport() == key.transport
                && !key.ports.contains(port)
                && forwards.iter().any(|forward| forward.ports.single() == Some(port))
        };
        if let Some(helper) = helpers.iter().find(leads_to) {
            let to = Match::to([ipnet::Ipv4Net::from(key.address)]);
            table.chain(CHAIN).add([to, Match::Ports(key.transport, key.ports)], Action::Help(*helper));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::text,
        plan::plan,
        state::tests::{after, devices, forward, setup},
    };

    fn rules(helpers: &[Helper], documents: &[&str]) -> Vec<String> {
        let mut setup = setup();
        setup.helpers = helpers.iter().copied().collect();
        let table = plan(&setup, &after(documents), &devices()).table;
        assert_eq!(table.helpers, setup.helpers);
        let chain = table.chains.get(CHAIN).into_iter().flat_map(|chain| &chain.rules);
        chain.map(|rule| text::conditions(&rule.matches) + &text::action(&rule.action)).collect()
    }

    #[test]
    fn what_the_kernel_has_is_used_and_nothing_else() {
        assert_eq!(rules(&[], &[]), [""; 0]);
        let forwards = [
            forward("203.0.113.10", "2121:2121", "10.1.1.20", "21:21", "", false),
            forward("203.0.113.10", "21:21", "10.1.1.21", "21:21", "", false),
            forward("203.0.113.10", "1024:1024", "10.1.1.21", "22:22", "", false),
        ];
        let forwards: Vec<&str> = forwards.iter().map(String::as_str).collect();
        let all = rules(&[Helper::Ftp, Helper::Tftp], &forwards);
        let expected = [
            "tcp port 21: follow it as ftp",
            "udp port 69: follow it as tftp",
            "to 203.0.113.10/32, tcp port 2121: follow it as ftp",
        ];
        assert_eq!(all, expected);
    }
}
