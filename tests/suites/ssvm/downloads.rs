//! Downloads into a mounted store: what arrives, what is refused, what is left behind.

use std::{fs, sync::Arc};

use common::command::{
    agent::Answer,
    storage::{
        DownloadAnswer, DownloadCommand, DownloadStatus, ImageFormat, ListTemplateAnswer,
        ListTemplateCommand, ResourceType, SecStorageVMSetupCommand, StoreRole,
    },
};

use tests::lab::ssvm::{
    disk, in_lab,
    origin::{Act, Origin},
    read, template, tool,
};

#[test]
fn a_template_is_installed_and_listed() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 24);
        let origin = Origin::start(vec![Act::Serve(read(&image))]).await;
        let sum = tool("sha256sum", &[image.to_str().unwrap()]);
        let sum = format!("{{SHA-256}}{}", sum.split(' ').next().unwrap());
        let mut command = template(
            lab.nfs("a", StoreRole::Image),
            201,
            &format!("{}/disk.qcow2", origin.url),
            ImageFormat::Qcow2,
        );
        command.checksum = Some(sum.clone());
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!((answer.template_size, answer.download_pct), (24 << 20, 100));
        assert_eq!(answer.template_physical_size as u64, fs::metadata(&image).unwrap().len());
        assert_eq!(answer.checksum.as_deref(), Some(sum.as_str()));
        let path = answer.install_path.clone().unwrap();
        assert!(path.starts_with("template/tmpl/2/201/") && path.ends_with(".qcow2"), "{path}");
        let installed = lab.file("a", &path);
        tool(
            "qemu-img",
            &["compare", "-f", "qcow2", "-F", "qcow2", image.to_str().unwrap(), installed.to_str().unwrap()],
        );
        assert_eq!(lab.files("template/tmpl/2/201").len(), 2);
        for file in ["template.properties", installed.file_name().unwrap().to_str().unwrap()] {
            let file = lab.file("a", &format!("template/tmpl/2/201/{file}"));
            assert_eq!(tool("stat", &["-c", "%a", file.to_str().unwrap()]).trim(), "666");
        }
        let list = ListTemplateCommand { store: command.store.clone(), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        let entry = &listed.template_infos["201-2-0b1c2d3e"];
        assert_eq!((entry.install_path.as_str(), entry.id, entry.size), (path.as_str(), 201, 24 << 20));
        assert!(!entry.is_corrupted);
        let job = answer.job_id.unwrap();
        let purged = lab.progress(&command, &job.to_uppercase(), "PURGE").await;
        assert_eq!(purged.install_path.as_deref(), Some(path.as_str()));
        let gone = lab.progress(&command, &job, "GET_STATUS").await;
        assert_eq!((gone.download_status, gone.job_id), (DownloadStatus::Unknown, Some(job)));
    });
}

