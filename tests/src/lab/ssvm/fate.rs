//! A download whose processes are killed again and again, while its command is repeated, stopped and taken up.

use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::command::storage::{DownloadAnswer, DownloadCommand, ImageFormat, StoreRole};

use super::{
    LIMIT, Lab, disk, in_lab, in_lab_with_s3,
    origin::{Act, Origin},
    read, template,
};

/// Bytes that the source gives in a second.
const RATE: usize = 12 << 20;
/// Megabytes of the image.
const SIZE: usize = 20;

/// What is said of a job that has not come to its end.
const WAITING: [&str; 2] = [" ", "Download success, starting install "];

/// What happens to it.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Its serve process dies.
    KillServe,
    /// Its core dies.
    KillCore,
    /// The command comes once more.
    Repeat,
    /// It is stopped.
    Abort,
    /// It is begun anew.
    Restart,
    /// Nothing, for so many milliseconds.
    Wait(u64),
}

/// Lets it happen to a download into a folder, or into a bucket. In the end there is one whole object or none.
///
/// # Panics
/// Where there is anything else.
pub fn befall(bucket: bool, steps: &[Step]) {
    if bucket { in_lab_with_s3(|lab| live(lab, true, steps)) } else { in_lab(|lab| live(lab, false, steps)) }
}

async fn live(mut lab: Lab, bucket: bool, steps: &[Step]) {
    lab.ready().await;
    let file = read(&disk(lab.folder.path(), "qcow2", SIZE));
    let origin = Origin::start(vec![Act::Slow(Arc::clone(&file), RATE)]).await;
    let store = if bucket { lab.s3() } else { lab.nfs("a", StoreRole::Image) };
    let command = template(store, 900, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2);
    let (mut jobs, mut wanted) = (BTreeSet::new(), true);
    let mut job = begun(&lab, &command, &mut jobs).await;
    for step in steps {
        match step {
            Step::KillServe => lab.restart_serve(),
            Step::KillCore => lab.restart_core().await,
            Step::Repeat => (job, wanted) = (begun(&lab, &command, &mut jobs).await, true),
            Step::Abort => {
                lab.progress(&command, &job, "ABORT").await;
                wanted = false;
            }
            Step::Restart => {
                lab.progress(&command, &job, "RESTART").await;
                wanted = true;
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
        }
    }
    // One that was stopped may have come to its end before.
    let mut installed = BTreeSet::new();
    for job in &jobs {
        let answer = come_to_an_end(&lab, &command, job).await;
        if answer.error_string.as_deref() != Some("aborted") {
            if answer.template_size > 0 {
                installed.extend(answer.install_path);
            } else {
                assert!(!wanted || jobs.len() > 1, "{answer:?}\n{}", lab.serve.output());
            }
        }
    }
    assert!(!wanted || !installed.is_empty(), "it was wanted, and is not there");
    let found = if bucket { whole_object(&lab, &file) } else { whole_file(&lab, &file) };
    assert!(!wanted || found, "it was brought, and is not there");
}

/// Waits until a job is installed, has failed or has been stopped, which takes a while where its store is slow.
async fn come_to_an_end(lab: &Lab, command: &DownloadCommand, job: &str) -> DownloadAnswer {
    let begun = Instant::now();
    loop {
        let answer = lab.progress(command, job, "GET_STATUS").await;
        if answer.error_string.as_deref().is_some_and(|text| !WAITING.contains(&text)) {
            return answer;
        }
        assert!(begun.elapsed() < LIMIT, "{answer:?}\n{}", lab.serve.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn begun(lab: &Lab, command: &DownloadCommand, jobs: &mut BTreeSet<String>) -> String {
    let answer: DownloadAnswer = lab.answer(command).await;
    let job = answer.job_id.expect("a job");
    jobs.insert(job.clone());
    job
}

/// Whether there is a whole image with its property file; else there is nothing at all.
fn whole_file(lab: &Lab, file: &[u8]) -> bool {
    let names = lab.files("template/tmpl/2/900");
    let at = |name: &str| lab.file("a", &format!("template/tmpl/2/900/{name}"));
    match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        [image, "template.properties"] => {
            assert!(fs::read(at(image)).expect("image") == file, "{image} is not whole");
            let text = fs::read_to_string(at("template.properties")).expect("properties");
            assert!(text.contains(&format!("filename={image}\n")), "{text}");
            true
        }
        _ => panic!("{names:?}\n{}", lab.serve.output()),
    }
}

fn whole_object(lab: &Lab, file: &[u8]) -> bool {
    let (keys, parts) = (lab.s3_keys(), lab.s3_uploads());
    assert!(parts.is_empty(), "{parts:?}\n{}", lab.serve.output());
    match &keys[..] {
        [] => false,
        [key] => {
            assert!(lab.s3_object(key) == file, "{key} is not whole");
            true
        }
        _ => panic!("{keys:?}"),
    }
}
