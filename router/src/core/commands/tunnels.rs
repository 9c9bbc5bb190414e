//! `checkbatchs2svpn.sh PEER …` and `checks2svpn.sh PEER`: which sites are connected (router contract 2.8).

use common::shim::wire::Reply;

use super::Commands;
use crate::vpn::Report;

/// What is said of a site that is connected, and of one that is not.
const UP: &str = "IPsec SA found;Site-to-site VPN have connected";
const DOWN: &str = "IPsec SA not found;Site-to-site VPN have not connected";
/// Exit code for the latter.
const IS_DOWN: u8 = 11;

impl Commands {
    /// All of them at once. Where nobody knows, the command fails: not to know is not to be disconnected.
    pub(super) async fn tunnels(&self, peers: &[&str]) -> Reply {
        match self.ask_tunnels().await {
            Ok(report) => Reply::ok(batch(&report, peers)),
            Err(reply) => reply,
        }
    }

    /// One of them.
    pub(super) async fn tunnel(&self, peers: &[&str]) -> Reply {
        let [peer] = peers else { return Reply::fail(1, "checks2svpn.sh: expects the address of a peer") };
        match self.ask_tunnels().await {
            Ok(report) => {
                let (code, text) = condition(&report, peer);
                Reply { stdout: format!("{text}\n"), code, ..Reply::default() }
            }
            Err(reply) => reply,
        }
    }

    async fn ask_tunnels(&self) -> Result<Report, Reply> {
        let keeper = self.engine.lock().await.vpn();
        keeper.report().await.map_err(|error| Reply::fail(1, error))
    }
}

fn condition(report: &Report, peer: &str) -> (u8, &'static str) {
    let found = peer.parse().ok().and_then(|peer| report.peers.get(&peer));
    if found.is_some_and(crate::vpn::Peer::is_up) { (0, UP) } else { (IS_DOWN, DOWN) }
}

/// As the management server splits it: `PEER:CODE:TEXT&` for each.
fn batch(report: &Report, peers: &[&str]) -> String {
    let one = |peer: &&str| {
        let (code, text) = condition(report, peer);
        format!("{}:{code}:{text}&", peer.replace([':', '&'], ""))
    };
    peers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpn::vici::Message;

    #[test]
    fn the_answer_is_that_of_the_contract() {
        let up = Message::default().text("state", "ESTABLISHED").text("established", "1");
        let report = Report::read(&[Message::default().section("site-198.51.100.9-0", up)]);
        assert_eq!(
            batch(&report, &["198.51.100.9", "198.51.100.77", "a:b&c"]),
            "198.51.100.9:0:IPsec SA found;Site-to-site VPN have connected&\
             198.51.100.77:11:IPsec SA not found;Site-to-site VPN have not connected&\
             abc:11:IPsec SA not found;Site-to-site VPN have not connected&"
        );
    }
}
