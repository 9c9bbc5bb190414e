//! What the zone needs around it: NFS, S3, and an internet with DNS and two web servers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    network::{Network, STORE, WEB},
    report::Failure,
};
use crate::lab::{Process, wait_until};

/// Access key of the S3 store.
pub const ACCESS: &str = "ZONEACCESSKEY";
/// Secret key of the S3 store.
pub const SECRET: &str = "zone-secret-of-the-lab";
/// Bucket of the S3 store.
pub const BUCKET: &str = "zone";

/// Where the project's checkout is.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Starts the NFS server; what it exports lies in `DIR/nfs/export`.
pub fn nfs(network: &Network, dir: &Path) -> Result<Process, Failure> {
    let dir = dir.join("nfs");
    fs::create_dir_all(&dir)?;
    let log = dir.join("nfs.log");
    let process = network.store.spawn(checkout().join("tests/stores/nfs"), &[&dir.to_string_lossy(), STORE]);
    wait_until("NFS server", Duration::from_secs(60), || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("NFS SERVER INITIALIZED"))
    });
    Ok(process)
}

/// Starts the S3 server and makes the bucket.
pub fn s3(network: &Network, dir: &Path) -> Result<(), Failure> {
    let dir = dir.join("s3");
    let out = network
        .store
        .command(checkout().join("tests/stores/s3"))
        .args([&*dir.to_string_lossy(), STORE, ACCESS, SECRET])
        .output()?;
    if !out.status.success() {
        return Err(format!("S3 server: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    s3cmd(network, &["mb", &format!("s3://{BUCKET}")]).map(|_| ())
}

/// Runs `s3cmd`, a client that is not ours, against the server.
fn s3cmd(network: &Network, words: &[&str]) -> Result<Vec<u8>, Failure> {
    let server = format!("{STORE}:7480");
    let out = network
        .store
        .command("s3cmd")
        .args(["--config=/dev/null", "--no-ssl", "--host", &server, "--host-bucket", &server])
        .args(["--access_key", ACCESS, "--secret_key", SECRET])
        .args(words)
        .output()?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    Err(format!("s3cmd {}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr)).into())
}

/// Reads an object of the bucket.
pub fn s3_object(network: &Network, key: &str) -> Result<Vec<u8>, Failure> {
    s3cmd(network, &["get", "--no-progress", "--quiet", &format!("s3://{BUCKET}/{key}"), "-"])
}

/// Names of all objects of the bucket.
pub fn s3_keys(network: &Network) -> Result<Vec<String>, Failure> {
    let bucket = format!("s3://{BUCKET}/");
    let text = String::from_utf8(s3cmd(network, &["ls", "--recursive", &bucket])?)?;
    Ok(text.lines().filter_map(|l| l.split_once(&bucket)).map(|(_, key)| key.to_owned()).collect())
}

/// Starts DNS, outside and on the management network, and the web servers of the internet; files below `DIR/www` are served.
pub fn internet(network: &Network, dir: &Path) -> Result<Vec<Process>, Failure> {
    let www = dir.join("www");
    fs::create_dir_all(&www)?;
    fs::write(www.join("index.html"), "a page of the internet\n")?;
    let www = www.to_string_lossy().into_owned();
    let web = |address: &str| network.inet.spawn("busybox", &["httpd", "-f", "-p", address, "-h", &www]);
    let dns = |namespace: &crate::lab::Namespace| {
        let name = format!("--address=/www.example.net/{WEB}");
        let plain =
            ["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"];
        namespace.spawn("dnsmasq", &[&plain[..], &["--user=root", &name]].concat())
    };
    Ok(vec![web(&format!("{WEB}:80")), web("198.51.100.2:81"), dns(&network.inet), dns(&network.store)])
}
