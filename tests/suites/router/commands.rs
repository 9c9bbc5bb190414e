//! Commands of the host that change nothing.

use crate::lab::Lab;

#[test]
fn every_question_of_a_host_is_answered_in_its_form() {
    let lab = Lab::start();
    let tunnels = lab.run(&["checkbatchs2svpn.sh", "198.51.100.9", "198.51.100.77"]);
    let down = "IPsec SA not found;Site-to-site VPN have not connected";
    assert_eq!(tunnels.stdout, format!("198.51.100.9:11:{down}&198.51.100.77:11:{down}&"));
    assert_eq!(tunnels.code, 0);
    assert_eq!(lab.run(&["checks2svpn.sh", "198.51.100.9"]).code, 11);
    assert_eq!(lab.run(&["bumpup_priority.sh"]).code, 0);
    assert_eq!(lab.run(&["configure.py", "monitor_service.json"]).code, 0);
}

#[test]
fn diagnostics_come_as_one_archive() {
    let lab = Lab::start();
    let items =
        "iptables ipaddr iprule iproute /etc/passwd /etc/shadow /var/log/none [checkrouter.sh] [reboot]";
    let words: Vec<&str> = ["get_diagnostics_files.py"].into_iter().chain(items.split(' ')).collect();
    let reply = lab.run(&words);
    assert_eq!(reply.code, 0, "{}", reply.stderr);
    let path = reply.stdout.trim();
    assert!(path.starts_with("/root/diagnostics_files_") && path.ends_with(".zip"), "{path}");
    let file = lab.paths.at(path);
    let script = format!(
        "import zipfile; z=zipfile.ZipFile('{}'); print(*[n+'='+z.read(n).decode() for n in z.namelist()], sep='\\n--\\n')",
        file.display()
    );
    let out = std::process::Command::new("python3").args(["-c", &script]).output().expect("python3");
    let text = String::from_utf8_lossy(&out.stdout);
    for part in [
        "iptables.log=table inet trivium",
        "ipaddr.log=1: lo",
        "iprule.log=0:",
        "iproute.log=default via 203.0.113.1",
        "passwd=root",
        "checkrouter.sh.log=Status: PRIMARY",
        "/etc/shadow File Not Found!!",
        "/var/log/none File Not Found!!",
        "[reboot] File Not Found!!",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
