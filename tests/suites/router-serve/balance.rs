//! Balanced HTTP between real clients and servers: servers that die, cookies, the page of statistics.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::mpsc,
    time::Instant,
};

use tests::lab::{Process, wait_until};

use crate::{
    lab::{SOON, inside},
    pair::{LINE, Pair},
};

/// A router whose public address lets all of TCP in, and a guest at 10.1.1.20 behind it.
fn start() -> Pair {
    let pair = Pair::start(LINE);
    pair.outside.address("eth0", "203.0.113.1/24");
    pair.guest.address("eth0", "10.1.1.20/24");
    pair.apply(
        "firewall_rules.json.1",
        r#"{"rules":[{"id":1,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[1,65535],"revoked":false,"already_added":false,"source_cidr_list":["0.0.0.0/0"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}],"type":"firewallrules"}"#,
    );
    pair
}

/// Has port 80 balanced over ports of the guest; more lines go below the rule, and after it.
fn apply(pair: &Pair, ports: &[u16], below: &[&str], after: &[&str]) {
    let mut lines: Vec<String> = ["global", "\tmaxconn 4096", "defaults", "\tmode tcp", "\tretries 3"]
        .into_iter()
        .chain(["listen 203_0_113_10-80", "\tbind 203.0.113.10:80", "\tbalance roundrobin", "\tmode http"])
        .map(str::to_owned)
        .collect();
    lines.extend(below.iter().map(|line| format!("\t{line}")));
    let servers = ports.iter().enumerate();
    lines.extend(servers.map(|(n, port)| format!("\tserver 203_0_113_10-80_{n} 10.1.1.20:{port} check")));
    lines.extend(after.iter().map(|line| (*line).to_owned()));
    let document = serde_json::json!({
        "rules": [{"configuration": lines, "ssl_certs": [], "add_rules": [], "remove_rules": [],
            "stat_rules": [""], "router_ip": "169.254.10.20"}],
        "type": "loadbalancer", "delete_from_processed_cache": false,
    });
    pair.apply("load_balancer.json.2", &document.to_string());
}

/// A web server of the guest that says its name.
fn named(pair: &Pair, port: u16, name: &str) -> Process {
    let folder: PathBuf = pair.paths.at(&format!("/{name}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("name"), name).unwrap();
    let at = format!("10.1.1.20:{port}");
    pair.guest.spawn("busybox", &["httpd", "-f", "-p", &at, "-h", folder.to_str().unwrap()])
}

#[test]
fn a_server_that_dies_is_left_out_and_comes_back() {
    let pair = start();
    let mut first = named(&pair, 8000, "first");
    let _second = named(&pair, 8001, "second");
    apply(&pair, &[8000, 8001], &[], &[]);
    let get = || pair.outside.ok("curl -s --max-time 15 http://203.0.113.10/name");
    wait_until("both servers", SOON, || (get() + &get()).contains("first"));
    first.kill();
    let died = Instant::now();
    for _ in 0..8 {
        assert_eq!(get(), "second", "no client meets an error");
    }
    let left_out = || pair.status(80).starts_with("1 of 2 servers");
    wait_until("the server to be left out", SOON, left_out);
    let gone = died.elapsed();
    let _first = named(&pair, 8000, "first");
    let alive = Instant::now();
    wait_until("the server that came back", SOON, || get() == "first");
    println!("left out after {gone:?}, back after {:?}", alive.elapsed());
}

/// A web server of the guest that gives its clients the cookie `app=own-NAME`; hears what they send of it.
fn baker(pair: &Pair, port: u16, name: &'static str) -> mpsc::Receiver<String> {
    let (tell, heard) = mpsc::channel();
    let (ready, started) = mpsc::channel();
    inside(&pair.guest, move || {
        let listener = TcpListener::bind(("10.1.1.20", port)).unwrap();
        ready.send(()).unwrap();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut cookie = String::new();
            for line in BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()) {
                if line.to_ascii_lowercase().starts_with("cookie: ") {
                    line["cookie: ".len()..].clone_into(&mut cookie);
                }
            }
            if !cookie.is_empty() {
                let _ = tell.send(cookie);
            }
            let length = name.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nSet-Cookie: app=own-{name}; path=/\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
            );
        }
    });
    started.recv().unwrap();
    heard
}

/// The value of the cookie `app` that a client is given, and the server that it met.
fn bite(pair: &Pair, with: &str) -> (String, String) {
    let said = pair.outside.ok(&format!("curl -s -i --max-time 15 {with} http://203.0.113.10/"));
    let value = said.lines().find_map(|line| {
        let line = line.trim().to_ascii_lowercase();
        Some(line.strip_prefix("set-cookie: app=")?.split(';').next()?.to_owned())
    });
    let name = said.lines().last().unwrap_or_default().to_owned();
    (value.unwrap_or_else(|| panic!("no cookie: {said}")), name)
}

