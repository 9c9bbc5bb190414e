//! The management end without any VM: who may join, what outlives a restart, what is refused.

mod certificates;
mod crew;
mod faults;
mod fence;
mod groups;
mod page;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;
use tests::lab::{Namespace, Process, binary, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// A zone with hosts and nothing else.
const ZONE: &str = r#"
[zone]
name = "empty"
dns = ["192.0.2.53"]
ping_interval = 1
[system]
image = "none.qcow2"
ssvm = false
cpvm = false
[management]
address = "192.168.100.1"
bridge = "br-mgmt"
cidr = "192.168.100.0/24"
gateway = "192.168.100.1"
range = "192.168.100.20-192.168.100.99"
[control]
bridge = "cloud0"
[public]
bridge = "br-public"
cidr = "203.0.113.0/24"
gateway = "203.0.113.1"
range = "203.0.113.10-203.0.113.99"
[[host]]
name = "host1"
address = "192.168.100.1"
[[host]]
name = "host2"
address = "192.168.100.2"
"#;

struct Lab {
    net: Namespace,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let net = Namespace::new("manage");
        net.bridge("br-mgmt");
        net.address("br-mgmt", "192.168.100.1/24");
        let dir = tempfile::Builder::new().prefix("tz").tempdir_in("/var/tmp").unwrap();
        fs::write(dir.path().join("zone.toml"), ZONE).unwrap();
        Self { net, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn manage(&self, words: &[&str]) -> Output {
        self.net.command(binary("manage")).args(words).output().unwrap()
    }

    fn serve(&self) -> Process {
        let (zone, state) = (self.path("zone.toml"), self.path("m"));
        let serve =
            self.net.spawn(binary("manage"), &["serve", "--zone", text(&zone), "--state", text(&state)]);
        wait_until("the control socket", LIMIT, || self.ask(&["status"]).is_ok());
        serve
    }

    fn host(&self, name: &str) -> Process {
        let (join, state) = (self.path("m/join").join(format!("{name}.json")), self.path(name));
        self.net.spawn(binary("manage"), &["host", "--join", text(&join), "--state", text(&state)])
    }

    fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let out = self.manage(&[words, &["--json", "--state", text(&self.path("m"))]].concat());
        if out.status.success() {
            Ok(serde_json::from_slice(&out.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).into_owned())
        }
    }

    fn is_up(&self, host: &str) -> bool {
        let status = self.ask(&["status"]).unwrap_or_default();
        let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().any(|h| h["name"] == host && h["up"] == true)
    }

    fn wait_up(&self, host: &str) {
        wait_until(&format!("{host} is up"), LIMIT, || self.is_up(host));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_host_joins_once_with_its_token_and_comes_back_with_its_certificate() {
    let lab = Lab::new();
    let mut serve = lab.serve();
    let join = lab.path("m/join/host1.json");
    let copy = lab.path("copy.json");
    fs::copy(&join, &copy).unwrap();
    assert_eq!(fs::metadata(&join).unwrap().permissions().mode() & 0o777, 0o600);
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    assert!(!join.exists(), "a token that was used is void");

    // The same token again, from somewhere else.
    let state = lab.path("other");
    let again = lab.manage(&["host", "--join", text(&copy), "--state", text(&state)]);
    assert!(!again.status.success());
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(error.contains("its token was used"), "{error}");
    assert!(error.contains("manage host-token"), "says what to do: {error}");

    host.kill();
    wait_until("host1 is seen to be gone", LIMIT, || !lab.is_up("host1"));
    let _host = lab.host("host1");
    lab.wait_up("host1");

    serve.kill();
    let _serve = lab.serve();
    lab.wait_up("host1");
    assert!(!lab.path("m/join/host1.json").exists(), "a host that has joined needs no new token");
}

#[test]
fn a_certificate_is_good_for_its_own_host_alone() {
    let lab = Lab::new();
    lab.net.address("br-mgmt", "192.168.100.2/24");
    let _serve = lab.serve();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    host.kill();
    // host1 says that it is host2.
    let file = lab.path("host1/host.json");
    let claim = fs::read_to_string(&file).unwrap().replace("\"host1\"", "\"host2\"");
    fs::write(&file, claim).unwrap();
    let _impostor = lab.host("host1");
    let refused = || {
        let events = lab.ask(&["status"]).unwrap()["events"].to_string();
        events.contains("refused host2") && events.contains("its certificate is that of")
    };
    wait_until("the refusal is told", LIMIT, refused);
    assert!(!lab.is_up("host2"));
}

#[test]
fn a_wrong_token_is_refused_and_leaves_the_right_one_good() {
    let lab = Lab::new();
    let _serve = lab.serve();
    let join = lab.path("m/join/host1.json");
    let right: Value = serde_json::from_slice(&fs::read(&join).unwrap()).unwrap();
    let mut wrong = right.clone();
    wrong["token"] = "0".repeat(40).into();
    fs::write(lab.path("wrong.json"), wrong.to_string()).unwrap();
    let (path, state) = (lab.path("wrong.json"), lab.path("other"));
    let out = lab.manage(&["host", "--join", text(&path), "--state", text(&state)]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("unknown host"), "{out:?}");
    let _host = lab.host("host1");
    lab.wait_up("host1");
}

#[test]
fn one_manager_at_a_time_and_nobody_else_at_its_socket() {
    let lab = Lab::new();
    let _serve = lab.serve();
    assert_eq!(fs::metadata(lab.path("m/manage.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(lab.path("m/manage.db")).unwrap().permissions().mode() & 0o777, 0o600);
    let (zone, state) = (lab.path("zone.toml"), lab.path("m"));
    let second = lab.manage(&["serve", "--zone", text(&zone), "--state", text(&state)]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("Another `manage serve`"), "{second:?}");
    assert!(lab.ask(&["status"]).is_ok(), "the first one goes on");
}

#[test]
fn shells_and_man_know_the_commands() {
    let lab = Lab::new();
    let bash = lab.manage(&["completion", "bash"]);
    assert!(bash.status.success() && String::from_utf8_lossy(&bash.stdout).contains("host-drain"));
    let folder = lab.path("man");
    fs::create_dir(&folder).unwrap();
    assert!(lab.manage(&["man", text(&folder)]).status.success());
    let page = fs::read_to_string(folder.join("manage-apply.1")).unwrap();
    assert!(page.contains("changed zone file") && folder.join("manage.1").exists(), "{page}");
}

#[test]
fn errors_name_what_is_wrong() {
    let lab = Lab::new();
    let nobody = lab.ask(&["status"]).unwrap_err();
    assert!(nobody.contains("Is it running with this --state?"), "{nobody}");
    let bad = ZONE.replace("192.168.100.2\"\n", "10.0.0.2\"\n");
    fs::write(lab.path("bad.toml"), bad).unwrap();
    let out = lab.manage(&["check", text(&lab.path("bad.toml"))]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(error.contains("key host[1].address: \"10.0.0.2\""), "{error}");

    let _serve = lab.serve();
    for (words, want) in [
        (&["vm", "stop", "web9"][..], "There is no VM \"web9\""),
        (&["console-url", "web9"], "There is no VM \"web9\""),
        (&["host-token", "host9"], "no [[host]] \"host9\""),
        (&["snapshot", "copy", "nfs9:a/b", "s3:c"], "There is no store \"nfs9\""),
        (
            &["template", "register", "--name", "t", "--url", "http://a/t", "--store", "x"],
            "There is no store \"x\"",
        ),
    ] {
        let error = lab.ask(words).unwrap_err();
        assert!(error.contains(want), "{words:?}: {error}");
    }
}

#[test]
fn a_changed_zone_file_is_applied_after_its_plan_was_seen() {
    let lab = Lab::new();
    let _serve = lab.serve();
    assert_eq!(lab.ask(&["plan"]).unwrap(), serde_json::json!([]), "nothing has changed");
    let write = |text: String| fs::write(lab.path("zone.toml"), text).unwrap();
    let network = "[[network]]\nname = \"net1\"\nbridge = \"br-guest\"\ncidr = \"10.1.1.0/24\"\ngateway = \"10.1.1.1\"\n\
                   domain = \"cs1.example\"\n";
    let host3 = "[[host]]\nname = \"host3\"\naddress = \"192.168.100.3\"\n";
    write(format!("{ZONE}{host3}{network}"));
    let plan = lab.ask(&["plan"]).unwrap().to_string();
    assert!(
        plan.contains("+ host host3: a file to join with") && plan.contains("+ network net1: a router"),
        "{plan}"
    );
    assert_eq!(lab.ask(&["status"]).unwrap()["vms"], serde_json::json!([]), "a plan changes nothing");
    // Not without a yes.
    let asked = lab.manage(&["apply", "--state", text(&lab.path("m"))]);
    assert!(String::from_utf8_lossy(&asked.stderr).contains("Nothing was applied"), "{asked:?}");
    lab.ask(&["apply", "--yes"]).unwrap();
    let status = lab.ask(&["status"]).unwrap();
    assert_eq!(status["vms"][0]["name"], "r-1-VM", "{status}");
    assert_eq!(status["hosts"].as_array().unwrap().len(), 3);
    assert!(lab.path("m/join/host3.json").exists());
    assert_eq!(lab.ask(&["plan"]).unwrap(), serde_json::json!([]));

    let has = |subject: &str, what: &str| {
        let events = lab.manage(&["events", "--json", "--state", text(&lab.path("m"))]);
        let events = String::from_utf8(events.stdout).unwrap();
        let lines = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.into_iter().any(|event| event["subject"] == subject && event["text"].to_string().contains(what))
    };
    assert!(has("zone", "its file was applied"));
    wait_until("the router's want of a host is told", LIMIT, || {
        has("r-1-VM", "is not started: no host is up with 512 MiB of memory free")
    });

    // The network goes again; what cannot change at run time is refused and changes nothing.
    write(ZONE.replace("ping_interval = 1", "ping_interval = 2"));
    let refused = lab.ask(&["apply", "--yes"]).unwrap_err();
    assert!(refused.contains("zone.ping_interval: cannot change while the manager runs"), "{refused}");
    write(ZONE.replace("name = \"host2\"", "nam = \"host2\""));
    assert!(lab.ask(&["apply", "--yes"]).unwrap_err().contains("unknown field `nam`"));
    assert_eq!(lab.ask(&["status"]).unwrap()["vms"][0]["wanted"], "running");
    write(ZONE.to_owned());
    lab.ask(&["apply", "--yes"]).unwrap();
    assert_eq!(lab.ask(&["status"]).unwrap()["vms"], serde_json::json!([]));
}
