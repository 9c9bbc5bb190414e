//! Addresses: dhclient and udhcpc.

use tests::lab::{Namespace, wait_until};

use crate::lab::{A, Lab, SOON, host};

/// Writes what udhcpc was told to a file, and takes the address.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
  bound|renew) ip addr flush dev "$interface"; ip addr add "$ip/$mask" dev "$interface"
    { echo "state=$1"; env; } >"$OUT.new"; mv "$OUT.new" "$OUT" ;;
  nak) echo nak >>"$OUT.naks" ;;
esac
"#;

/// Asks once with udhcpc; what it was told, or `None` where nobody answered.
fn udhcpc(lab: &Lab, guest: &Namespace, more: &str) -> Option<String> {
    let (script, out) = script(lab, guest);
    let ask = format!("OUT={out} udhcpc -f -n -q -t 4 -T 1 -i eth0 -s {script} -O mtu -O search {more}");
    let said = guest.sh(&ask);
    let told = std::fs::read_to_string(&out).ok();
    assert_eq!(said.status.success(), told.is_some(), "{}", String::from_utf8_lossy(&said.stderr));
    told
}

fn script(lab: &Lab, guest: &Namespace) -> (String, String) {
    let script = lab.file("udhcpc.sh", SCRIPT);
    std::process::Command::new("chmod").args(["755", &script]).status().unwrap();
    let out = lab.paths.at(&format!("/told-{}", guest.name())).to_str().unwrap().to_owned();
    let _ = std::fs::remove_file(&out);
    (script, out)
}

#[test]
fn a_guest_is_told_everything_about_its_network() {
    let lab = Lab::new();
    let told = udhcpc(&lab, &lab.a, "").expect("a lease");
    for line in [
        "ip=10.9.1.10",
        "mask=24",
        "router=10.9.1.1",
        "dns=10.9.1.1 192.0.2.53",
        "domain=tier1.example",
        "hostname=web",
        "mtu=1450",
        "broadcast=10.9.1.255",
        "lease=4294967295",
        "serverid=10.9.1.1",
        "search=a.example b.example",
        "siaddr=10.9.1.1",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} is missing in\n{told}");
    }
    let told = udhcpc(&lab, &lab.c, "").expect("a lease in the second network");
    assert!(told.contains("ip=10.9.2.10\n") && told.contains("router=10.9.2.1\n"), "{told}");
}

#[test]
fn another_nic_of_a_guest_gets_no_route_and_no_resolver() {
    let lab = Lab::new();
    let told = udhcpc(&lab, &lab.b, "").expect("a lease");
    assert!(told.contains("ip=10.9.1.20\n"), "{told}");
    for word in ["router=", "dns=", "domain="] {
        assert!(!told.lines().any(|l| l.starts_with(word)), "{word} in\n{told}");
    }
}

#[test]
fn a_client_that_wants_broadcasts_gets_them() {
    let lab = Lab::new();
    assert!(udhcpc(&lab, &lab.a, "-B").expect("a lease").contains("ip=10.9.1.10\n"));
}

#[test]
fn strangers_are_not_answered_and_the_removed_at_once_no_more() {
    let mut lab = Lab::new();
    lab.b.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:99"]);
    assert_eq!(udhcpc(&lab, &lab.b, ""), None);
    assert!(udhcpc(&lab, &lab.a, "").is_some());
    lab.hosts.retain(|h| h.name != "web");
    lab.declare();
    assert_eq!(udhcpc(&lab, &lab.a, ""), None);
    // The address goes to another machine at once.
    lab.hosts.push(host("02:00:00:00:00:99", [10, 9, 1, 10], "heir"));
    lab.declare();
    assert!(udhcpc(&lab, &lab.b, "").expect("a lease").contains("hostname=heir\n"));
}

#[test]
fn a_rebuilt_router_renews_without_a_break() {
    let mut lab = Lab::new();
    let (script, out) = script(&lab, &lab.a);
    let mut command = lab.a.command("udhcpc");
    command.args(["-f", "-t", "4", "-T", "1", "-i", "eth0", "-s", &script]).env("OUT", &out);
    let client = tests::lab::Process::start(command);
    let told =
        |state: &str| std::fs::read_to_string(&out).is_ok_and(|t| t.contains(&format!("state={state}\n")));
    wait_until("a lease", SOON, || told("bound"));
    lab.serve.kill();
    lab.core.kill();
    lab.restart_core_and_serve();
    std::process::Command::new("kill").args(["-USR1", &client.id().to_string()]).status().unwrap();
    wait_until("a renewed lease", SOON, || told("renew"));
    assert!(!std::path::Path::new(&format!("{out}.naks")).exists(), "{}", client.output());
}

#[test]
fn dhclient_keeps_its_lease_over_a_reboot_and_gives_it_up_when_moved() {
    let mut lab = Lab::new();
    let script = lab.file("dhclient.sh", "#!/bin/sh\necho \"$reason $new_ip_address\" >>$OUT\nexit 0\n");
    std::process::Command::new("chmod").args(["755", &script]).status().unwrap();
    let settings = lab.file(
        "dhclient.conf",
        "timeout 15;\nretry 1;\ninitial-interval 1;\nselect-timeout 0;\nrequest subnet-mask, broadcast-address, routers, \
         domain-name, domain-name-servers, domain-search, host-name, interface-mtu;\n",
    );
    let at = |name: &str| lab.paths.at(&format!("/{name}")).to_str().unwrap().to_owned();
    let (leases, pid, out) = (at("leases"), at("pid"), at("reasons"));
    std::fs::write(&leases, "").unwrap();
    let ask =
        format!("dhclient -1 -d -v -sf {script} -cf {settings} -lf {leases} -pf {pid} -e OUT={out} eth0");
    let run = |lab: &Lab, reason: &str| {
        let client = lab.a.spawn("sh", &["-c", &format!("exec {ask}")]);
        wait_until(reason, SOON, || std::fs::read_to_string(&out).unwrap_or_default().contains(reason));
        client.output()
    };
    run(&lab, "BOUND 10.9.1.10");
    // It runs the script first, and writes then.
    let mut lease = String::new();
    wait_until("the lease in its file", SOON, || {
        lease = std::fs::read_to_string(&leases).unwrap();
        lease.ends_with("}\n")
    });
    for line in [
        "fixed-address 10.9.1.10;",
        "option subnet-mask 255.255.255.0;",
        "option routers 10.9.1.1;",
        "option dhcp-lease-time 4294967295;",
        "option dhcp-message-type 5;",
        "option domain-name-servers 10.9.1.1,192.0.2.53;",
        "option interface-mtu 1450;",
        "option dhcp-server-identifier 10.9.1.1;",
        "option domain-search \"a.example.\", \"b.example.\";",
        "option broadcast-address 10.9.1.255;",
        "option host-name \"web\";",
        "option domain-name \"tier1.example\";",
    ] {
        assert!(lease.contains(line), "{line} is missing in\n{lease}");
    }
    let said = run(&lab, "REBOOT 10.9.1.10");
    assert!(!said.contains("DHCPDISCOVER"), "{said}");
    lab.hosts[0] = host(A, [10, 9, 1, 11], "web");
    lab.declare();
    let said = run(&lab, "BOUND 10.9.1.11");
    assert!(said.contains("DHCPNAK"), "{said}");
}
