//! User data and metadata: curl.

use std::{io::Write as _, net::TcpStream, process::Stdio};

use tests::lab::Namespace;

use crate::lab::{Lab, inside};

const A: [u8; 4] = [10, 9, 1, 10];
const B: [u8; 4] = [10, 9, 1, 20];

/// Body and status of a GET.
fn get(guest: &Namespace, url: &str) -> (Vec<u8>, u16) {
    let out = guest.sh(&format!("curl -s --path-as-is -m 10 -w '%{{http_code}}' {url}"));
    assert!(out.status.success(), "curl {url}: {}", out.status);
    let (body, status) = out.stdout.split_at(out.stdout.len() - 3);
    (body.to_vec(), std::str::from_utf8(status).unwrap().parse().unwrap())
}

fn keys(id: &str) -> Vec<(&str, &str)> {
    vec![
        ("service-offering", "Small"),
        ("local-hostname", "web"),
        ("instance-id", id),
        ("public-keys", ""),
        ("vm-id", id),
    ]
}

#[test]
fn a_guest_reads_its_own_tree() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_data(A, Some(b"#cloud-config\n\0\xff"), &keys("i-a"));
    let at = "http://10.9.1.1";
    let all = "service-offering\nlocal-hostname\ninstance-id\npublic-keys\nvm-id\n";
    for (path, body, status) in [
        ("/latest/meta-data/", all, 200),
        ("/latest/meta-data", all, 200),
        ("/latest/meta-data/instance-id", "i-a", 200),
        ("/latest/instance-id", "i-a", 200),
        ("/Latest/Meta-Data/local-hostname/", "web", 200),
        ("/latest/meta-data/public-keys", "", 200),
        ("/metadata/10.9.1.10/vm-id", "i-a", 200),
        ("/metadata/10.9.1.20/vm-id", "", 403),
        ("/latest/", "", 403),
        ("/latest", "", 301),
        ("/latest/meta-data/none", "", 404),
        ("/2009-04-04/meta-data/instance-id", "", 404),
        ("/latest/../latest/user-data", "", 404),
        ("/", "", 404),
    ] {
        assert_eq!(get(&lab.a, &format!("{at}{path}")), (body.as_bytes().to_vec(), status), "{path}");
    }
    assert_eq!(get(&lab.a, &format!("{at}/latest/user-data")), (b"#cloud-config\n\0\xff".to_vec(), 200));
    let head = lab.a.ok(&format!("curl -s -m 10 -I {at}/latest/user-data"));
    assert!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length: 16"), "{head}");
    assert!(!head.to_lowercase().contains("content-type"), "{head}");
    let put =
        lab.a.ok(&format!("curl -s -m 10 -X PUT -o /dev/null -w '%{{http_code}}' {at}/latest/api/token"));
    assert_eq!(put, "405");
}

#[test]
fn user_data_is_exact_up_to_a_mebibyte() {
    let lab = Lab::new();
    lab.address_guests();
    let data: Vec<u8> = (0..1_048_576_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    lab.set_data(A, Some(&data), &keys("i-a"));
    let (body, status) = get(&lab.a, "http://10.9.1.1/latest/user-data");
    assert_eq!(status, 200);
    assert!(body == data, "{} bytes", body.len());
}

#[test]
fn nobody_reads_what_is_another_guests_and_the_unknown_hear_so_at_once() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_data(A, Some(b"secret"), &keys("i-a"));
    assert_eq!(get(&lab.b, "http://10.9.1.1/latest/user-data").1, 404);
    assert_eq!(get(&lab.b, "http://10.9.1.1/userdata/10.9.1.10/user-data").1, 403);
    assert_eq!(get(&lab.c, "http://10.9.2.1/latest/meta-data/").1, 404);
    // A guest of the second network under the address of A: its own network does not know it.
    lab.c.ip(&["addr", "add", "10.9.1.10/32", "dev", "eth0"]);
    lab.router.ip(&["route", "add", "10.9.1.10/32", "dev", "eth1"]);
    for router in ["10.9.2.1", "10.9.1.1"] {
        let out = lab.c.sh(&format!("curl -s -m 3 --interface 10.9.1.10 http://{router}/latest/user-data"));
        assert!(!String::from_utf8_lossy(&out.stdout).contains("secret"), "{router}");
    }
}

#[test]
fn a_new_guest_at_an_address_reads_nothing_of_the_former() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_data(A, Some(b"old"), &keys("i-old"));
    lab.set_data(A, None, &[("instance-id", "i-new")]);
    assert_eq!(get(&lab.a, "http://10.9.1.1/latest/user-data").1, 404);
    assert_eq!(get(&lab.a, "http://10.9.1.1/latest/meta-data/").0, b"instance-id\n");
    lab.core.publish(&router::snapshot::metadata_kind(A.into()), &serde_json::Value::Null);
    assert_eq!(get(&lab.a, "http://10.9.1.1/latest/meta-data/").1, 404);
}

