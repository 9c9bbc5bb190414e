//! Load balancing with the real HAProxy, real servers and clients.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use tests::lab::{Namespace, wait_until};

use crate::{
    documents::ingress,
    lab::{ANSWER, Lab, alive, inside},
};

const FRONT: &str = "203.0.113.10:80";

/// A document with the rules given as lines.
fn document(rules: &[&[&str]], certificates: &str) -> String {
    let head = ["global", "\tmaxconn 4096", "defaults", "\tmode tcp", "\tretries 3", "\toption httpclose"];
    let page = "\nlisten stats_on_public\n\tbind 203.0.113.10:8081\n\tmode http\n\tstats enable\n\tstats uri \
        /admin?stats\n\tstats realm Haproxy\\ Statistics\n\tstats auth admin1:AdMiN123\n";
    let lines: Vec<&str> =
        head.into_iter().chain([page]).chain(rules.iter().copied().flatten().copied()).collect();
    format!(
        r#"{{"rules":[{{"configuration":{},"ssl_certs":[{certificates}],"add_rules":[],"remove_rules":[],"stat_rules":[""],"router_ip":"169.254.10.20"}}],"type":"loadbalancer","delete_from_processed_cache":false}}"#,
        serde_json::to_string(&lines).expect("lines")
    )
}

/// A rule for a port; servers are the last numbers of guests' addresses.
fn rule(port: u16, servers: &[u8], more: &[&'static str]) -> Vec<String> {
    let mut lines = vec![format!("listen 203_0_113_10-{port}"), format!("\tbind 203.0.113.10:{port}")];
    lines.extend(more.iter().map(|line| format!("\t{line}")));
    for (n, server) in servers.iter().enumerate() {
        let proxy = if more.contains(&"# proxy") { " send-proxy" } else { "" };
        lines.push(format!("\tserver 203_0_113_10-{port}_{n} 10.1.1.{server}:8000 check{proxy}"));
    }
    lines
}

fn with(rules: &[Vec<String>]) -> String {
    let rules: Vec<Vec<&str>> = rules.iter().map(|rule| rule.iter().map(String::as_str).collect()).collect();
    document(&rules.iter().map(Vec::as_slice).collect::<Vec<_>>(), "")
}

fn apply(lab: &Lab, rules: &[Vec<String>]) {
    lab.apply("load_balancer", &with(rules));
}

/// A lab whose gate lets everything in, with a server behind port 8000 of each guest.
fn start() -> Lab {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "all", None, "0.0.0.0/0", false));
    serve(&lab.a, "10.1.1.20:8000", "a");
    serve(&lab.b, "10.1.1.21:8000", "b");
    lab
}

