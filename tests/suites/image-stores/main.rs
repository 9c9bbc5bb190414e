//! The secondary storage VM of the image with real stores: what only the kernel of the image can show.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use common::command::agent::Answer;
use common::command::storage::{
    DataStoreTO, DataTO, DeleteCommand, DownloadAnswer, DownloadStatus, GetStorageStatsAnswer,
    GetStorageStatsCommand, ImageFormat, ListTemplateAnswer, ListTemplateCommand, SecStorageSetupAnswer,
    TemplateObjectTO,
};
use tests::lab::{
    ssvm::{
        disk,
        machine::{CIFS, Machine, NFS, PASSWORD, in_machine, set_up, share_url},
        origin::{Act, Origin},
        read, template,
    },
    wait_until,
};

/// Name of the mount folder of the share: the version-3 UUID of `10.1.1.8:/share`.
const NAME: &str = "fd0c9c30-b939-3bc1-b158-eb483d93d6c2";

async fn stats(machine: &Machine, store: DataStoreTO) -> GetStorageStatsAnswer {
    machine.answer(&GetStorageStatsCommand { store: Some(store), ..Default::default() }).await
}

async fn refused(machine: &Machine, url: &str) -> String {
    let answer: Answer = machine.answer(&set_up(url)).await;
    assert!(!answer.answer.result, "{url} is taken");
    answer.answer.details.expect("a cause")
}

/// The password is nowhere but in the memory of the core and in its state, which only root reads.
fn keeps_the_password(machine: &Machine) {
    let url = share_url(PASSWORD);
    let (_, query) = url.split_once("password=").expect("a password");
    let encoded = query.split('&').next().unwrap_or_default();
    let mut agent = machine.inside();
    for pattern in ["/proc/[0-9]*/cmdline", "/proc/self/mounts", "/state/log/*/current"] {
        let names =
            agent.run("/usr/bin/execlineb", &["-Pc", &format!("elglob F {pattern} echo ${{F}}")]).stdout;
        let mut seen = 0;
        for name in names.split_whitespace() {
            // A process may have ended meanwhile.
            let text = agent.text(name);
            seen += text.len();
            assert!(!text.contains(PASSWORD) && !text.contains(encoded), "{name} shows the password");
        }
        assert!(seen > 100, "{pattern}: {names}");
    }
}

