//! Any bytes as a question of a guest, and as the answer of an upstream.
#![no_main]

use std::{net::Ipv4Addr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use router::{
    dns::{
        exchange,
        query::{self, Answer, Read},
        zone::{Local, Zone},
    },
    snapshot::{Dns, DnsSubnet},
};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 20);

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let zone = Zone::default().with(Dns {
        domains: vec!["cs1.example".into()],
        upstreams: Vec::new(),
        router_names: vec!["data-server".into()],
        subnets: vec![DnsSubnet {
            network: "10.1.1.0/24".parse().expect("network"),
            router: Ipv4Addr::new(10, 1, 1, 1),
            six: None,
        }],
        near_only: false,
        open: false,
    });
    zone.with_host(GUEST, Some(("web".into(), None)))
});

fuzz_target!(|bytes: &[u8]| {
    match query::read(bytes) {
        Read::Question(question) => {
            let name = question.query.name();
            let found = ZONE.look_up(name, question.query.query_type(), GUEST.into());
            if let Local::Found(data) = found {
                let limit = question.datagram();
                let answer = question.render(Answer::local(name, data), limit);
                assert!(answer.is_none_or(|bytes| bytes.len() <= limit));
            }
            // An upstream that says anything at all to it.
            if let Ok((asked, _)) = exchange::compose(&question) {
                let _ = exchange::fitting(&asked, bytes);
            }
        }
        Read::Refuse(answer) => assert!(answer.len() <= bytes.len().max(12) + 300),
        Read::Drop => {}
    }
});