/// A server that tells its name on connect, and repeats what it hears.
fn serve(namespace: &Namespace, address: &str, name: &'static str) {
    let listener = inside(namespace, || TcpListener::bind(address).expect("listener"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = writeln!(stream, "{name}");
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// An HTTP server that answers with its name and the head of the request.
fn serve_http(namespace: &Namespace, address: &str, name: &'static str) {
    let listener = inside(namespace, || TcpListener::bind(address).expect("listener"));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("stream"));
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let body = format!("server {name}\n{head}");
                let _ = write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
}

/// A connection by the balancer, and the name of the server at its end.
fn connect(lab: &Lab, front: &str) -> Option<(TcpStream, String)> {
    let address: SocketAddr = front.parse().expect("address");
    let stream = inside(&lab.outside, || TcpStream::connect_timeout(&address, ANSWER)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("time limit");
    let mut line = String::new();
    BufReader::with_capacity(2, stream.try_clone().expect("stream")).read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| (stream, line.trim().to_owned()))
}

/// Names of servers that so many connections one after the other meet.
fn meet(lab: &Lab, front: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| connect(lab, front).expect("a connection").1).collect()
}

fn get(lab: &Lab, words: &str) -> String {
    lab.outside.ok(&format!("curl -s -i --max-time 5 {words}"))
}

fn socket(lab: &Lab) -> PathBuf {
    lab.paths.run().join("balance/worker.sock")
}

fn ask(lab: &Lab, command: &str) -> String {
    let mut stream = UnixStream::connect(socket(lab)).expect("the worker");
    writeln!(stream, "{command}").expect("a command");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn worker(lab: &Lab) -> String {
    let info = ask(lab, "show info");
    info.lines().find_map(|line| line.strip_prefix("Pid: ")).expect("a process").to_owned()
}

/// What `status` says of the rule of a port.
fn status(lab: &Lab, port: u16) -> String {
    let text = lab.run(&["status"]).stdout;
    let name = format!("balanced 203.0.113.10:{port}: ");
    text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or_default().to_owned()
}

#[test]
fn algorithms_choose_as_they_say() {
    let lab = start();
    apply(
        &lab,
        &[
            rule(80, &[20, 21], &["balance roundrobin"]),
            rule(81, &[20, 21], &["balance leastconn"]),
            rule(82, &[20, 21], &["balance source"]),
        ],
    );
    let mut met = meet(&lab, FRONT, 4);
    assert_ne!(met[0], met[1], "by turns: {met:?}");
    met.sort();
    assert_eq!(met, ["a", "a", "b", "b"]);
    let (_held, first) = connect(&lab, "203.0.113.10:81").expect("a connection");
    let (_more, second) = connect(&lab, "203.0.113.10:81").expect("a connection");
    assert_ne!(first, second, "the idle one");
    let met = meet(&lab, "203.0.113.10:82", 5);
    assert!(met.iter().all(|name| *name == met[0]), "{met:?}");
    // Guests reach it by the public address, too.
    let address: SocketAddr = FRONT.parse().expect("address");
    assert!(inside(&lab.a, || TcpStream::connect_timeout(&address, ANSWER)).is_ok());
}

#[test]
fn servers_come_and_go_without_another_worker() {
    let lab = start();
    apply(&lab, &[rule(80, &[20], &["balance roundrobin"])]);
    let before = worker(&lab);
    assert_eq!(meet(&lab, FRONT, 3), ["a", "a", "a"]);
    let (mut held, _) = connect(&lab, FRONT).expect("a connection");
    apply(&lab, &[rule(80, &[20, 21], &["balance roundrobin"])]);
    let met = meet(&lab, FRONT, 4);
    assert!(met.contains(&"a".to_owned()) && met.contains(&"b".to_owned()), "{met:?}");
    apply(&lab, &[rule(80, &[21], &["balance roundrobin"])]);
    assert_eq!(meet(&lab, FRONT, 3), ["b", "b", "b"]);
    assert!(alive(&mut held), "the server that went finishes its connections");
    assert!(ask(&lab, "show stat").contains("10.1.1.20:8000"));
    drop(held);
    wait_until("the server to be deleted", Duration::from_secs(20), || {
        !ask(&lab, "show stat").contains("10.1.1.20:8000")
    });
    apply(&lab, &[rule(80, &[20, 21], &["balance roundrobin"])]);
    assert!(meet(&lab, FRONT, 4).contains(&"a".to_owned()), "it came back");
    assert_eq!(worker(&lab), before, "it is the same worker");
    assert!(status(&lab, 80).starts_with("2 of 2 servers"), "{}", status(&lab, 80));
    // The last rule goes, and HAProxy with it.
    apply(&lab, &[]);
    lab.apply("load_balancer", &document(&[], "").replace("listen stats_on_public", "listen vmops"));
    wait_until("nothing to listen", Duration::from_secs(10), || connect(&lab, FRONT).is_none());
}

#[test]
fn cookies_keep_clients_at_their_server() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "all", None, "0.0.0.0/0", false));
    serve_http(&lab.a, "10.1.1.20:8000", "a");
    serve_http(&lab.b, "10.1.1.21:8000", "b");
    let http = ["mode http", "balance roundrobin", "cookie lb insert indirect nocache"];
    apply(
        &lab,
        &[
            rule(80, &[20], &http),
            rule(81, &[20, 21], &["balance roundrobin", "appsession SID len 52 timeout 3h"]),
        ],
    );
    let before = worker(&lab);
    apply(
        &lab,
        &[
            rule(80, &[20, 21], &http),
            rule(81, &[20, 21], &["balance roundrobin", "appsession SID len 52 timeout 3h"]),
        ],
    );
    assert_eq!(worker(&lab), before);
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let answer = get(&lab, "http://203.0.113.10/");
        let cookie = answer.lines().find_map(|l| l.strip_prefix("set-cookie: ")).expect("a cookie");
        assert!(cookie.starts_with("lb=") && !cookie.starts_with("lb=;"), "{cookie}");
        assert!(answer.contains("x-forwarded-for: 203.0.113.1"), "{answer}");
        let cookie = cookie.split(';').next().expect("a value");
        let name = |answer: &str| {
            answer.lines().find_map(|l| l.strip_prefix("server ")).expect("a server").to_owned()
        };
        let server = name(&answer);
        for _ in 0..3 {
            let again = get(&lab, &format!("-H 'Cookie: {cookie}' http://203.0.113.10/"));
            assert_eq!(name(&again), server);
            assert!(!again.contains("Cookie:") && !again.contains("cookie: lb"), "indirect: {again}");
        }
        servers.insert(server);
    }
    assert_eq!(servers.len(), 2, "both have clients");
}