#[test]
fn every_format_and_compression_arrives_whole() {
    in_lab(async |lab| {
        lab.ready().await;
        let folder = lab.folder.path();
        let archive = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1] + '.zip', 'w', 8); \
            z.write(sys.argv[1], 'image'); z.close()";
        let cases = [
            (ImageFormat::Vhdx, "vhdx", None),
            (ImageFormat::Vdi, "vdi", None),
            (ImageFormat::Vmdk, "vmdk", None),
            (ImageFormat::Qcow2, "qcow2", Some(("gz", "gzip -k"))),
            (ImageFormat::Qcow2, "qcow2", Some(("bz2", "bzip2 -k"))),
            (ImageFormat::Qcow2, "qcow2", Some(("xz", "xz -k -0"))),
            (ImageFormat::Qcow2, "qcow2", Some(("zst", "zstd -q"))),
            (ImageFormat::Qcow2, "qcow2", Some(("zip", "python3 -c \"$ZIP\""))),
            (ImageFormat::Vhdx, "vhdx", Some(("zip", "python3 -c \"$ZIP\""))),
        ];
        for (id, (format, name, packed)) in (240..).zip(cases) {
            let image = disk(folder, name, 4);
            let mut served = image.clone();
            if let Some((ending, words)) = packed {
                served = folder.join(format!("disk.{name}.{ending}"));
                let _ = fs::remove_file(&served);
                tool("sh", &["-c", &format!("ZIP=\"{archive}\"; {words} {}", image.display())]);
            }
            let origin = Origin::start(vec![Act::Serve(read(&served))]).await;
            let url = format!("{}/{}", origin.url, served.file_name().unwrap().to_str().unwrap());
            let command = template(lab.nfs("a", StoreRole::Image), id, &url, format);
            let answer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{url}: {answer:?}");
            assert_eq!(answer.template_size, 4 << 20, "{url}");
            assert_eq!(answer.template_physical_size as u64, fs::metadata(&image).unwrap().len(), "{url}");
            let sum = tool("sha512sum", &[served.to_str().unwrap()]);
            let sum = format!("{{SHA-512}}{}", sum.split(' ').next().unwrap());
            assert_eq!(answer.checksum, Some(sum), "{url}: of the file as it was served");
            let path = answer.install_path.unwrap();
            assert!(path.ends_with(&format!(".{name}")), "{path}");
            assert!(fs::read(lab.file("a", &path)).unwrap() == *read(&image), "{url}");
        }
    });
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 2);
        let hostile = lab.folder.path().join("hostile.qcow2");
        tool(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-u",
                "-b",
                "/etc/passwd",
                "-F",
                "raw",
                hostile.to_str().unwrap(),
                "1G",
            ],
        );
        let text = |head: &str| Act::Raw(format!("{head}\r\nContent-Length: 0\r\n\r\n").into());
        let page = Act::Serve(Arc::new(b"<!DOCTYPE html><html>not an image".repeat(40)));
        let not_qcow2 = "The downloaded file is not a valid QCOW2. Ask the administrator to check the logs for more details.";
        let wrong = "{SHA-256}00";
        let whole = read(&image);
        let half = Arc::new(whole[..whole.len() / 2].to_vec());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", whole.len() / 2);
        let cases: Vec<(Vec<Act>, Option<&str>, &str)> = vec![
            // Half an image, served as if it were whole; a length that is half of what comes; and one that is
            // twice of what ever comes.
            (vec![Act::Serve(Arc::clone(&half))], None, not_qcow2),
            (vec![Act::Raw([head.into_bytes(), whole.to_vec()].concat())], None, not_qcow2),
            (
                vec![Act::Cut(Arc::clone(&whole), 1 << 20), Act::Cut(Arc::clone(&whole), 0)],
                None,
                "incomplete download",
            ),
            (vec![Act::Serve(read(&hostile))], None, not_qcow2),
            (vec![page], None, "Failed to install: Template content is unsupported"),
            (
                vec![Act::Serve(Arc::clone(&whole))],
                Some(wrong),
                "didn't match the given value, \"{SHA-256}00\"",
            ),
            (vec![Act::Endless], None, "Failed to install: Template content is unsupported"),
            (vec![text("HTTP/1.1 404 Not Found")], None, " HTTP Server returned 404 (expected 200 OK) "),
            (
                vec![text("HTTP/1.1 302 Found\r\nLocation: http://203.0.113.1/")],
                None,
                "due to redirection, response code: 302",
            ),
            (
                vec![Act::Raw(b"HTTP/1.0 200 OK\r\n\r\nabc".to_vec())],
                None,
                " Failed to receive length of download ",
            ),
        ];
        for (number, (acts, checksum, expected)) in cases.into_iter().enumerate() {
            let origin = Origin::start(acts).await;
            let id = 300 + i64::try_from(number).unwrap();
            let url = format!("{}/x.qcow2", origin.url);
            let mut command = template(lab.nfs("a", StoreRole::Image), id, &url, ImageFormat::Qcow2);
            command.checksum = checksum.map(str::to_owned);
            let answer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
            let error = answer.error_string.unwrap();
            assert!(error.contains(expected), "{error}");
            assert!(lab.files(&format!("template/tmpl/2/{id}")).is_empty(), "{expected}");
        }
    });
}

#[test]
fn urls_of_tenants_do_not_reach_the_operators_places() {
    in_lab(async |lab| {
        lab.ready().await;
        let try_url = async |url: &str, follow| {
            let mut command = template(lab.nfs("a", StoreRole::Image), 400, url, ImageFormat::Qcow2);
            command.follow_redirects = follow;
            let answer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{url}");
            answer.error_string.unwrap()
        };
        for url in [
            "http://127.0.0.1/x.qcow2",
            "http://169.254.169.254/x.qcow2",
            "http://0.0.0.0/x.qcow2",
            "http://224.0.0.1/x.qcow2",
            "http://10.1.1.5:8250/x.qcow2",
            "http://10.1.1.7/x.qcow2",
            "http://203.0.113.51:80/x.qcow2",
        ] {
            assert_eq!(try_url(url, false).await, "Illegal host specified in URL.", "{url}");
        }
        assert!(try_url("http://[::1]/x.qcow2", false).await.starts_with("IPv6 addresses are not supported"));
        assert_eq!(
            try_url("ftp://203.0.113.1/x.qcow2", false).await,
            "Scheme is not supported ftp://203.0.113.1/x.qcow2"
        );
        let to = |place: &str| {
            Act::Raw(format!("HTTP/1.1 302 x\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n").into())
        };
        for place in
            ["http://169.254.169.254/latest/meta-data", "http://127.0.0.1:8210/", "http://10.1.1.5:8080/"]
        {
            let origin = Origin::start(vec![to(place)]).await;
            assert_eq!(
                try_url(&format!("{}/x.qcow2", origin.url), true).await,
                "Illegal host specified in URL.",
                "{place}"
            );
        }
    });
}

