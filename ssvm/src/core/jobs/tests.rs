//! Jobs outlive their process, are joined and purged.

use common::command::storage::ImageFormat;

use super::*;
use crate::layout::StorePath;

fn command(url: &str) -> DownloadCommand {
    DownloadCommand {
        url: Some(url.into()),
        install_path: Some("/template/tmpl/2/201/".into()),
        name: Some("n".into()),
        id: 201,
        max_download_size_in_bytes: Some(1000),
        ..DownloadCommand::default()
    }
}

#[test]
fn what_is_kept_is_good_for_one_attempt_and_one_life_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let id = Jobs::load(&paths).enter(command("http://h/a"), Stand::Open).unwrap().0.record().id;
    let origin = Origin { tag: "\"v1\"".into(), size: 9 };
    let again = || Jobs::load(&paths).get(&id).unwrap();
    assert_eq!(again().take_kept(), None);
    again().keep(Some(Kept { origin: origin.clone(), boot: boot(), checkpoint: None }));
    assert_eq!(again().take_kept(), Some((origin.clone(), None)));
    assert_eq!(again().take_kept(), None, "the next attempt says anew");
    again().keep(Some(Kept { origin, boot: "another life".into(), checkpoint: None }));
    assert_eq!(again().take_kept(), None);
}

#[test]
fn a_repeated_command_joins_and_a_restart_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    let jobs = Jobs::load(&paths);
    let (first, fresh) = jobs.enter(command("http://h/a"), Stand::Open).unwrap();
    assert!(fresh);
    let (again, fresh) = jobs.enter(command("http://h/a"), Stand::Open).unwrap();
    assert!(!fresh && Arc::ptr_eq(&first, &again));
    let (other, fresh) = jobs.enter(command("http://h/b"), Stand::Open).unwrap();
    assert!(fresh);
    other.end(Stand::Failed("no".into()));
    let id = first.record().id;
    let jobs = Jobs::load(&paths);
    assert_eq!(jobs.get(&id.to_uppercase()).unwrap().record().stand, Stand::Open);
    assert_eq!(jobs.get(&other.record().id).unwrap().record().stand, Stand::Failed("no".into()));
    jobs.purge(&id);
    assert!(jobs.get(&id).is_none());
    assert_eq!(Jobs::load(&paths).all().len(), 1);
}

#[test]
fn answers_tell_the_stand() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::load(&Paths::below(folder.path()));
    let (job, _) = jobs.enter(command("http://h/a"), Stand::Open).unwrap();
    let answer = job.answer(Some("/t".into()));
    assert_eq!(answer.download_status, DownloadStatus::NotDownloaded);
    assert_eq!((answer.error_string.as_deref(), answer.answer.result), (Some(" "), true));
    job.progress.send_replace(Progress {
        running: true,
        received: 420,
        total: Some(1000),
        installing: false,
        origin: None,
        checkpoint: None,
    });
    let answer = job.answer(None);
    assert_eq!((answer.download_status, answer.download_pct), (DownloadStatus::DownloadInProgress, 42));
    assert_eq!(answer.install_path.as_deref(), Some("template/tmpl/2/201"));
    job.progress.send_replace(Progress {
        running: true,
        received: 500,
        total: None,
        installing: false,
        origin: None,
        checkpoint: None,
    });
    assert_eq!(job.answer(None).download_pct, 50);
    job.progress.send_replace(Progress {
        running: true,
        received: 1,
        total: None,
        installing: true,
        origin: None,
        checkpoint: None,
    });
    assert_eq!(job.answer(None).download_pct, 100);
    job.end(Stand::Installed(Stored {
        path: StorePath::parse("template/tmpl/2/201/x.qcow2").unwrap(),
        virtual_size: 10,
        physical_size: 4,
        checksum: None,
        format: Some(ImageFormat::Qcow2),
        package: None,
    }));
    let answer = job.answer(None);
    assert_eq!(answer.download_status, DownloadStatus::Downloaded);
    assert_eq!(answer.install_path.as_deref(), Some("template/tmpl/2/201/x.qcow2"));
    assert_eq!((answer.template_size, answer.template_physical_size), (10, 4));
}

#[test]
fn ids_are_random_uuids() {
    let id = new_id();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
    assert_ne!(id, new_id());
}