#[test]
fn a_rule_more_costs_no_connection_and_no_count() {
    let lab = start();
    let first = || rule(80, &[20, 21], &["balance roundrobin"]);
    apply(&lab, &[first()]);
    let before = worker(&lab);
    let mut held: Vec<TcpStream> = (0..200).map(|_| connect(&lab, FRONT).expect("a connection").0).collect();
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).stdout, "100");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients = inside(&lab.outside, || {
        let stop = std::sync::Arc::clone(&stop);
        let errand = move || {
            let address: SocketAddr = FRONT.parse().expect("address");
            let (mut made, mut failed) = (0_u32, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let begun = Instant::now();
                match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                    Ok(_) => made += 1,
                    Err(error) => failed.push(error.to_string()),
                }
                std::thread::sleep(Duration::from_millis(1).saturating_sub(begun.elapsed()));
            }
            (made, failed)
        };
        std::thread::spawn(errand)
    });
    for n in 1..=5 {
        let more = (0..n).map(|n| rule(90 + n, &[20], &["balance roundrobin"]));
        apply(&lab, &std::iter::once(first()).chain(more).collect::<Vec<_>>());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (made, failed) = clients.join().expect("the clients");
    println!("{made} new connections while 5 rules were added");
    assert!(made > 50, "{made}");
    assert_eq!(failed, [""; 0], "of {made}");
    assert_ne!(worker(&lab), before, "it is another worker");
    for stream in &mut held {
        assert!(alive(stream));
    }
    wait_until("the connections of all workers", Duration::from_secs(10), || {
        lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).stdout == "100"
    });
    drop(held);
    wait_until("the leaving workers' last word", Duration::from_secs(20), || {
        status(&lab, 80).contains(" 0 connections")
    });
    let total = |text: &str| -> u64 {
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "since").expect("a count");
        words[at - 1].parse().expect("a count")
    };
    let counted = total(&status(&lab, 80));
    assert!(counted >= 200 + u64::from(made), "{counted} of {made}: {}", status(&lab, 80));
    // Each of the 200 has sent "ping" and heard a name and "ping".
    let received: u64 =
        status(&lab, 80).split(", ").nth(3).and_then(|t| t.split(' ').next()?.parse().ok()).expect("bytes");
    assert!(received >= 800, "{}", status(&lab, 80));
}