#[test]
fn a_cifs_share_is_a_store() {
    in_machine(false, async |machine| {
        let (mut server, _nfs) = (machine.cifs_server(), machine.nfs_server());
        let text = refused(&machine, &format!("cifs://{CIFS}/share?user=store")).await;
        assert!(
            text.starts_with(&format!(
                "GetRootDir for cifs://{CIFS}/share failed due to Missing user and password from URI."
            )),
            "{text}"
        );
        let text = refused(&machine, &share_url("wrong")).await;
        assert!(
            text.contains("the server refuses the user or the password") && !text.contains("wrong"),
            "{text}"
        );
        let text = refused(&machine, &share_url(PASSWORD).replace("/share?", "/other?")).await;
        assert!(text.contains("the server has no such share"), "{text}");
        assert_eq!(machine.mount("cifs"), "", "nothing is mounted");

        let answer: SecStorageSetupAnswer = machine.answer(&set_up(&share_url(PASSWORD))).await;
        assert_eq!(answer.dir.as_deref(), Some(NAME), "{answer:?}");
        let mount = machine.mount(NAME);
        for word in
            ["cifs", "soft", "actimeo=0", "username=store", "domain=ZONE", "nosuid", "nodev", "noexec"]
        {
            assert!(mount.contains(word), "{word} is not in {mount}");
        }
        for folder in ["snapshots", "volumes"] {
            assert!(machine.shared().join(folder).is_dir(), "{folder}");
        }
        let again: SecStorageSetupAnswer = machine.answer(&set_up(&share_url(PASSWORD))).await;
        assert_eq!(again.dir.as_deref(), Some(NAME));
        assert_eq!(machine.inside().text("/proc/self/mounts").matches(NAME).count(), 1);
        // Another password that is no good takes nothing away.
        let text = refused(&machine, &share_url("other")).await;
        assert!(text.contains("the server refuses"), "{text}");

        let file = read(&disk(machine.folder.path(), "qcow2", 4));
        let origin = Origin::start(vec![Act::Serve(std::sync::Arc::clone(&file))]).await;
        let command =
            template(machine.cifs(), 201, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2);
        let answer: DownloadAnswer = machine.download(&command).await;
        assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        let path = answer.install_path.expect("a path");
        assert!(fs::read(machine.shared().join(&path)).expect("the image") == *file);
        let names = fs::read_dir(machine.shared().join("template/tmpl/2/201")).expect("its folder");
        assert_eq!(names.count(), 2, "the image and its properties");
        let list = ListTemplateCommand { store: Some(machine.cifs()), ..Default::default() };
        let listed: ListTemplateAnswer = machine.answer(&list).await;
        assert_eq!(listed.template_infos.len(), 1, "{listed:?}");
        let check = machine.run("/opt/cloud/bin/ssvm-check.sh", &[]);
        assert!(check.contains(&format!("Good: cifs://{CIFS}/share answers")), "{check}");

        // Its server goes, and comes back: other stores do not notice.
        assert!(stats(&machine, machine.nfs()).await.answer.result);
        server.kill();
        let begun = Instant::now();
        let (dead, well) = futures_util::future::join(stats(&machine, machine.cifs()), async {
            let answer = stats(&machine, machine.nfs()).await;
            (answer.answer.result, begun.elapsed())
        })
        .await;
        assert!(well.0 && well.1 < Duration::from_secs(5), "{well:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(!dead.answer.result && dead.answer.details.is_some(), "{dead:?}");
        let _server = machine.cifs_server();
        while !stats(&machine, machine.cifs()).await.answer.result {
            assert!(begun.elapsed() < Duration::from_secs(120), "the share does not come back");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }

        let object = TemplateObjectTO {
            path: Some(path.clone()),
            id: 201,
            image_data_store: Some(machine.cifs()),
            ..TemplateObjectTO::default()
        };
        let delete = DeleteCommand { data: Some(DataTO::Template(Box::new(object))), ..Default::default() };
        let deleted: Answer = machine.answer(&delete).await;
        assert!(deleted.answer.result, "{deleted:?}");
        wait_until("the folder to be gone", Duration::from_secs(10), || {
            !machine.shared().join("template/tmpl/2/201").exists()
        });
        keeps_the_password(&machine);
        exports(&machine).await;
    });
}

/// NFS exports are mounted as the contract has it, each once.
async fn exports(machine: &Machine) {
    let url = format!("nfs://{NFS}/export");
    let mut command = set_up(&url);
    for _ in 0..2 {
        let answer: SecStorageSetupAnswer = machine.answer(&command).await;
        assert!(answer.answer.result, "{answer:?}");
        let name = answer.dir.expect("a folder");
        assert_eq!(machine.inside().text("/proc/self/mounts").matches(&name).count(), 1);
        let mount = machine.mount(&name);
        for word in ["soft", "timeo=133", "retrans=2", "proto=tcp", "acdirmin=0", "acdirmax=0"] {
            assert!(mount.contains(word), "{word} is not in {mount}");
        }
    }
    for folder in ["snapshots", "volumes"] {
        let mode = fs::metadata(machine.exported().join(folder)).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o777, "{folder}");
    }
    // The slash makes it another folder, here with a version of its own.
    (command.sec_url, command.nfs_version) = (Some(format!("{url}/")), Some("4.1".into()));
    let answer: SecStorageSetupAnswer = machine.answer(&command).await;
    let mount = machine.mount(&answer.dir.expect("a folder"));
    assert!(mount.contains("vers=4.1"), "{mount}");
    let wrong = format!("nfs://{NFS}/none");
    let text = refused(machine, &wrong).await;
    assert!(text.starts_with(&format!("GetRootDir for {wrong} failed due to ")), "{text}");
    let folders =
        machine.inside().run("/usr/bin/execlineb", &["-Pc", "elglob F /mnt/SecStorage/* echo ${F}"]);
    assert_eq!(folders.stdout.split_whitespace().count(), 3, "{}", folders.stdout);
}
