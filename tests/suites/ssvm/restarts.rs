//! Processes that are killed in the middle of a download: the job goes on or fails with a cause, and
//! nothing of it is left but what it was to bring.

use std::{fs, sync::Arc};

use common::{
    command::storage::{
        DataStoreTO, DownloadAnswer, DownloadCommand, DownloadStatus, ImageFormat, StoreRole,
    },
    paths::Paths,
};

use tests::lab::ssvm::{
    Lab, disk,
    fate::{Step, befall},
    in_lab, in_lab_with_s3,
    origin::{Act, Origin},
    read, template, tool,
};

/// Bytes that arrive before the source falls silent.
const FIRST: usize = 9 << 20;

/// Begins a download whose source falls silent half-way; the next request is answered by `then`.
async fn half_way(
    lab: &Lab,
    store: DataStoreTO,
    id: i64,
    then: impl FnOnce(&Arc<Vec<u8>>) -> Act,
) -> (DownloadCommand, String, Arc<Vec<u8>>, Origin) {
    let file = read(&disk(lab.folder.path(), "qcow2", 16));
    let origin = Origin::start(vec![Act::Stall(Arc::clone(&file), FIRST), then(&file)]).await;
    let url = format!("{}/disk.qcow2", origin.url);
    let command = template(store, id, &url, ImageFormat::Qcow2);
    let first: DownloadAnswer = lab.answer(&command).await;
    let job = first.job_id.unwrap();
    lab.arrived(&command, &job, 50).await;
    let joined: DownloadAnswer = lab.answer(&command).await;
    assert_eq!(joined.job_id.as_deref(), Some(job.as_str()), "a repeated command joins the job");
    (command, job, file, origin)
}

/// The job has brought the whole image under its name, and nothing else is in the folder.
async fn whole(lab: &Lab, command: &DownloadCommand, job: &str, file: &[u8]) {
    let answer = lab.ended(command, job).await;
    assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
    assert_eq!(answer.job_id.as_deref(), Some(job));
    let folder = format!("template/tmpl/2/{}", command.id);
    let name = format!("{job}.qcow2");
    assert_eq!(answer.install_path, Some(format!("{folder}/{name}")));
    let mut expected = [name, "template.properties".to_owned()];
    expected.sort();
    assert_eq!(lab.files(&folder), expected);
    assert!(fs::read(lab.file("a", &answer.install_path.unwrap())).unwrap() == file);
}

/// The second request asked for the rest of the same file, and not for much of what had come.
fn goes_on(origin: &Origin) {
    let requests = origin.requests();
    let rest =
        requests[1].split("range: bytes=").nth(1).and_then(|r| r.split('-').next()?.parse::<usize>().ok());
    assert!(rest.is_some_and(|from| (FIRST - (4 << 20)..=FIRST).contains(&from)), "{requests:?}");
    assert!(requests[1].contains("if-range: \"v1\""), "{requests:?}");
}

#[test]
fn another_file_is_not_gone_on_with() {
    in_lab(async |mut lab| {
        lab.ready().await;
        let other = read(&disk(lab.folder.path(), "qcow2", 5));
        let changed = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v2\"\r\n\r\n", other.len());
        let changed = Act::Raw([changed.as_bytes(), &other].concat());
        let (command, job, ..) = half_way(&lab, lab.nfs("a", StoreRole::Image), 705, |_| changed).await;
        lab.restart_serve();
        whole(&lab, &command, &job, &other).await;
    });
}

#[test]
fn serve_dies() {
    in_lab(async |mut lab| {
        lab.ready().await;
        let store = lab.nfs("a", StoreRole::Image);
        let (command, job, file, origin) =
            half_way(&lab, store, 701, |file| Act::Serve(Arc::clone(file))).await;
        lab.restart_serve();
        whole(&lab, &command, &job, &file).await;
        goes_on(&origin);
    });
}

#[test]
fn core_dies() {
    in_lab(async |mut lab| {
        lab.ready().await;
        let store = lab.nfs("a", StoreRole::Image);
        let (command, job, file, origin) =
            half_way(&lab, store, 702, |file| Act::Serve(Arc::clone(file))).await;
        lab.restart_core().await;
        whole(&lab, &command, &job, &file).await;
        goes_on(&origin);
        // The result outlives another restart.
        lab.restart_core().await;
        whole(&lab, &command, &job, &file).await;
    });
}

#[test]
fn both_die_and_the_source_has_gone() {
    in_lab(async |mut lab| {
        lab.ready().await;
        let gone = |_: &_| Act::Raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        let (command, job, ..) = half_way(&lab, lab.nfs("a", StoreRole::Image), 703, gone).await;
        lab.restart_serve();
        lab.restart_core().await;
        let answer = lab.ended(&command, &job).await;
        assert_eq!(answer.download_status, DownloadStatus::DownloadError, "{answer:?}");
        assert_eq!(answer.error_string.as_deref(), Some(" HTTP Server returned 404 (expected 200 OK) "));
        assert_eq!(lab.files("template/tmpl/2/703"), [""; 0]);
    });
}

#[test]
fn serve_dies_with_parts_in_an_object_store() {
    in_lab_with_s3(async |mut lab| {
        lab.ready().await;
        let (command, job, file, origin) =
            half_way(&lab, lab.s3(), 704, |file| Act::Serve(Arc::clone(file))).await;
        let journal = Paths::below(lab.folder.path()).state("ssvm").join("jobs");
        tool(
            "sh",
            &["-c", &format!("until grep -qs '\"upload\"' {}/*; do sleep 0.1; done", journal.display())],
        );
        // What is in the bucket outlives a restart of the machine, too.
        lab.restart_serve();
        lab.restart_core().await;
        let answer = lab.ended(&command, &job).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        let key = answer.install_path.unwrap();
        assert_eq!(key, "template/tmpl/2/704/704-2-0b1c2d3e/disk.qcow2");
        assert!(lab.s3_object(&key) == *file);
        let requests = origin.requests();
        assert!(
            requests[1].contains("range: bytes=8388608-") && requests[1].contains("if-range: \"v1\""),
            "{requests:?}"
        );
        assert_eq!(requests.len(), 3, "the rest, and the beginning for the inspection: {requests:?}");
        assert!(lab.s3_uploads().is_empty(), "no parts stay behind");
        assert_eq!(lab.s3_keys(), [key]);
    });
}

#[test]
fn whatever_befalls_a_download_there_is_one_whole_object_or_none() {
    befall(
        false,
        &[
            Step::Wait(400),
            Step::KillServe,
            Step::Repeat,
            Step::KillCore,
            Step::Abort,
            Step::Repeat,
            Step::KillServe,
        ],
    );
    befall(
        true,
        &[Step::Wait(900), Step::KillServe, Step::KillCore, Step::Wait(600), Step::Restart, Step::KillServe],
    );
}