#[test]
fn one_bad_rule_harms_nothing_else() {
    let lab = start();
    apply(&lab, &[rule(80, &[20], &["balance roundrobin"]), rule(81, &[20], &["balance roundrobin"])]);
    let bad = with(&[
        rule(80, &[21], &["balance roundrobin"]),
        rule(81, &[21], &["balance fair"]),
        rule(82, &[21], &[]),
    ]);
    let reply = lab.send("load_balancer", &bad);
    assert_eq!(reply.code, 1);
    assert!(
        reply.stderr.contains("listen 203_0_113_10-81: line \"balance fair\": there is no algorithm"),
        "{}",
        reply.stderr
    );
    assert_eq!(meet(&lab, FRONT, 1), ["b"], "the good ones are in force");
    assert_eq!(meet(&lab, "203.0.113.10:82", 1), ["b"]);
    assert_eq!(meet(&lab, "203.0.113.10:81", 1), ["a"], "and the bad one is as it was");
    // What only HAProxy finds out.
    let tls: Vec<String> = [
        "listen 203_0_113_10-443",
        "bind 203.0.113.10:443 ssl crt /etc/cloudstack/ssl/203_0_113_10-443.pem",
        "server x 10.1.1.20:8000 check",
    ]
    .map(str::to_owned)
    .to_vec();
    let good = rule(80, &[20], &["balance leastconn"]);
    let lines: Vec<Vec<&str>> = [&tls, &good].map(|r| r.iter().map(String::as_str).collect()).to_vec();
    let reply = lab.send(
        "load_balancer",
        &document(
            &[&lines[0], &lines[1]],
            r#"{"name":"203_0_113_10-443","cert":"nonsense","key":"nonsense"}"#,
        ),
    );
    assert_eq!(reply.code, 1);
    assert!(reply.stderr.contains("203.0.113.10:443: "), "{}", reply.stderr);
    assert_eq!(meet(&lab, FRONT, 1), ["a"]);
    lab.apply("firewall_rules", &ingress(42, "203.0.113.10", "tcp", Some((81, 81)), "203.0.113.1/32", false));
}

#[test]
fn tls_ends_here_and_the_proxy_protocol_tells_clients() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "all", None, "0.0.0.0/0", false));
    serve_http(&lab.a, "10.1.1.20:8000", "a");
    let certificate = |name: &str| {
        let command = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout /dev/stdout -out /dev/stdout 2>/dev/null"
        );
        let pem = lab.outside.ok(&command);
        let at = pem.find("-----BEGIN CERTIFICATE").expect("a certificate");
        let item = serde_json::json!({"name": "203_0_113_10-443", "cert": pem[at..], "key": pem[..at]});
        item.to_string()
    };
    let lines = |port: &str| -> Vec<String> {
        [
            format!("listen 203_0_113_10-{port}"),
            format!("\tbind 203.0.113.10:{port} ssl crt /etc/cloudstack/ssl/203_0_113_10-{port}.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2 no-tls-tickets\n\thttp-request add-header X-Forwarded-Proto https"),
            "\tmode http".into(),
            "\tserver x 10.1.1.20:8000 check".into(),
        ]
        .to_vec()
    };
    let tls = lines("443");
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    lab.apply("load_balancer", &document(&[&tls], &certificate("first.example")));
    let answer = get(&lab, "-k -v --http2 https://203.0.113.10/ 2>&1");
    assert!(
        answer.contains("X-Forwarded-Proto: https") || answer.contains("x-forwarded-proto: https"),
        "{answer}"
    );
    assert!(answer.contains("x-forwarded-for: 203.0.113.1") && answer.contains("first.example"), "{answer}");
    assert!(answer.contains("HTTP/2 200"), "{answer}");
    assert!(!lab.outside.sh("curl -sk --max-time 5 --tls-max 1.1 https://203.0.113.10/").status.success());
    // Another certificate takes effect by itself.
    lab.apply("load_balancer", &document(&[&tls], &certificate("second.example")));
    assert!(get(&lab, "-k -v https://203.0.113.10/ 2>&1").contains("second.example"));

    // Without HTTP the server learns the client by the PROXY protocol; only some may come.
    let (who, heard) = std::sync::mpsc::channel();
    let listener = inside(&lab.b, || TcpListener::bind("10.1.1.21:8000").expect("listener"));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut line = String::new();
            // A health check speaks for the router itself.
            if BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("PROXY TCP4 203.") {
                let _ = who.send(line);
            }
        }
    });
    let some = [
        "acl network_allowed src 203.0.113.50/32,192.0.2.0/24",
        "tcp-request connection reject if !network_allowed",
        "# proxy",
    ];
    apply(&lab, &[rule(81, &[21], &some)]);
    let address = "203.0.113.10:81";
    let mut refused = inside(&lab.outside, || TcpStream::connect(address)).expect("a connection");
    refused.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
    assert!(!matches!(refused.read(&mut [0; 1]), Ok(1..)), "another source");
    lab.outside.ok("curl -s --max-time 1 --interface 203.0.113.50 http://203.0.113.10:81/ ; true");
    let line = heard.recv_timeout(Duration::from_secs(5)).expect("a client");
    assert!(line.starts_with("PROXY TCP4 203.0.113.50 203.0.113.10 "), "{line}");
}