#[test]
fn a_path_outside_the_store_is_refused() {
    in_lab(async |lab| {
        lab.ready().await;
        let origin = Origin::start(vec![Act::Serve(Arc::new(vec![1; 4096]))]).await;
        for path in ["template/tmpl/2/../../../../evil", "../evil/a/b", "etc/cron.d/x", "template"] {
            let url = format!("{}/x.raw", origin.url);
            let mut command = template(lab.nfs("a", StoreRole::Image), 401, &url, ImageFormat::Raw);
            command.install_path = Some(path.into());
            let answer = lab.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{path}: {answer:?}");
        }
        assert!(origin.requests().is_empty());
        assert!(!lab.folder.path().join("evil").exists());
    });
}

#[test]
fn broken_transfers_go_on() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 16);
        let file = read(&image);
        let acts = vec![
            Act::Cut(Arc::clone(&file), 5 << 20),
            Act::Cut(Arc::clone(&file), 3 << 20),
            Act::Serve(Arc::clone(&file)),
        ];
        let origin = Origin::start(acts).await;
        let url = format!("{}/disk.qcow2", origin.url);
        let command = template(lab.nfs("a", StoreRole::Image), 500, &url, ImageFormat::Qcow2);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!(fs::read(lab.file("a", &answer.install_path.unwrap())).unwrap(), *file);
        assert!(origin.requests()[1].contains("if-range: \"v1\""));
    });
}

#[test]
fn a_source_that_falls_silent_is_asked_for_the_rest() {
    in_lab(async |lab| {
        lab.ready().await;
        let file = read(&disk(lab.folder.path(), "qcow2", 3));
        let acts = vec![Act::Stall(Arc::clone(&file), 1 << 20), Act::Serve(Arc::clone(&file))];
        let origin = Origin::start(acts).await;
        let url = format!("{}/disk.qcow2", origin.url);
        let command = template(lab.nfs("a", StoreRole::Image), 501, &url, ImageFormat::Qcow2);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!(fs::read(lab.file("a", &answer.install_path.unwrap())).unwrap(), *file);
        assert!(origin.requests()[1].contains(&format!("range: bytes={}-", 1 << 20)));
    });
}

#[test]
fn a_download_can_be_stopped_and_taken_up_again() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 4);
        let file = read(&image);
        let origin =
            Origin::start(vec![Act::Stall(Arc::clone(&file), 1 << 20), Act::Serve(Arc::clone(&file))]).await;
        let command = template(
            lab.nfs("a", StoreRole::Image),
            600,
            &format!("{}/disk.qcow2", origin.url),
            ImageFormat::Qcow2,
        );
        let first: DownloadAnswer = lab.answer(&command).await;
        let job = first.job_id.unwrap();
        let shown = lab.arrived(&command, &job, 20).await;
        let percent = u8::try_from((100 << 20) / file.len()).unwrap();
        assert_eq!(
            (shown.download_status, shown.download_pct),
            (DownloadStatus::DownloadInProgress, percent)
        );
        assert!(shown.download_path.unwrap().ends_with(&format!("template/tmpl/2/600/dnld{job}tmp_")));
        let stopped = lab.progress(&command, &job, "ABORT").await;
        assert_eq!(stopped.download_status, DownloadStatus::NotDownloaded);
        assert!(lab.files("template/tmpl/2/600").is_empty());
        let again = lab.progress(&command, &job, "RESTART").await;
        assert_eq!(again.job_id.as_deref(), Some(job.as_str()));
        assert_eq!(lab.ended(&command, &job).await.download_status, DownloadStatus::Downloaded);
        let fresh = lab.progress(&command, "jobid0000", "GET_OR_RESTART").await;
        assert!(fresh.job_id.is_some_and(|id| id != job));
    });
}

