//! `netusage.sh` and `vpc_netusage.sh` (router contract 2.8): bytes of public NICs.

use std::net::Ipv4Addr;

use common::shim::wire::Reply;
use tokio::sync::Mutex;

use super::engine::Engine;
use crate::{nft::run, usage, view::PublicNic};

/// What is asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    get: bool,
    reset: bool,
    /// The NIC that has this address.
    address: Option<Ipv4Addr>,
    /// Of VPN connections, which are not counted here.
    vpn: bool,
}

/// Accounting follows from the addresses: there is nothing to create, add or delete.
fn question(command: &str, arguments: &[&str]) -> Result<Question, Reply> {
    let mut asked = Question::default();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match *word {
            "-g" => asked.get = true,
            "-r" => asked.reset = true,
            "-n" => asked.vpn = true,
            "-l" => {
                let text = rest.next().copied().unwrap_or_default();
                let bad = |_| Reply::fail(1, format_args!("{command}: {text:?} is no address"));
                asked.address = Some(text.parse().map_err(bad)?);
            }
            _ => {}
        }
    }
    Ok(asked)
}

/// `netusage.sh`: without an address, of the first public NIC of an isolated network.
pub(super) async fn network(engine: &Mutex<Engine>, arguments: &[&str]) -> Reply {
    match question("netusage.sh", arguments) {
        Ok(asked) => {
            let nic = match asked.address {
                None => Some("eth2".to_owned()),
                Some(address) => nic_of(engine, address).await,
            };
            answer(&asked, nic).await
        }
        Err(reply) => reply,
    }
}

/// `vpc_netusage.sh`: of the NIC that has the address, be it of a private gateway; nothing for another address.
pub(super) async fn vpc(engine: &Mutex<Engine>, arguments: &[&str]) -> Reply {
    match question("vpc_netusage.sh", arguments) {
        Ok(asked) if asked.vpn => Reply::ok(""),
        Ok(asked) => {
            let nic = match asked.address {
                Some(address) => nic_of(engine, address).await,
                None => None,
            };
            if nic.is_none() {
                return Reply::ok("");
            }
            answer(&asked, nic).await
        }
        Err(reply) => reply,
    }
}

async fn nic_of(engine: &Mutex<Engine>, address: Ipv4Addr) -> Option<String> {
    let engine = engine.lock().await;
    let view = engine.network().view();
    let has = |nic: &&PublicNic| nic.addresses.iter().any(|net| net.addr() == address);
    view.outer().find(has).map(|nic| nic.name.clone())
}

async fn answer(asked: &Question, nic: Option<String>) -> Reply {
    let counters = match (asked.get, asked.reset, &nic) {
        (_, true, Some(nic)) if asked.address.is_some() => run::reset(&usage::counters(nic)).await,
        (_, true, _) => run::reset_all().await,
        (true, false, _) => run::counters().await,
        (false, false, _) => return Reply::ok(""),
    };
    match (counters, nic) {
        (Err(error), _) => Reply::fail(1, error),
        (Ok(counters), Some(nic)) if asked.get => Reply::ok(usage::report(&nic, &counters)),
        _ => Reply::ok(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_hosts_are_understood() {
        let of = |words: &[&str]| question("netusage.sh", words).unwrap();
        let address = Some(Ipv4Addr::new(203, 0, 113, 20));
        assert_eq!(of(&["-c"]), Question::default());
        assert_eq!(of(&["203.0.113.20", "-a", "eth3"]), Question::default());
        assert_eq!(of(&["-l", "203.0.113.20", "-c", "-v", "10.9.0.0/16"]).address, address);
        assert_eq!(of(&["-l", "203.0.113.20", "-g"]), Question { get: true, address, ..Question::default() });
        assert!(of(&["-l", "203.0.113.20", "-n"]).vpn);
        assert_eq!(question("netusage.sh", &["-l"]).unwrap_err().code, 1);
    }
}