#[test]
fn datagrams_are_balanced_by_the_filter() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "udp", Some((53, 53)), "0.0.0.0/0", false));
    for (guest, address, name) in [(&lab.a, "10.1.1.20:8000", "a"), (&lab.b, "10.1.1.21:8000", "b")] {
        let socket = inside(guest, || UdpSocket::bind(address).expect("socket"));
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), peer);
            }
        });
    }
    let client = || {
        let socket = inside(&lab.outside, || UdpSocket::bind("0.0.0.0:0").expect("socket"));
        socket.set_read_timeout(Some(ANSWER)).expect("time limit");
        inside(&lab.outside, || socket.connect("203.0.113.10:53")).expect("a route");
        socket
    };
    let heard = |socket: &UdpSocket| -> Option<char> {
        socket.send(b"?").ok()?;
        let mut buffer = [0; 10];
        socket.recv(&mut buffer).ok().map(|_| char::from(buffer[0]))
    };
    // The management server writes it like a rule for TCP, and tells the health checks what it is.
    apply(&lab, &[rule(53, &[20, 21], &["balance roundrobin"])]);
    let record = "maxconn=4096,sourcePortStart=53,sourcePortEnd=53,sourceIp=203.0.113.10,destPortStart=8000,destPortEnd=8000,algorithm=roundrobin,protocol=udp,stickiness=None,keepAliveEnabled=false,vmIps=10.1.1.20 10.1.1.21;";
    lab.apply("monitor_service", &format!(r#"{{"health_checks_enabled":true,"health_checks_config":{{"haproxyData":"{record}"}},"type":"monitorservice"}}"#));
    let sockets: Vec<UdpSocket> = (0..4).map(|_| client()).collect();
    let met: Vec<char> = sockets.iter().map(|s| heard(s).expect("an answer")).collect();
    let mut sorted = met.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ['a', 'a', 'b', 'b'], "{met:?}");
    for (socket, name) in sockets.iter().zip(&met) {
        assert_eq!(heard(socket), Some(*name), "a flow stays at its server");
    }
    apply(&lab, &[rule(53, &[21], &["balance roundrobin"])]);
    for socket in &sockets {
        assert_eq!(heard(socket), Some('b'), "flows of the server that went go on at another");
    }
    apply(&lab, &[rule(53, &[20, 21], &["balance source"])]);
    let met: Vec<Option<char>> = (0..4).map(|_| heard(&client())).collect();
    assert!(met.iter().all(|name| *name == met[0] && name.is_some()), "by the client's address: {met:?}");
}

