//! Puts the console page into the binary: the files of `page/site` and, below a folder that names its version, the
//! VNC client that `page/fetch` gets. Writes `assets.rs` with the list of them.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    let page = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("page");
    for watched in ["site", "vendor", "novnc.lock", "fetch"] {
        println!("cargo:rerun-if-changed={}", page.join(watched).display());
    }
    let lock = fs::read_to_string(page.join("novnc.lock"))?;
    let version = value(&lock, "version").ok_or("page/novnc.lock has no version")?;
    let integrity = value(&lock, "integrity").ok_or("page/novnc.lock has no integrity")?;
    let client = page.join("vendor").join(format!("novnc-{version}"));
    if !fs::read_to_string(client.join(".integrity")).is_ok_and(|had| had.trim() == integrity) {
        let fetched = Command::new(page.join("fetch")).status();
        if !fetched.is_ok_and(|status| status.success()) {
            return Err(
                "cpvm/page/fetch failed: it needs bash, curl, tar and the npm registry (see its message)"
                    .into(),
            );
        }
    }

    let mut list = String::from("&[\n");
    for (name, path) in files(&page.join("site"))? {
        entry(&mut list, &name, &path, false)?;
    }
    let folder = format!("novnc-{version}");
    for part in ["core", "vendor"] {
        for (name, path) in files(&client.join(part))? {
            if name.ends_with(".js") {
                entry(&mut list, &format!("{folder}/{part}/{name}"), &path, true)?;
            }
        }
    }
    entry(&mut list, &format!("{folder}/LICENSE.txt"), &client.join("LICENSE.txt"), true)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let module = out.join("novnc.js");
    fs::write(&module, format!("export {{ default }} from \"./{folder}/core/rfb.js\";\n"))?;
    entry(&mut list, "novnc.js", &module, false)?;
    list.push_str("]\n");
    fs::write(out.join("assets.rs"), list)?;
    Ok(())
}

fn value<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    lock.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn entry(list: &mut String, name: &str, path: &Path, versioned: bool) -> std::fmt::Result {
    writeln!(list, "    ({name:?}, {versioned}, include_bytes!({path:?})),")
}

/// All files below a folder, by their path relative to it, in order.
fn files(root: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder)? {
            let path = item?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root)?.to_str().ok_or("a file name is not UTF-8")?.to_owned();
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}
