//! What the VM serves: links, copies for other VMs, uploads.

use std::fs;

use common::command::{
    Secret,
    agent::Answer,
    storage::{
        CreateEntityDownloadURLAnswer, CreateEntityDownloadURLCommand, DeleteEntityDownloadURLCommand,
        ListTemplateAnswer, ListTemplateCommand, PortConfig, SecStorageFirewallCfgCommand,
        SecStorageSetupAnswer, SecStorageSetupCommand, SecStorageVMSetupCommand, StoreRole, UploadStatus,
    },
};
use tests::{
    lab::wait_tcp,
    zone::browser::{driver, open_with},
};

use tests::lab::ssvm::{
    LIMIT, Lab, WEB, disk, in_lab,
    origin::{Act, Origin},
    tool,
};

use super::browser::{Upload, VM, get};

/// Name of the first export's mount folder.
const MOUNT: &str = "cf09654f-527c-35d9-b18c-7b044f35fe9b";

async fn ready(lab: &Lab) {
    lab.ready().await;
    for port in [80, 443] {
        wait_tcp(format!("{VM}:{port}").parse().unwrap(), LIMIT);
    }
}

/// Puts a file into the export that only root may read, as a hypervisor may.
fn put(lab: &Lab, path: &str, content: &str) {
    let file = lab.file("a", path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, content).unwrap();
    tool("chmod", &["600", file.to_str().unwrap()]);
}

#[test]
fn a_link_is_good_until_it_is_taken_away() {
    in_lab(async |mut lab| {
        ready(&lab).await;
        put(&lab, "volumes/2/7/x.qcow2", "0123456789");
        let link = |path: &str, folder: Option<&str>, name: &str| CreateEntityDownloadURLCommand {
            parent: Some(MOUNT.into()),
            install_path: Some(path.into()),
            file_name: Some(name.into()),
            file_path: folder.map(str::to_owned),
            ..Default::default()
        };
        let good = link("volumes/2/7/x.qcow2", Some("5e77-uuid"), "my-disk.qcow2");
        let answer: CreateEntityDownloadURLAnswer = lab.answer(&good).await;
        assert!(answer.answer.result && answer.answer.details.as_deref() == Some(""), "{answer:?}");
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{VM}/userdata/5e77-uuid/my-disk.qcow2");
            let page = get(&lab, &[], &url);
            assert_eq!((page.status, page.text().as_str()), (200, "0123456789"), "{}", lab.serve.output());
            assert!(
                page.head.contains("content-length: 10") && page.head.contains("nosniff"),
                "{}",
                page.head
            );
            let part = get(&lab, &["-r", "2-4"], &url);
            assert_eq!((part.status, part.text().as_str()), (206, "234"));
            assert!(part.head.contains("content-range: bytes 2-4/10"));
            let head = get(&lab, &["-I"], &url);
            assert!(head.status == 200 && head.head.contains("content-length: 10"), "{}", head.head);
            assert_eq!(get(&lab, &["-X", "POST"], &url).status, 405);
        }
        let page = |path: &str| get(&lab, &["--path-as-is"], &format!("http://{VM}{path}")).status;
        for nothing in [
            "/",
            "/userdata/",
            "/userdata/5e77-uuid",
            "/userdata/5e77-uuid/",
            "/userdata/../../etc/passwd",
            "/%ff",
        ] {
            assert_eq!(page(nothing), 404, "{nothing}");
        }
        for (bad, text) in [
            (link("volumes/2/7/y.qcow2", Some("u"), "n"), "Error in finding the file /mnt/SecStorage/"),
            (link("volumes/2/7", Some("u"), "n"), "Error in finding the file"),
            (link("../../../etc/hostname", Some("u"), "n"), "is refused"),
            (link("volumes/2/7/x.qcow2", Some("u"), "a/b"), "Error in linking"),
            (link("volumes/2/7/x.qcow2", Some(".."), "n"), "Error in linking"),
        ] {
            let answer: CreateEntityDownloadURLAnswer = lab.answer(&bad).await;
            let details = answer.answer.details.unwrap();
            assert!(!answer.answer.result && details.contains(text), "{details}");
        }
        // Both processes may go; the link stays.
        lab.restart_core().await;
        lab.restart_serve();
        wait_tcp(format!("{VM}:80").parse().unwrap(), LIMIT);
        let url = format!("http://{VM}/userdata/5e77-uuid/my-disk.qcow2");
        tests::lab::wait_until("the link", LIMIT, || get(&lab, &[], &url).status == 200);

        put(&lab, "snapshots/2/7/51ab_temp", "x");
        put(&lab, "snapshots/2/7/51ab", "x");
        let delete = |kind: &str, path: &str, url: &str| DeleteEntityDownloadURLCommand {
            path: Some(path.into()),
            extract_url: Some(url.into()),
            kind: Some(kind.into()),
            parent_path: Some(MOUNT.into()),
            ..Default::default()
        };
        let snapshot = delete("SNAPSHOT", "snapshots/2/7/51ab", "http://x/userdata/a/b");
        assert!(lab.answer::<_, Answer>(&snapshot).await.answer.result);
        assert_eq!(lab.files("snapshots/2/7"), ["51ab"]);
        assert_eq!(get(&lab, &[], &url).status, 200, "another link was taken away");
        let template = delete("TEMPLATE", "volumes/2/7/x.qcow2", &url);
        assert!(lab.answer::<_, Answer>(&template).await.answer.result);
        assert_eq!(get(&lab, &[], &url).status, 404);
        assert_eq!(lab.files("volumes/2/7"), ["x.qcow2"]);
        let volume = delete("VOLUME", "volumes/2/7/x.qcow2", &url);
        assert!(lab.answer::<_, Answer>(&volume).await.answer.result);
        assert_eq!(lab.files("volumes/2/7"), [""; 0]);
    });
}