#[test]
fn balancing_goes_on_without_the_core_and_comes_back_without_haproxy() {
    let mut lab = start();
    apply(&lab, &[rule(80, &[20, 21], &["balance roundrobin"])]);
    let (mut held, _) = connect(&lab, FRONT).expect("a connection");
    let before = worker(&lab);
    lab.core.kill();
    assert!(alive(&mut held));
    assert!(connect(&lab, FRONT).is_some(), "new ones too");
    lab.restart();
    assert_eq!(worker(&lab), before, "the core takes over what runs");
    apply(&lab, &[rule(80, &[20], &["balance roundrobin"])]);
    assert_eq!(worker(&lab), before);
    assert_eq!(meet(&lab, FRONT, 2), ["a", "a"]);
    assert!(alive(&mut held));
    // A worker that leaves is not forgotten either.
    apply(&lab, &[rule(80, &[20], &["balance leastconn"])]);
    lab.core.kill();
    lab.restart();
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).code, 0);
    assert!(alive(&mut held));
    // HAProxy itself dies.
    let pid = worker(&lab);
    lab.router.ok(&format!("kill -9 {pid}"));
    let died = Instant::now();
    wait_until("balancing to come back", Duration::from_secs(20), || connect(&lab, FRONT).is_some());
    println!("HAProxy was back after {:?}", died.elapsed());
    assert_ne!(worker(&lab), pid);
    let told = || lab.run(&["getRouterAlerts.sh", "1970-01-01", "00:00:00"]).stdout;
    wait_until("the alert", Duration::from_secs(10), || {
        told().contains("[INFO] [haproxy] service had ended")
    });
    // It ends again, and cannot be started: its file is not to be written.
    let file = lab.paths.run().join("balance/pid");
    std::fs::remove_file(&file).expect("the file of its process");
    std::fs::create_dir(&file).expect("a folder in its place");
    lab.router.ok(&format!("kill -9 {}", worker(&lab)));
    wait_until("the alert", Duration::from_secs(20), || {
        told().contains("[ALERT] [haproxy] service is down: nothing is balanced")
    });
    assert!(connect(&lab, FRONT).is_none());
    let records = told();
    let last = records.trim_end().rsplit("\\n").next().expect("a record");
    let (day, hour) = last.split(',').next().and_then(|mark| mark.split_once(' ')).expect("a moment");
    assert_eq!(lab.run(&["getRouterAlerts.sh", day, hour]).stdout, "No Alerts\n");
    std::fs::remove_dir(&file).expect("the folder");
    wait_until("balancing to come back", Duration::from_secs(60), || connect(&lab, FRONT).is_some());
    wait_until("the word of it", Duration::from_secs(10), || {
        told().contains("[INFO] [haproxy] service is running again")
    });
}

#[test]
fn balanced_bytes_are_the_routers_and_what_the_gate_drops_is_nobodys() {
    let lab = start();
    apply(&lab, &[rule(80, &[20], &["balance roundrobin"])]);
    let figures = || -> Vec<u64> {
        let text = lab.run(&["netusage.sh", "-g"]).stdout;
        text.trim_end().trim_end_matches(':').split(':').map(|n| n.parse().expect("a figure")).collect()
    };
    let before = figures();
    let (mut stream, _) = connect(&lab, FRONT).expect("a connection");
    let mut echo = vec![0; 100_000];
    stream.write_all(&echo).expect("to say it");
    stream.read_exact(&mut echo).expect("to hear it");
    let after = figures();
    assert_eq!(after[..2], before[..2], "nothing went to or from a guest by itself");
    for n in [2, 3] {
        let more = after[n] - before[n];
        assert!((100_000..200_000).contains(&more), "{before:?} {after:?}");
    }
    drop(stream);
    // What the gate lets in no more is not counted.
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "all", None, "0.0.0.0/0", true));
    wait_until("the end of the connection", Duration::from_secs(10), || {
        status(&lab, 80).contains(" 0 connections")
    });
    let before = figures();
    let socket = inside(&lab.outside, || UdpSocket::bind("0.0.0.0:0").expect("socket"));
    for _ in 0..10 {
        inside(&lab.outside, || socket.send_to(&[0; 1000], "203.0.113.10:9")).expect("to send");
    }
    assert!(connect(&lab, FRONT).is_none());
    let after = figures();
    let more: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    assert!(more < 1000, "ten datagrams of 1,000 bytes were dropped: {before:?} {after:?}");
}