#[test]
fn a_snapshot_is_taken_as_it_is() {
    in_lab(async |lab| {
        lab.ready().await;
        let delta = lab.folder.path().join("delta");
        tool(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-u",
                "-b",
                "parent",
                "-F",
                "qcow2",
                delta.to_str().unwrap(),
                "1G",
            ],
        );
        let origin = Origin::start(vec![Act::Serve(read(&delta))]).await;
        let mut command = template(
            lab.nfs("a", StoreRole::Image),
            12,
            &format!("{}/51ab_temp", origin.url),
            ImageFormat::Qcow2,
        );
        command.resource_type = ResourceType::Snapshot;
        command.install_path = Some("snapshots/2/31".into());
        command.format = None;
        let answer = lab.download(&command).await;
        assert_eq!(answer.install_path.as_deref(), Some("snapshots/2/31/51ab"), "{answer:?}");
        assert_eq!((answer.template_size, answer.download_status), (0, DownloadStatus::Downloaded));
        assert_eq!(lab.files("snapshots/2/31"), ["51ab"]);
        assert_eq!(*read(&lab.file("a", "snapshots/2/31/51ab")), *read(&delta));
    });
}

#[test]
fn what_cannot_be_begun_is_said_at_once() {
    in_lab(async |lab| {
        lab.ready().await;
        let good =
            template(lab.nfs("a", StoreRole::Image), 410, "http://203.0.113.1/x.qcow2", ImageFormat::Qcow2);
        let nothing = |text: &str| Some(text.to_owned());
        let cases = [
            (
                DownloadCommand { checksum: nothing("{FOO}abc"), ..good.clone() },
                DownloadStatus::NotDownloaded,
                "invalid algorithm: {FOO}abc",
            ),
            (
                DownloadCommand { url: None, ..good.clone() },
                DownloadStatus::DownloadError,
                "TEMPLATE is corrupted on storage due to an invalid url , cannot download",
            ),
            (
                DownloadCommand { name: nothing(" "), ..good.clone() },
                DownloadStatus::DownloadError,
                "Invalid Name",
            ),
        ];
        for (command, status, text) in cases {
            let answer: DownloadAnswer = lab.answer(&command).await;
            assert_eq!((answer.download_status, answer.error_string.as_deref()), (status, Some(text)));
        }
        assert_eq!(lab.files("template/tmpl/2/410"), [""; 0]);
    });
}

#[test]
fn an_internal_site_is_reached_once_it_is_allowed() {
    in_lab(async |lab| {
        lab.ready().await;
        let file = read(&disk(lab.folder.path(), "qcow2", 1));
        let origin = Origin::start_at("10.1.1.7", vec![Act::Serve(Arc::clone(&file))]).await;
        let url = format!("{}/disk.qcow2", origin.url);
        let command = template(lab.nfs("a", StoreRole::Image), 420, &url, ImageFormat::Qcow2);
        let refused = lab.download(&command).await;
        assert_eq!(refused.error_string.as_deref(), Some("Illegal host specified in URL."));
        assert!(origin.requests().is_empty());
        let sites = SecStorageVMSetupCommand {
            allowed_internal_sites: vec!["10.1.1.7/32".into()],
            ..Default::default()
        };
        assert!(lab.answer::<_, Answer>(&sites).await.answer.result);
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
    });
}

#[test]
fn a_volume_is_brought_with_its_properties() {
    in_lab(async |lab| {
        lab.ready().await;
        let image = disk(lab.folder.path(), "qcow2", 1);
        let origin = Origin::start(vec![Act::Serve(read(&image))]).await;
        let url = format!("{}/disk.qcow2", origin.url);
        let mut command = template(lab.nfs("a", StoreRole::Image), 77, &url, ImageFormat::Qcow2);
        command.resource_type = ResourceType::Volume;
        command.install_path = Some("volumes/2/77".into());
        let sum = tool("md5sum", &[image.to_str().unwrap()]);
        let sum = sum.split(' ').next().unwrap().to_owned();
        command.checksum = Some(sum.clone());
        let answer = lab.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        assert_eq!(answer.checksum, Some(format!("{{MD5}}{sum}")));
        let path = answer.install_path.unwrap();
        assert!(path.starts_with("volumes/2/77/") && *read(&lab.file("a", &path)) == *read(&image));
        let text = fs::read_to_string(lab.file("a", "volumes/2/77/volume.properties")).unwrap();
        for line in [&*format!("checksum={sum}"), "id=77", "qcow2=true", "virtualsize=1048576"] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    });
}