#[test]
fn no_request_fails_or_mixes_old_and_new_while_data_changes() {
    let lab = Lab::new();
    lab.address_guests();
    let body = |letter: char| letter.to_string().repeat(100_000);
    lab.set_data(A, Some(body('a').as_bytes()), &keys("i-a"));
    let urls = "url = \"http://10.9.1.1/latest/user-data\"\n".repeat(300);
    let list = lab.file("urls", &urls);
    let mut command = lab.a.command("curl");
    let reader = command.args(["-s", "-S", "-f", "-K", &list]).stdout(Stdio::piped()).spawn().unwrap();
    for i in 0..25 {
        lab.set_data(A, Some(body(if i % 2 == 0 { 'b' } else { 'a' }).as_bytes()), &keys("i-a"));
        lab.set_data(B, Some(b"other"), &keys("i-b"));
    }
    let out = reader.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.stdout.len(), 300 * 100_000);
    for body in out.stdout.chunks(100_000) {
        assert!(body.iter().all(|b| *b == body[0]), "old and new in one answer");
    }
}

#[test]
fn a_guest_that_hoards_connections_or_talks_nonsense_harms_nobody() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_data(B, Some(b"fine"), &[]);
    // The hoard is held until the thread's result is dropped, at the end.
    let hoard = inside(&lab.a, || {
        let open = |_| {
            let mut stream = TcpStream::connect("10.9.1.1:80").ok()?;
            stream.write_all(b"GET ").ok()?;
            Some(stream)
        };
        (0..400).map(open).collect::<Vec<_>>()
    });
    let _hoard = hoard.join().unwrap();
    assert_eq!(get(&lab.b, "http://10.9.1.1/latest/user-data").0, b"fine");
    let nonsense = "exec 3<>/dev/tcp/10.9.1.1/80; head -c 100000 /dev/urandom >&3; timeout 5 head -c 12 <&3";
    let said = lab.b.command("bash").args(["-c", nonsense]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    let long = lab.b.ok("curl -s -m 10 -o /dev/null -w '%{http_code}' -H \"X: $(head -c 20000 /dev/zero | tr '\\0' x)\" http://10.9.1.1/latest/user-data");
    assert_eq!(long, "431");
    assert_eq!(get(&lab.b, "http://10.9.1.1/latest/user-data").0, b"fine");
}

#[test]
fn the_same_is_there_behind_tls() {
    let lab = Lab::new();
    lab.address_guests();
    lab.set_data(A, Some(b"mine"), &keys("i-a"));
    assert_eq!(get(&lab.a, "-k https://10.9.1.1/latest/user-data").0, b"mine");
    assert_eq!(get(&lab.a, "-k --tls-max 1.2 https://10.9.1.1/latest/meta-data/instance-id").0, b"i-a");
    assert_eq!(get(&lab.b, "-k https://10.9.1.1/latest/user-data").1, 404);
    // Whoever talks something else there waits for nobody and keeps nobody waiting.
    let plain = lab.b.sh("curl -s -m 5 http://10.9.1.1:443/latest/user-data");
    assert!(!plain.status.success());
    assert_eq!(get(&lab.a, "-k https://10.9.1.1/latest/user-data").1, 200);
}

#[test]
fn a_disk_in_the_drive_is_there_for_guests() {
    let lab = Lab::new();
    lab.address_guests();
    assert_eq!(get(&lab.a, "http://10.9.1.1/cks-iso/").1, 404, "no disk");
    let folder = lab.paths.media().join("cks-iso/docker");
    std::fs::create_dir_all(&folder).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(folder.join("image 1.tar"), &content).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("passwd")).unwrap();
    let (page, status) = get(&lab.a, "http://10.9.1.1/cks-iso/docker/");
    let page = String::from_utf8(page).unwrap();
    assert!(status == 200 && page.contains("<a href=\"image%201.tar\">image 1.tar</a>"), "{page}");
    assert_eq!(get(&lab.a, "http://10.9.1.1/cks-iso").1, 301);
    for url in
        ["http://10.9.1.1/cks-iso/docker/image%201.tar", "-k https://10.9.1.1/cks-iso/docker/image%201.tar"]
    {
        let (body, status) = get(&lab.a, url);
        assert!(status == 200 && body == content, "{url}: {status}, {} bytes", body.len());
    }
    let head = lab.a.ok("curl -s -m 10 -I http://10.9.1.1/cks-iso/docker/image%201.tar");
    assert!(head.to_lowercase().contains("content-length: 3000000"), "{head}");
    for path in ["docker/passwd", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"] {
        assert_eq!(get(&lab.a, &format!("http://10.9.1.1/cks-iso/{path}")).1, 404, "{path}");
    }
    let stranger = lab.c.sh("curl -s -m 3 -o /dev/null -w '%{http_code}' http://10.9.1.1/cks-iso/");
    assert!(!String::from_utf8_lossy(&stranger.stdout).contains("200"), "by another network's address");
    assert_eq!(get(&lab.c, "http://10.9.2.1/cks-iso/").1, 200, "by its own");
}