#[test]
fn cookies_of_servers_are_rewritten_or_prefixed() {
    let pair = start();
    let heard = [baker(&pair, 8000, "first"), baker(&pair, 8001, "second")];
    for (how, prefix) in [("cookie app rewrite nocache", false), ("cookie app prefix nocache", true)] {
        apply(&pair, &[8000, 8001], &[how], &[]);
        let met = [bite(&pair, ""), bite(&pair, "")];
        assert_ne!(met[0], met[1], "{how}: by turns, each with a value of its own");
        for (value, name) in &met {
            assert_eq!(value.ends_with(&format!("~own-{name}")), prefix, "{how}: {value}");
            assert!(!value.starts_with("own"), "{how}: {value}");
            let heard = &heard[usize::from(name == "second")];
            for _ in 0..3 {
                assert_eq!(&bite(&pair, &format!("-H 'Cookie: app={value}'")).1, name, "{how}");
                let sent = heard.recv_timeout(SOON).unwrap();
                assert_eq!(sent.starts_with("app=own"), prefix, "{how}: the server hears {sent}");
            }
        }
    }
}

#[test]
fn cookies_of_applications_are_learned() {
    let pair = start();
    let _heard = [baker(&pair, 8000, "first"), baker(&pair, 8001, "second")];
    apply(&pair, &[8000, 8001], &["appsession app len 52 timeout 3h"], &[]);
    let met = [bite(&pair, ""), bite(&pair, "")];
    assert_ne!(met[0], met[1], "by turns");
    for (value, name) in &met {
        assert_eq!(*value, format!("own-{name}"), "the cookie is the application's");
        for _ in 0..3 {
            assert_eq!(&bite(&pair, &format!("-H 'Cookie: app={value}'")).1, name);
        }
    }
}

#[test]
fn cookies_are_set_for_posts_only_and_for_a_domain_where_the_rule_says_so() {
    let pair = start();
    let _heard = baker(&pair, 8000, "first");
    apply(
        &pair,
        &[8000],
        &["cookie lb insert indirect nocache postonly domain .a.example domain .b.example"],
        &[],
    );
    let cookies = |with: &str| -> Vec<String> {
        let said = pair.outside.ok(&format!("curl -s -i --max-time 15 {with} http://203.0.113.10/"));
        let lines = said
            .lines()
            .filter_map(|line| line.to_ascii_lowercase().strip_prefix("set-cookie: ").map(str::to_owned));
        lines.filter(|cookie| cookie.starts_with("lb=")).collect()
    };
    assert_eq!(cookies(""), [""; 0]);
    let set = cookies("-X POST");
    assert_eq!(set.len(), 1, "{set:?}");
    assert!(set[0].contains("domain=.a.example"), "{set:?}");
}

#[test]
fn clients_stay_by_their_source_until_that_expires() {
    let pair = start();
    let _servers = [named(&pair, 8000, "first"), named(&pair, 8001, "second")];
    apply(&pair, &[8000, 8001], &["stick-table type ip size 200k expire 2s", "stick on src"], &[]);
    let get = || pair.outside.ok("curl -s --max-time 15 http://203.0.113.10/name");
    let first = get();
    for _ in 0..4 {
        assert_eq!(get(), first);
    }
    let table = || {
        let mut stream = UnixStream::connect(pair.paths.run().join("balance/worker.sock")).unwrap();
        stream.write_all(b"show table 203_0_113_10-80\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.contains("# table"), "{said}");
        said
    };
    assert!(table().contains("key=203.0.113.1 "), "{}", table());
    wait_until("the entry to expire", SOON, || !table().contains("key="));
    assert_ne!(get(), first, "its turn has passed to the other");
}

#[test]
fn statistics_are_where_they_are_asked_for_and_nowhere_else() {
    let pair = start();
    let _first = named(&pair, 8000, "first");
    let page =
        "curl -s -o /dev/null -w '%{http_code}' --max-time 5 -u a:b 'http://203.0.113.10:8081/s?stats'";
    let lines = [
        "listen stats_on_public",
        "\tbind 203.0.113.10:8081",
        "\tmode http",
        "\tstats enable",
        "\tstats uri /s?stats",
        "\tstats auth a:b",
    ];
    apply(&pair, &[8000], &[], &lines);
    assert_eq!(pair.outside.ok(page), "200");
    assert_eq!(pair.outside.ok(&page.replace("a:b", "a:c")), "401");
    apply(&pair, &[8000], &[], &[]);
    assert!(!pair.outside.sh(page).status.success());
    assert_eq!(pair.outside.ok("curl -s --max-time 15 http://203.0.113.10/name"), "first");
}