#[test]
fn copies_are_for_peers_alone() {
    in_lab(async |lab| {
        ready(&lab).await;
        put(&lab, "template/tmpl/2/9/x.iso", "0123456789");
        put(&lab, "template/tmpl/2/9/.htaccess", "x");
        put(&lab, "template/tmpl/2/9/dnld1tmp_", "x");
        tool("chmod", &["-R", "a+rX", lab.file("a", "template").to_str().unwrap()]);
        std::os::unix::fs::symlink("/etc/hostname", lab.file("a", "template/tmpl/2/9/link")).unwrap();
        let ask = |from: &str, path: &str| {
            let url = format!("http://{VM}/copy/{path}");
            get(&lab, &["--path-as-is", "--interface", from], &url)
        };
        let good = format!("SecStorage/{MOUNT}/template/tmpl/2/9/x.iso");
        assert_eq!(ask(WEB, &good).status, 403, "closed until the first list comes");
        let peers = SecStorageFirewallCfgCommand {
            port_configs: vec![PortConfig { add: true, source_ip: Some(WEB.into()), ..Default::default() }],
            ..Default::default()
        };
        assert!(lab.answer::<_, Answer>(&peers).await.answer.result);
        tests::lab::wait_until("the list", LIMIT, || ask(WEB, &good).status == 200);
        assert_eq!(ask(WEB, &good).text(), "0123456789");
        assert_eq!(ask("10.1.1.7", &good).status, 403);
        // What asks for a login holds nothing, and no other place asks for one.
        assert_eq!(ask(WEB, "template/").status, 401, "no login is known");
        let login = SecStorageVMSetupCommand {
            copy_user_name: Some("cloud".into()),
            copy_password: Some(Secret::new("pass:word")),
            ..Default::default()
        };
        assert!(lab.answer::<_, Answer>(&login).await.answer.result);
        let with = |login: &str| {
            let words = ["-u", login, "--interface", WEB];
            get(&lab, &words, &format!("http://{VM}/copy/template/x"))
        };
        tests::lab::wait_until("the login", LIMIT, || with("cloud:pass:word").status == 404);
        let refused = with("cloud:other");
        assert!(refused.status == 401 && refused.head.contains("www-authenticate: basic realm="));
        for text in [lab.core.output(), lab.serve.output()] {
            assert!(!text.contains("pass:word"));
        }
        let folder = format!("SecStorage/{MOUNT}/template/tmpl/2/9");
        for nothing in [
            format!("{folder}/.htaccess"),
            format!("{folder}/dnld1tmp_"),
            format!("{folder}/link"),
            folder.clone(),
            format!("{folder}/../9/x.iso"),
            format!("SecStorage/{MOUNT}/..%2f..%2fetc%2fpasswd"),
            "SecStorage/other/template/tmpl/2/9/x.iso".into(),
            "SecStorage/../../etc/passwd".into(),
        ] {
            assert_eq!(ask(WEB, &nothing).status, 404, "{nothing}");
        }
    });
}