#[test]
fn statistics_have_their_page_and_their_figure() {
    let lab = start();
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).stdout, "0");
    apply(&lab, &[rule(80, &[20, 21, 99], &["balance roundrobin"])]);
    let page = "'http://203.0.113.10:8081/admin?stats'";
    assert!(get(&lab, page).contains("401"));
    let answer = get(&lab, &format!("-u admin1:AdMiN123 {page}"));
    assert!(answer.contains("203_0_113_10-80") && answer.contains("10.1.1.20:8000"), "{answer}");
    // A server that is not there is found out, and counts no more.
    wait_until("the dead server to be found out", Duration::from_secs(30), || {
        status(&lab, 80).starts_with("2 of 3 servers")
    });
    // So does the log.
    let log = || std::fs::read_to_string(lab.paths.at("/var/log/haproxy.log")).unwrap_or_default();
    wait_until("the log", Duration::from_secs(10), || {
        log().contains("Server 203_0_113_10-80/10.1.1.99:8000 is DOWN")
    });
    assert!(
        lab.run(&["metrics"]).stdout.contains(r#"trivium_balance_servers_up{front="203.0.113.10:80"} 2"#)
    );
    let _held: Vec<_> = (0..6).map(|_| connect(&lab, FRONT).expect("a connection")).collect();
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).stdout, "3");
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "99"]).stdout, "0");
    assert_eq!(lab.run(&["get_haproxy_stats.sh"]).stdout, "0");
}

#[test]
fn a_balancer_for_the_inside_serves_at_its_own_address() {
    let line = "template=domP name=b-9-VM eth0ip=10.1.1.1 eth0mask=255.255.255.0 gateway=10.1.1.254 dns1=10.1.1.254 \
        eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=ilbvm\n";
    let lab = Lab::isolated(line);
    serve(&lab.a, "10.1.1.20:8000", "a");
    // Networks with commas between them, as only this kind is told them.
    let lines = [
        "listen 10_1_1_1-80",
        "\tbind 10.1.1.1:80",
        "\tbalance roundrobin",
        "\tacl network_allowed src 10.1.1.21/32,192.0.2.0/24",
        "\ttcp-request connection reject if !network_allowed",
        "\tserver 10_1_1_1-80_0 10.1.1.20:8000 check",
    ];
    lab.apply("load_balancer", &document(&[&lines], "").replace("203.0.113.10:8081", "169.254.10.20:8081"));
    let address: SocketAddr = "10.1.1.1:80".parse().expect("address");
    let mut stream = inside(&lab.b, || TcpStream::connect_timeout(&address, ANSWER)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
    let mut name = [0; 2];
    stream.read_exact(&mut name).expect("a name");
    assert_eq!(&name, b"a\n");
    assert!(
        lab.host
            .ok("curl -s -i -u admin1:AdMiN123 'http://169.254.10.20:8081/admin?stats'")
            .contains("10_1_1_1-80")
    );
    assert!(!lab.a.sh("curl -s --max-time 1 'http://169.254.10.20:8081/admin?stats'").status.success());
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "10.1.1.1", "80"]).stdout, "1");
}

#[test]
fn clients_of_a_balancer_in_a_vpc_pass_by_the_lists_of_tiers() {
    let lab = crate::vpc::vpc();
    serve(&lab.a, "10.9.1.10:8000", "a");
    lab.apply(
        "network_acl",
        &crate::documents::acl(2, &[crate::documents::rule("all", None, "0.0.0.0/0", false)], &[]),
    );
    let lines = [
        "listen 203_0_113_20-80",
        "\tbind 203.0.113.20:80",
        "\tbalance roundrobin",
        "\tserver 203_0_113_20-80_0 10.9.1.10:8000 check",
    ];
    lab.apply("load_balancer", &document(&[&lines], "").replace("203.0.113.10:8081", "203.0.113.20:8081"));
    let meets = |from: &Namespace| {
        let address: SocketAddr = "203.0.113.20:80".parse().expect("address");
        let mut stream = inside(from, || TcpStream::connect_timeout(&address, ANSWER)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
        let mut name = [0; 2];
        stream.read_exact(&mut name).ok()?;
        Some(name)
    };
    for from in [&lab.outside, &lab.b, &lab.a] {
        assert_eq!(meets(from).as_ref(), Some(b"a\n"));
    }
    assert_eq!(crate::lab::seen(&lab.b, "10.9.1.10:8000"), None, "the list itself is closed");
}
