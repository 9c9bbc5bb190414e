//! The shim behind a real sshd with the configuration that the boot writes, driven by OpenSSH's own clients.

#![allow(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    boot::{self, Facts, Identity},
    paths::Paths,
    shim::{
        self,
        wire::{Reply, Request},
    },
};

/// An sshd on loopback whose one user lands in the shim; all files lie below a folder of their own.
struct Server {
    folder: tempfile::TempDir,
    paths: Paths,
    port: u16,
    sshd: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path().join("vm"));
        for path in [
            "/etc",
            "/root",
            "/var/cache/cloud",
            "/var/log",
            "/opt/cloud/bin",
            "/usr/local/cloud/systemvm/conf",
        ] {
            fs::create_dir_all(paths.at(path)).unwrap();
        }
        fs::write(
            paths.at("/etc/cloudstack-release"),
            "Cloudstack Release 4.22.0 Wed Oct 22 09:00:00 UTC 2025\n",
        )
        .unwrap();
        let server_key = keygen(&folder, "host");
        let client_key = keygen(&folder, "client");
        fs::copy(client_key.with_extension("pub"), folder.path().join("authorized_keys")).unwrap();
        // Free a moment ago; whoever takes it in between fails this test, and is told so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.path().join("sshd_config");
        fs::write(&config, configuration(&paths, port, &folder, &server_key)).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn();
        let server = Self { folder, paths, port, sshd: sshd.unwrap() };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "sshd does not listen");
            std::thread::yield_now();
        }
        server
    }

    fn client(&self, program: &str, port_flag: &str, more: &[&str]) -> Output {
        let known = format!("UserKnownHostsFile={}", self.folder.path().join("known").display());
        Command::new(program)
            .args([
                port_flag,
                &self.port.to_string(),
                "-q",
                "-F",
                "/dev/null",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                &known,
            ])
            .args(["-o", "IdentitiesOnly=yes", "-i"])
            .arg(self.folder.path().join("client"))
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ssh(&self, command: &str) -> (i32, String, String) {
        let output = self.client("ssh", "-p", &["root@127.0.0.1", command]);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn scp(&self, more: &[&str]) -> bool {
        self.client("scp", "-P", more).status.success()
    }
}

fn keygen(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    path
}

/// What the boot writes, but for the address, the keys and the login shell.
fn configuration(paths: &Paths, port: u16, folder: &tempfile::TempDir, key: &std::path::Path) -> String {
    let identity =
        Identity::parse("type=consoleproxy name=v-1-VM eth0ip=127.0.0.1 eth0mask=255.0.0.0").unwrap();
    let plan = boot::plan(&identity, &Facts::default());
    let text = &plan.files.iter().find(|file| file.path == "/etc/ssh/sshd_config").unwrap().text;
    let own = ["Port ", "HostKey ", "AuthorizedKeysFile "];
    let kept: Vec<&str> =
        text.lines().filter(|line| !own.iter().any(|word| line.starts_with(word))).collect();
    format!(
        "Port {port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nSetEnv TRIVIUM_ROOT={}\n\
         ForceCommand exec {} -c \"$SSH_ORIGINAL_COMMAND\"\n{}\n",
        key.display(),
        folder.path().join("authorized_keys").display(),
        paths.root().display(),
        env!("CARGO_BIN_EXE_shim"),
        kept.join("\n"),
    )
}

#[test]
fn commands() {
    let server = Server::start();
    boot::ready(&server.paths, "cpvm").unwrap();
    let version = server.ssh("/opt/cloud/bin/get_template_version.sh");
    assert_eq!(version.0, 0);
    assert_eq!(
        version.1,
        format!("Cloudstack Release 4.22.0 Wed Oct 22 09:00:00 UTC 2025&{}\n", "0".repeat(128))
    );
    assert_eq!(version.2, "", "nothing but the answer");
    assert_ne!(server.ssh("/opt/cloud/bin/patched.sh /opt/cloud/bin/keystore*").0, 0);
    fs::write(server.paths.at("/opt/cloud/bin/keystore-setup"), "").unwrap();
    assert_eq!(server.ssh("/opt/cloud/bin/patched.sh \"/opt/cloud/bin/keystore*\"").0, 0);
    assert_eq!(server.ssh("cat /etc/passwd; id").0, 126);
    assert_eq!(server.ssh("/bin/sh -i").0, 127);
    assert!(server.ssh("").1.starts_with("Commands: "));
}

#[test]
fn a_java_client_finds_what_it_needs() {
    let server = Server::start();
    boot::ready(&server.paths, "cpvm").unwrap();
    for cipher in ["aes128-ctr", "aes256-ctr"] {
        for kex in ["ecdh-sha2-nistp256", "curve25519-sha256", "diffie-hellman-group14-sha1"] {
            let kex = format!("KexAlgorithms={kex}");
            let output = server.client(
                "ssh",
                "-p",
                &[
                    "-c",
                    cipher,
                    "-m",
                    "hmac-sha2-256",
                    "-o",
                    &kex,
                    "root@127.0.0.1",
                    "/opt/cloud/bin/get_template_version.sh null",
                ],
            );
            assert!(output.status.success(), "{cipher} {kex}");
        }
    }
}

#[test]
fn uploads_by_both_protocols() {
    let server = Server::start();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let local = server.folder.path();
    for (name, bytes) in
        [("big.json", &big[..]), ("small.json", b"{}"), ("agent.zip", b"zip"), ("patch-sysvms.sh", b"sh")]
    {
        fs::write(local.join(name), bytes).unwrap();
    }
    fs::write(local.join("cloud-scripts.tgz"), b"abc").unwrap();
    let file = |name: &str| local.join(name).to_str().unwrap().to_owned();
    for protocol in ["-O", "-s"] {
        let to = "root@127.0.0.1:/var/cache/cloud/";
        let names = ["big.json", "small.json", "agent.zip", "cloud-scripts.tgz", "patch-sysvms.sh"].map(file);
        let mut words = vec![protocol];
        words.extend(names.iter().map(String::as_str));
        words.push(to);
        assert!(server.scp(&words), "{protocol}");
        assert_eq!(fs::read(server.paths.cache().join("big.json")).unwrap(), big);
        let mut there: Vec<String> = fs::read_dir(server.paths.cache())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, ["big.json", "cloud-scripts-signature", "small.json"], "{protocol}");
        for name in ["big.json", "small.json", "cloud-scripts-signature"] {
            fs::remove_file(server.paths.cache().join(name)).unwrap();
        }
        assert!(server.scp(&[
            protocol,
            "-p",
            &file("small.json"),
            "root@127.0.0.1:/var/cache/cloud/other.json"
        ]));
        fs::remove_file(server.paths.cache().join("other.json")).unwrap();
        assert!(!server.scp(&[protocol, &file("small.json"), "root@127.0.0.1:/etc/cron.d/x"]), "{protocol}");
        assert!(!server.scp(&[protocol, "-r", local.to_str().unwrap(), "root@127.0.0.1:/var/cache/cloud/"]));
    }
    assert!(!server.paths.at("/etc/cron.d").exists());
}