#[test]
fn an_upload_is_installed_once() {
    in_lab(async |lab| {
        ready(&lab).await;
        let image = disk(lab.folder.path(), "qcow2", 8);
        let upload = Upload::new(801, "QCOW2");
        assert_eq!(upload.status(&lab).await.status, UploadStatus::Unknown);
        let options = get(&lab, &["-X", "OPTIONS"], &upload.url());
        assert!(options.status == 200 && options.body.is_empty());
        assert!(options.head.contains("access-control-allow-origin: *"), "{}", options.head);
        assert!(options.head.contains("x-signature, x-metadata, x-expires"), "{}", options.head);
        let plain = get(&lab, &["-X", "OPTIONS"], &upload.url().replace("https", "http"));
        assert_eq!(plain.status, 404, "uploads come by https");

        let sum = tool("sha256sum", &[image.to_str().unwrap()]);
        let sum = format!("{{SHA-256}}{}", sum.split(' ').next().unwrap());
        let upload = upload.with("checksum", sum);
        assert_eq!(upload.send(&lab, &image), (200, "upload successful.".into()), "{}", lab.serve.output());
        for _ in 0..2 {
            let answer = upload.status(&lab).await;
            assert_eq!((answer.status, answer.download_percent), (UploadStatus::Completed, 100));
            assert_eq!(answer.virtual_size, 8 << 20);
            assert_eq!(answer.physical_size as u64, fs::metadata(&image).unwrap().len());
            let installed = lab.file("a", answer.install_path.as_deref().unwrap());
            assert!(fs::read(installed).unwrap() == fs::read(&image).unwrap());
        }
        let list = ListTemplateCommand { store: Some(lab.nfs("a", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        let entry = &listed.template_infos["801-2-up"];
        assert_eq!((entry.id, entry.size, entry.is_corrupted), (801, 8 << 20, false));
        assert_eq!(Some(&entry.install_path), upload.status(&lab).await.install_path.as_ref());
        let again = "The one time post url is already used and the upload is in COMPLETED state.";
        assert_eq!(upload.send(&lab, &image), (400, again.into()));
        assert_eq!(lab.files("template/tmpl/2/801").len(), 2);

        // A compressed ISO has the name of its upload.
        let iso = lab.folder.path().join("x.iso.gz");
        let mut content = vec![0; 65536];
        content[32769..32774].copy_from_slice(b"CD001");
        fs::write(iso.with_extension(""), &content).unwrap();
        tool("gzip", &["-k", iso.with_extension("").to_str().unwrap()]);
        let upload = Upload::new(802, "ISO");
        assert_eq!(upload.send(&lab, &iso), (200, "upload successful.".into()));
        let path = upload.status(&lab).await.install_path.unwrap();
        assert_eq!(path, format!("template/tmpl/2/802/{}.iso", upload.uuid));
        assert!(fs::read(lab.file("a", &path)).unwrap() == content);
    });
}

#[test]
fn uploads_that_are_refused() {
    in_lab(async |lab| {
        ready(&lab).await;
        let image = disk(lab.folder.path(), "qcow2", 2);
        let hostile = lab.folder.path().join("h.qcow2");
        let words = ["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"];
        tool("qemu-img", &[&words[..], &[hostile.to_str().unwrap(), "1G"]].concat());
        put(&lab, "template/tmpl/2/815/x", "x");

        // Requests that are not signed change nothing, whatever else they say.
        let genuine = Upload::new(810, "QCOW2");
        let mut forged = Upload::new(810, "QCOW2");
        forged.signature = Some("AAAAAAAAAAAAAAAAAAAAAAAAAAA=".into());
        let mut other_key = Upload::new(810, "QCOW2");
        other_key.key = "another key";
        for upload in [&forged, &other_key] {
            assert_eq!(upload.send(&lab, &image), (400, "signature validation failed.".into()));
        }
        let bare = get(&lab, &["-F", "x=y"], &genuine.url());
        assert_eq!(
            (bare.status, bare.text().as_str()),
            (400, "signature, metadata and expires are compulsory fields.")
        );
        assert!(bare.head.contains("access-control-allow-origin: *"), "{}", bare.head);
        let read = get(&lab, &[], &genuine.url());
        assert_eq!((read.status, read.text().as_str()), (400, "only post requests are allowed"));
        assert_eq!(genuine.status(&lab).await.status, UploadStatus::Unknown);
        assert_eq!(genuine.send(&lab, &image).0, 200, "the genuine one is not harmed");

        let mut late = Upload::new(811, "QCOW2");
        late.expires = "2020-01-01T00:00:00.000Z".into();
        assert_eq!(late.send(&lab, &image), (400, "request not valid anymore.".into()));
        let used = Upload::new(815, "QCOW2");
        assert_eq!(used.send(&lab, &image), (400, "The one time post url is already used".into()));
        let away = Upload::new(816, "QCOW2").with("absolutePath", "template/tmpl/2/../../../../evil");
        assert_eq!(away.send(&lab, &image), (400, "unable decode and deserialize metadata.".into()));
        let named = |name: &str, from: &std::path::Path| {
            let file = lab.folder.path().join(name);
            fs::copy(from, &file).unwrap();
            file
        };
        let passwd = lab.folder.path().join("etc/passwd");
        let (img, vmdk) = (named("x.img", &passwd), named("x.vmdk", &image));
        let sent = "File type mismatch between the sent file and the actual content. Received: ";
        let chosen = "File type mismatch between uploaded file and selected format. Selected file format: ";
        for (id, format, file, status, text) in [
            (820, "QCOW2", &hostile, 500, "The uploaded file is not a valid QCOW2. Ask the administrator"),
            (821, "RAW", &image, 500, &*format!("{chosen}RAW. Received: QEMU QCOW Image")),
            (822, "QCOW2", &passwd, 400, &*format!("{sent}data")),
            (827, "QCOW2", &img, 500, &*format!("{chosen}QCOW2. Received: data")),
            (828, "QCOW2", &vmdk, 400, &*format!("{sent}QEMU QCOW Image")),
            (829, "VMDK", &vmdk, 400, &*format!("{sent}QEMU QCOW Image")),
        ] {
            let upload = Upload::new(id, format);
            let (got, said) = upload.send(&lab, file);
            assert!(got == status && said.contains(text), "{got}: {said}");
            let answer = upload.status(&lab).await;
            assert_eq!((answer.status, answer.answer.result), (UploadStatus::Error, false));
            assert!(answer.answer.details.unwrap().contains(text));
            assert_eq!(lab.files(&format!("template/tmpl/2/{id}")), [""; 0]);
        }
        let wrong = Upload::new(823, "QCOW2").with("checksum", "{MD5}00000000000000000000000000000000");
        let (status, said) = wrong.send(&lab, &image);
        assert!(status == 500 && said.contains("didn't match the given value"), "{said}");
        let bomb = lab.folder.path().join("bomb.raw.gz");
        let words = format!("head -c 1200M /dev/zero | gzip -1 > {}", bomb.display());
        tool("sh", &["-c", &words]);
        let (status, said) = Upload::new(824, "RAW").send(&lab, &bomb);
        assert!(status == 500 && said.contains("Maximum file upload size exceeded"), "{said}");
        assert_eq!(lab.files("template/tmpl/2/824"), [""; 0]);
        let full = Upload::new(825, "QCOW2").with("defaultMaxSecondaryStorageInGB", 1);
        let (status, said) = full.send(&lab, &image);
        assert!(status == 400 && said.contains("type secondary_storage"), "{said}");
        let note = get(&lab, &["-X", "POST", "-d", "x"], &Upload::new(826, "QCOW2").url());
        assert_eq!(note.status, 400);
        for (id, words, status, text) in [
            (846, &["-F", "note=x"][..], 422, "received entity is not a file"),
            (
                847,
                &["-X", "POST", "-H", "content-length: 3000000000", "-d", "x"],
                400,
                "Maximum file upload size exceeded. Content Length received: 3GB. Maximum allowed size: 1GB.",
            ),
        ] {
            let upload = Upload::new(id, "QCOW2");
            let headers: Vec<String> = upload
                .headers()
                .into_iter()
                .flat_map(|(name, value)| ["-H".into(), format!("{name}: {value}")])
                .collect();
            let words: Vec<&str> = words.iter().copied().chain(headers.iter().map(String::as_str)).collect();
            let page = get(&lab, &words, &upload.url());
            assert_eq!((page.status, page.text().as_str()), (status, text));
            assert_eq!(upload.status(&lab).await.status, UploadStatus::Error);
        }
        assert!(!lab.serve.output().contains(super::browser::KEY));
    });
}

#[test]
fn a_browser_uploads_from_the_page_of_another_site() {
    in_lab(async |lab| {
        ready(&lab).await;
        let page =
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 17\r\n\r\n<title>ui</title>";
        let origin = Origin::start(vec![Act::Raw(page.into())]).await;
        let _driver = driver().unwrap();
        let client = open_with(&lab.folder.path().join("profile"), true).await.unwrap();
        client.goto(&origin.url).await.unwrap();
        let upload = Upload::new(841, "RAW");
        let headers: serde_json::Map<_, _> =
            upload.headers().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        // Headers of one's own make the browser ask first whether it may.
        let script = "const [url, headers, done] = arguments; const form = new FormData(); \
            form.append('files[]', new Blob([new Uint8Array(4 << 20).fill(7)]), 'disk.raw'); \
            fetch(url, { method: 'POST', headers, body: form }) \
                .then(async (r) => done([r.status, await r.text()])).catch((e) => done([0, String(e)]))";
        let words = vec![upload.url().into(), headers.into()];
        let answer = client.execute_async(script, words).await.unwrap();
        assert_eq!(answer, serde_json::json!([200, "upload successful."]), "{}", lab.serve.output());
        client.close().await.unwrap();
        let path = upload.status(&lab).await.install_path.unwrap();
        assert!(fs::read(lab.file("a", &path)).unwrap() == vec![7; 4 << 20]);
    });
}

#[test]
fn uploads_that_break() {
    in_lab(async |mut lab| {
        ready(&lab).await;
        let image = disk(lab.folder.path(), "qcow2", 24);
        let broken = "file receive failed or connection closed prematurely.";

        let left = Upload::new(831, "QCOW2");
        let mut browser = left.begin(&lab, &image, "2M");
        left.under_way(&lab).await;
        assert!(lab.files("template/tmpl/2/831")[0].starts_with("dnld"));
        browser.kill();
        let answer = left.until(&lab, |a| a.status == UploadStatus::Error).await;
        assert_eq!(answer.answer.details.as_deref(), Some(broken));
        assert_eq!(lab.files("template/tmpl/2/831"), [""; 0]);

        // The core may go; the upload goes on.
        let lasting = Upload::new(832, "QCOW2");
        let mut browser = lasting.begin(&lab, &image, "8M");
        lasting.under_way(&lab).await;
        lab.restart_core().await;
        browser.wait_line("200", LIMIT);
        let answer = lasting.until(&lab, |a| a.status == UploadStatus::Completed).await;
        assert!(fs::read(lab.file("a", &answer.install_path.unwrap())).unwrap() == fs::read(&image).unwrap());

        // With serve the upload goes, and nothing is left of it.
        let lost = Upload::new(833, "QCOW2");
        let _browser = lost.begin(&lab, &image, "2M");
        lost.under_way(&lab).await;
        lab.restart_serve();
        let answer = lost.until(&lab, |a| a.status == UploadStatus::Error).await;
        assert_eq!(answer.answer.details.as_deref(), Some(broken));
        tests::lab::wait_until("an empty folder", LIMIT, || lab.files("template/tmpl/2/833").is_empty());
        lab.restart_core().await;
        assert_eq!(lost.status(&lab).await.status, UploadStatus::Error);
        assert_eq!(lasting.status(&lab).await.status, UploadStatus::Completed);
    });
}

#[test]
fn volumes_come_many_at_once_and_by_http_where_that_is_said() {
    in_lab(async |mut lab| {
        ready(&lab).await;
        lab.restart_with("useHttpsToUpload=false").await;
        let by_https = Upload::new(900, "QCOW2");
        let options = |url: &str| get(&lab, &["-X", "OPTIONS"], url).status;
        let plain = by_https.url().replace("https", "http");
        tests::lab::wait_until("uploads by http", LIMIT, || options(&plain) == 200);
        assert_eq!(by_https.send(&lab, &disk(lab.folder.path(), "qcow2", 1)).0, 404);

        let mut sent = Vec::new();
        for id in 901..909_i64 {
            let file = lab.folder.path().join(format!("{id}.raw"));
            fs::write(&file, vec![u8::try_from(id - 900).unwrap(); 3 << 20]).unwrap();
            let (program, prefix) = if id % 2 == 0 { ("md5sum", "") } else { ("sha256sum", "{SHA-256}") };
            let sum = tool(program, &[file.to_str().unwrap()]);
            let sum = format!("{prefix}{}", sum.split(' ').next().unwrap());
            let mut upload = Upload::new(id, "RAW")
                .with("type", "VOLUME")
                .with("absolutePath", format!("volumes/2/{id}"))
                .with("checksum", sum);
            upload.scheme = "http";
            sent.push((upload, file));
        }
        let mut browsers: Vec<_> = sent.iter().map(|(upload, file)| upload.begin(&lab, file, "2M")).collect();
        for browser in &mut browsers {
            browser.wait_line("200", LIMIT);
        }
        for (upload, file) in &sent {
            let answer = upload.until(&lab, |a| a.status == UploadStatus::Completed).await;
            let path = answer.install_path.unwrap();
            let folder = path.rsplit_once('/').unwrap().0;
            assert!(fs::read(lab.file("a", &path)).unwrap() == fs::read(file).unwrap(), "{path}");
            assert_eq!(lab.files(folder).len(), 2, "{path}");
            let properties =
                fs::read_to_string(lab.file("a", &format!("{folder}/volume.properties"))).unwrap();
            assert!(properties.lines().any(|line| line.starts_with("checksum=")), "{properties}");
        }

        // Another key is in force at once.
        let set_up = SecStorageSetupCommand { post_upload_key: Some(Secret::new("next")), ..lab.set_up("a") };
        let _: SecStorageSetupAnswer = lab.answer(&set_up).await;
        let with = |id, key| {
            let mut upload = Upload::new(id, "RAW");
            (upload.scheme, upload.key) = ("http", key);
            upload.send(&lab, &sent[0].1)
        };
        tests::lab::wait_until("the key", LIMIT, || with(910, super::browser::KEY).0 == 400);
        assert_eq!(with(911, "next"), (200, "upload successful.".into()));
    });
}
