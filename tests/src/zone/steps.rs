//! The zone's main job, step by step, with real input.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::{
    manage::Manage,
    network::{Network, WEB},
    report::{Failure, Report},
    servers,
};

/// The tenant VM of the zone file.
const GUEST: &str = "web1";
/// Its public side.
const PUBLIC: &str = "203.0.113.10";

/// Everything a step may need.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The wires.
    pub network: &'a Network,
    /// The management end.
    pub manage: &'a Manage,
    /// Folder of this run.
    pub dir: &'a Path,
    /// Where screenshots go.
    pub pictures: PathBuf,
}

/// A line `GUEST <what> <value>` of the tenant VM's serial line, waited for.
fn guest_says(scene: &Scene<'_>, what: &str, limit: Duration) -> Result<String, Failure> {
    let log = scene.manage.serial_log(GUEST);
    let start = format!("GUEST {what} ");
    let end = Instant::now() + limit;
    loop {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let found = text
            .lines()
            .rev()
            .find_map(|l| format!("{} ", l.trim_end()).strip_prefix(&start).map(|v| v.trim().to_owned()));
        if let Some(value) = found {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(format!(
                "the guest did not say '{what}' in {} s ({})",
                limit.as_secs(),
                log.display()
            )
            .into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn guest_must(scene: &Scene<'_>, what: &str, wanted: &str) -> Result<String, Failure> {
    let value = guest_says(scene, what, Duration::from_secs(120))?;
    if value == wanted { Ok(value) } else { Err(format!("{what} is '{value}', not '{wanted}'").into()) }
}

/// What a tenant VM gets from its router, and what the firewall lets through.
pub fn router(report: &mut Report, scene: &Scene<'_>) {
    report.check("guest: lease from the router", || guest_must(scene, "lease", "10.1.1.20/24"));
    report.check("guest: host name", || guest_must(scene, "hostname", GUEST));
    report.check("guest: its name in DNS", || guest_must(scene, "name", "10.1.1.20"));
    report.check("guest: data-server in DNS", || guest_must(scene, "data-server", "10.1.1.1"));
    report.check("guest: metadata", || guest_must(scene, "metadata", GUEST));
    report.check("guest: user data", || guest_must(scene, "userdata", "data of the user web1"));
    report.check("guest: password", || guest_must(scene, "password", "s3cret-of-web1"));
    report.check("guest: the password is given once", || {
        guest_says(scene, "password-again", Duration::from_secs(60))
            .and_then(|value| if value.contains("s3cret") { Err("given twice".into()) } else { Ok(value) })
    });
    report.check("guest: a web server by name, through source NAT", || {
        guest_must(scene, "internet", "a page of the internet")
    });
    report.check("guest: egress to another port is blocked", || guest_must(scene, "blocked", "refused"));
    report.check("internet: port forward 8080 reaches the guest", || {
        guest_says(scene, "ready", Duration::from_secs(60))?;
        page(scene.network)
    });
    for (what, url) in [
        ("internet: port forward 8081 without a firewall rule is blocked", format!("http://{PUBLIC}:8081/")),
        ("internet: the router's own ports are closed", format!("http://{PUBLIC}:80/")),
        ("internet: the guest network is not routed", "http://10.1.1.20:80/".to_owned()),
    ] {
        report.check(what, || match fetch(scene.network, &url) {
            Ok(page) => Err(format!("{url} answered '{}'", page.trim()).into()),
            Err(_) => Ok(String::new()),
        });
    }
}

/// The guest's page, through the port forward.
pub(super) fn page(network: &Network) -> Result<String, Failure> {
    let page = fetch(network, &format!("http://{PUBLIC}:8080/"))?;
    if page.trim() == "page of web1" {
        Ok(page.trim().to_owned())
    } else {
        Err(format!("got '{page}'").into())
    }
}

fn fetch(network: &Network, url: &str) -> Result<String, Failure> {
    let out = network.inet.sh(&format!("curl -sS --fail --max-time 4 '{url}'"));
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned().into())
}

/// A template on disk, as a tenant would make it.
struct Template {
    file: PathBuf,
    sha256: String,
    virtual_size: u64,
    physical_size: u64,
}

pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes a real qcow2 of some tens of MB with qemu-img.
fn make_template(scene: &Scene<'_>) -> Result<Template, Failure> {
    let raw = scene.dir.join("template.raw");
    let file = scene.dir.join("www/template.qcow2");
    let mut random = fs::File::open("/dev/urandom")?;
    let mut out = fs::File::create(&raw)?;
    std::io::copy(&mut std::io::Read::take(&mut random, 40 << 20), &mut out)?;
    out.set_len(256 << 20)?;
    let status = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &file])
        .status()?;
    fs::remove_file(&raw)?;
    if !status.success() {
        return Err(format!("qemu-img: {status}").into());
    }
    let bytes = fs::read(&file)?;
    Ok(Template { sha256: hash(&bytes), virtual_size: 256 << 20, physical_size: bytes.len() as u64, file })
}

fn exported(scene: &Scene<'_>) -> PathBuf {
    scene.dir.join("nfs/export")
}

/// Files below a folder with the wanted suffix.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

/// Keys of the bucket.
fn keys(scene: &Scene<'_>) -> Result<Vec<String>, Failure> {
    servers::s3_keys(scene.network)
}

/// Templates by URL into both stores, and a snapshot from one to the other and back.
pub fn storage(report: &mut Report, scene: &Scene<'_>) {
    let Some(template) = report.step("a qcow2 made by qemu-img", || {
        let template = make_template(scene)?;
        let seen = format!("{} bytes, {}", template.physical_size, template.file.display());
        Ok((template, seen))
    }) else {
        return;
    };
    let url = format!("http://{WEB}/template.qcow2");
    for store in ["nfs1", "s3a"] {
        report.check(&format!("template by URL into {store}"), || {
            let done = scene.manage.register(&format!("good-{store}"), &url, &template.sha256, store)?;
            let (size, physical) = (done["size"].as_u64(), done["physical_size"].as_u64());
            if size != Some(template.virtual_size) || physical != Some(template.physical_size) {
                return Err(format!("virtual size {size:?}, physical size {physical:?}: {done}").into());
            }
            let stored = if store == "nfs1" {
                let found = files(&exported(scene), ".qcow2");
                let [file] = found.as_slice() else { return Err(format!("on NFS: {found:?}").into()) };
                fs::read(file)?
            } else {
                let found: Vec<_> = keys(scene)?.into_iter().filter(|k| k.ends_with(".qcow2")).collect();
                let [key] = found.as_slice() else { return Err(format!("in the bucket: {found:?}").into()) };
                servers::s3_object(scene.network, key)?
            };
            if hash(&stored) != template.sha256 {
                return Err("other bytes in the store".into());
            }
            Ok(format!(
                "virtual {} MiB, physical {} bytes, same bytes",
                template.virtual_size >> 20,
                template.physical_size
            ))
        });
        report.check(&format!("a wrong checksum is refused and leaves nothing on {store}"), || {
            let before = (files(&exported(scene), "").len(), keys(scene)?.len());
            let wrong = "0".repeat(64);
            let reason = match scene.manage.register(&format!("bad-{store}"), &url, &wrong, store) {
                Ok(done) => return Err(format!("accepted: {done}").into()),
                Err(reason) => reason.to_string(),
            };
            if (files(&exported(scene), "").len(), keys(scene)?.len()) != before {
                return Err(format!("something was left behind; the refusal was: {reason}").into());
            }
            if reason.to_lowercase().contains("checksum") { Ok(reason) } else { Err(reason.into()) }
        });
    }
    report.check("a snapshot NFS → S3 → NFS keeps its bytes", || {
        let path = exported(scene).join("snapshots/2/7");
        fs::create_dir_all(&path)?;
        let source = path.join("snap-of-web1.qcow2");
        fs::copy(&template.file, &source)?;
        let key = scene.manage.copy_snapshot("nfs1:snapshots/2/7/snap-of-web1.qcow2", "s3a:snapshots/2/7")?;
        if hash(&servers::s3_object(scene.network, &key)?) != template.sha256 {
            return Err(format!("other bytes in object {key}").into());
        }
        let back = scene.manage.copy_snapshot(&format!("s3a:{key}"), "nfs1:snapshots/2/8")?;
        if hash(&fs::read(exported(scene).join(&back))?) != template.sha256 {
            return Err(format!("other bytes came back as {back}").into());
        }
        Ok(format!("object {key}, {} bytes", template.physical_size))
    });
}

/// The guest's console in a browser.
pub fn console(report: &mut Report, scene: &Scene<'_>) {
    report.check("the operator has consoles recorded", || {
        let file = scene.dir.join("console.json");
        fs::write(&file, r#"{"recording": {"vms": ["*"], "session_mib": 8, "total_mib": 32}}"#)?;
        scene.manage.copy("cpvm", false, &file, "/var/cache/cloud/")?;
        Ok(String::new())
    });
    let Some(url) =
        report.step("console URL", || scene.manage.console_url(GUEST, &[]).map(|url| (url, String::new())))
    else {
        return;
    };
    let typed = "hello from the browser";
    let browser = |mode: &str, url: &str, text: &str, picture: &str| -> Result<String, Failure> {
        let exe = std::env::current_exe()?;
        let out = scene
            .network
            .inet
            .command(exe)
            .args([mode, url, text])
            .arg(scene.pictures.join(picture))
            .arg(scene.dir.join(format!("profile-{picture}")))
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        if out.status.success() {
            Ok(said)
        } else {
            Err(format!("{said}{}", String::from_utf8_lossy(&out.stderr)).into())
        }
    };
    report.check("console in Chromium: picture and keyboard", || {
        let seen = browser("browser-console", &url, typed, "console.png")?;
        let got = guest_says(scene, "typed", Duration::from_secs(20))?;
        if got == typed {
            Ok(format!("{seen}, the guest read '{got}'"))
        } else {
            Err(format!("the guest read '{got}'").into())
        }
    });
    report.check("the same console URL again is refused", || {
        browser("browser-refused", &url, "", "refused.png")
    });
    report.check("console-url --view-only: a picture, and no key arrives", || {
        let url = scene.manage.console_url(GUEST, &["--view-only"])?;
        let seen = browser("browser-console", &url, "from one who may only look", "view-only.png")?;
        let got = guest_says(scene, "typed", Duration::from_secs(1))?;
        if got == typed { Ok(seen) } else { Err(format!("the guest read '{got}'").into()) }
    });
    report.check("console-url --picture: a PNG, once", || picture(scene));
    report.check("what the console has shown is recorded, and fetched by scp", || recorded(scene));
}

/// A picture by `curl`, and that its URL is good for one.
fn picture(scene: &Scene<'_>) -> Result<String, Failure> {
    let url = scene.manage.console_url(GUEST, &["--picture"])?;
    let file = scene.pictures.join("thumbnail.png");
    let ask = |out: &Path| {
        scene
            .network
            .inet
            .ok(&format!("curl -sS -m 30 -o {} -w '%{{http_code}}' '{url}&w=320'", out.display()))
    };
    let code = ask(&file);
    let png = fs::read(&file)?;
    let width =
        png.get(16..20).map(|bytes| bytes.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)));
    if code != "200" || !png.starts_with(b"\x89PNG") || width != Some(320) {
        return Err(format!("code {code}, {} bytes, {width:?} pixels wide", png.len()).into());
    }
    match ask(&scene.dir.join("again")).as_str() {
        "403" => Ok(format!("{} bytes, 320 pixels wide", png.len())),
        code => Err(format!("a second time: code {code}").into()),
    }
}

/// The recording of the first console, as the operator gets it.
fn recorded(scene: &Scene<'_>) -> Result<String, Failure> {
    let cpvm = scene.manage.name("cpvm")?;
    let end = Instant::now() + Duration::from_secs(20);
    let place = loop {
        let listed = scene.manage.run(&cpvm, &["recordings"])?;
        let ended = listed.lines().skip(1).find(|line| line.contains(" ended "));
        match ended.and_then(|line| line.rsplit(' ').next()) {
            Some(place) => break place.to_owned(),
            None if Instant::now() > end => return Err(format!("no recording: {listed}").into()),
            None => std::thread::sleep(Duration::from_millis(500)),
        }
    };
    let file = scene.dir.join("console.fbs");
    scene.manage.copy("cpvm", true, &file, &place)?;
    let bytes = fs::read(&file)?;
    if !bytes.starts_with(b"FBS 001.001\n") || bytes.len() < 1000 {
        return Err(format!("{} bytes that are no recording", bytes.len()).into());
    }
    scene.manage.run(&cpvm, &["recordings", "remove", &place])?;
    Ok(format!("{} bytes", bytes.len()))
}