#[test]
fn diagnostics_are_fetched() {
    let server = Server::start();
    let name = "/root/diagnostics_files_20251102-101500.zip";
    fs::write(server.paths.at(name), vec![7; 500_000]).unwrap();
    let to = server.folder.path().join("fetched");
    for protocol in ["-O", "-s"] {
        assert!(
            server.scp(&[protocol, &format!("root@127.0.0.1:{name}"), to.to_str().unwrap()]),
            "{protocol}"
        );
        assert_eq!(fs::read(&to).unwrap(), vec![7; 500_000]);
        fs::remove_file(&to).unwrap();
        assert!(!server.scp(&[protocol, "root@127.0.0.1:/etc/passwd", to.to_str().unwrap()]), "{protocol}");
    }
    assert_eq!(server.ssh(&format!("/opt/cloud/bin/cleanup.sh {name}")).0, 0);
    assert!(!server.paths.at(name).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_reach_the_core() {
    let server = std::sync::Arc::new(tokio::task::spawn_blocking(Server::start).await.unwrap());
    let core = tokio::spawn({
        let paths = server.paths.clone();
        async move {
            shim::listen(&paths, |request: Request| async move {
                match request.words[0].as_str() {
                    "update_config.py" => {
                        Reply { stdout: request.words.join("|"), stderr: String::new(), code: 0 }
                    }
                    _ => Reply::fail(5, "not here"),
                }
            })
            .unwrap()
            .await
        }
    });
    // Many hosts' commands at a time.
    let calls: Vec<_> = (0..12)
        .map(|number| {
            let server = server.clone();
            tokio::task::spawn_blocking(move || {
                let command = format!("/opt/cloud/bin/update_config.py vm_dhcp_entry.json.{number} false");
                (number, server.ssh(&command))
            })
        })
        .collect();
    for call in calls {
        // The account's own shell starts the shim here, and may have something to say about its set-up.
        let (number, (code, answer, _)) = call.await.unwrap();
        assert_eq!((code, answer), (0, format!("update_config.py|vm_dhcp_entry.json.{number}|false")));
    }
    let refused = tokio::task::spawn_blocking({
        let server = server.clone();
        move || server.ssh("/opt/cloud/bin/checkrouter.sh null")
    });
    assert_eq!(refused.await.unwrap(), (5, String::new(), "not here\n".to_owned()));
    core.abort();
}
