//! Joining, stores, access lists, what an operator sees.

use std::{collections::BTreeMap, fs};

use common::{
    channel::message::Message,
    command::{
        agent::{Answer, UnsupportedAnswer},
        storage::{
            ComputeChecksumCommand, GetStorageStatsAnswer, GetStorageStatsCommand, ListTemplateAnswer,
            ListTemplateCommand, ListVolumeAnswer, ListVolumeCommand, PortConfig,
            SecStorageFirewallCfgCommand, SecStorageSetupAnswer, SecStorageVMSetupCommand, StoreRole,
        },
    },
};

use tests::lab::{
    ssvm::{LIMIT, Lab, in_lab, tool},
    wait_until,
};

/// The folder of the first export, as the management server knows it.
const NAME: &str = "cf09654f-527c-35d9-b18c-7b044f35fe9b";

#[test]
fn an_export_is_mounted_where_others_look_for_it() {
    in_lab(async |lab| {
        for _ in 0..2 {
            let answer: SecStorageSetupAnswer = lab.answer(&lab.set_up("a")).await;
            assert_eq!(answer.dir.as_deref(), Some(NAME), "the version-3 UUID of 10.1.1.7:/a");
            assert!(answer.answer.result);
        }
        for folder in ["template/tmpl", "volumes", "snapshots"] {
            let mode = tool("stat", &["-c", "%a", lab.file("a", folder).to_str().unwrap()]);
            assert_eq!(mode.trim(), "777", "{folder}");
        }
        let failed: Answer = lab.answer(&lab.set_up("missing")).await;
        let text = failed.answer.details.unwrap();
        assert!(text.starts_with("GetRootDir for nfs://10.1.1.7/missing failed due to"), "{text}");
        let stats =
            GetStorageStatsCommand { store: Some(lab.nfs("b", StoreRole::Image)), ..Default::default() };
        let stats: GetStorageStatsAnswer = lab.answer(&stats).await;
        let known = tool("stat", &["-f", "-c", "%S %b %f", lab.file("b", "").to_str().unwrap()]);
        let known: Vec<i64> = known.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let (capacity, used) = (known[0] * known[1], known[0] * (known[1] - known[2]));
        assert!(stats.answer.result && stats.capacity_bytes == capacity, "{stats:?}");
        assert!((stats.used_bytes - used).abs() < capacity / 100, "{stats:?}, {used}");
        // The key is kept for its owner alone, and nowhere in a log.
        assert!(!lab.core.output().contains("psk-of-the-suite"));
        let settings = lab.folder.path().join("state/ssvm/settings.json");
        assert_eq!(tool("stat", &["-c", "%a", settings.to_str().unwrap()]).trim(), "600");
    });
}

#[test]
fn listings_are_whole_or_failures() {
    in_lab(async |lab| {
        let list = ListTemplateCommand { store: Some(lab.nfs("a", StoreRole::Image)), ..Default::default() };
        let _: SecStorageSetupAnswer = lab.answer(&lab.set_up("a")).await;
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        assert!(listed.answer.result && listed.template_infos.is_empty());
        let folder = lab.file("a", "template/tmpl/1/3");
        fs::create_dir_all(&folder).unwrap();
        let seeded: BTreeMap<&str, &str> = [
            ("filename", "sys.qcow2"),
            ("hvm", "false"),
            ("size", "1000"),
            ("qcow2", "true"),
            ("id", "3"),
            ("public", "true"),
            ("qcow2.filename", "sys.qcow2"),
            ("uniquename", "routing-3"),
            ("qcow2.virtualsize", "2000"),
            ("virtualsize", "2000"),
            ("qcow2.size", "1000"),
        ]
        .into();
        let text: String = seeded.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        fs::write(folder.join("template.properties"), text).unwrap();
        fs::create_dir_all(lab.file("a", "template/tmpl/2/9")).unwrap();
        fs::write(lab.file("a", "template/tmpl/2/9/template.properties"), "").unwrap();
        let broken = lab.file("a", "template/tmpl/1/4/template.properties");
        fs::create_dir_all(broken.parent().unwrap()).unwrap();
        let text: String = seeded.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        fs::write(broken, text.replace("size=1000", "size=0").replace("routing-3", "routing-4")).unwrap();
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        let entry = |name: &str| &listed.template_infos[name];
        assert_eq!(listed.template_infos.len(), 2);
        assert_eq!(entry("routing-3").install_path, "template/tmpl/1/3/sys.qcow2");
        assert_eq!((entry("routing-3").is_corrupted, entry("routing-4").is_corrupted), (false, true));

        // Of volumes those are listed that were brought here, not those that a hypervisor has copied.
        for (folder, name) in [("volumes/2/7", "volume.properties"), ("volumes/2/8", "x.qcow2")] {
            fs::create_dir_all(lab.file("a", folder)).unwrap();
            let text: String = seeded.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
            fs::write(lab.file("a", &format!("{folder}/{name}")), text.replace("id=3", "id=7")).unwrap();
        }
        let volumes = ListVolumeCommand { store: Some(lab.nfs("a", StoreRole::Image)), ..Default::default() };
        let answer = lab.ask(&volumes).await;
        assert_eq!(answer.body["templateInfos"]["7"]["installPath"], "volumes/2/7/sys.qcow2");
        let volumes: ListVolumeAnswer = answer.read().unwrap();
        assert!(volumes.answer.result && volumes.template_infos.len() == 1, "{volumes:?}");
        fs::write(folder.join("sys.qcow2"), "abc").unwrap();
        let sum = |path: &str| ComputeChecksumCommand {
            store: Some(lab.nfs("a", StoreRole::Image)),
            template_path: Some(path.into()),
            ..Default::default()
        };
        let answer: Answer = lab.answer(&sum("template/tmpl/1/3/sys.qcow2")).await;
        assert_eq!(answer.answer.details.as_deref(), Some("{MD5}900150983cd24fb0d6963f7d28e17f72"));
        for bad in ["template/../../../etc/passwd", "template/tmpl/none"] {
            let answer: Answer = lab.answer(&sum(bad)).await;
            assert!(!answer.answer.result, "{bad}");
        }
        let gone =
            ListTemplateCommand { store: Some(lab.nfs("missing", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = lab.answer(&gone).await;
        assert!(!listed.answer.result);
    });
}

#[test]
fn sites_and_peers_survive_a_restart() {
    in_lab(async |mut lab| {
        let sites = SecStorageVMSetupCommand {
            allowed_internal_sites: vec!["10.1.1.0/24".into(), "10.9.9.9".into(), "nonsense".into()],
            ..Default::default()
        };
        let answer: Answer = lab.answer(&sites).await;
        assert_eq!(answer.answer.details.as_deref(), Some(", Error in allowing outgoing to nonsense"));
        let peer = |address: &str, append| SecStorageFirewallCfgCommand {
            port_configs: vec![PortConfig {
                add: true,
                source_ip: Some(address.into()),
                ..Default::default()
            }],
            append,
            ..Default::default()
        };
        for address in ["203.0.113.60", "203.0.113.61"] {
            assert!(lab.answer::<_, Answer>(&peer(address, true)).await.answer.result);
        }
        let filter = lab.namespace.ok("nft list table inet trivium");
        assert!(filter.contains("10.1.1.0/24") && filter.contains("10.9.9.9"), "{filter}");
        lab.restart_core().await;
        let status = lab.status();
        assert!(
            status.contains("203.0.113.60 203.0.113.61") && status.contains("channel: ready at"),
            "{status}"
        );
        assert!(lab.namespace.ok("nft list table inet trivium").contains("10.9.9.9"));
        assert!(lab.answer::<_, Answer>(&peer("203.0.113.62", false)).await.answer.result);
        assert!(lab.status().contains("may copy from here: 203.0.113.62\n"));
    });
}

#[test]
fn unknown_commands_are_refused_and_the_check_tells() {
    in_lab(async |lab| {
        let unknown = Message { class: "com.cloud.agent.api.NoSuchCommand".into(), body: Default::default() };
        let options = common::channel::server::SendOptions::default().within(LIMIT);
        let answer: UnsupportedAnswer = lab.agent().ask(unknown, options).await.unwrap().read().unwrap();
        let text = answer.answer.details.unwrap();
        assert!(
            text.starts_with("Unsupported command issued: com.cloud.agent.api.NoSuchCommand.  Are you sure"),
            "{text}"
        );
        let (code, text) = lab.shim(&["ssvm-check.sh"]);
        // There is no name server in the namespace.
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("Good: 10.1.1.5:8250 can be reached") && text.contains("Good: the daemon is whole")
        );
        assert_eq!(lab.shim(&["no-such"]).0, 127);
    });
}

#[test]
fn the_check_tells_what_is_wrong() {
    in_lab(async |mut lab| {
        lab.namespace.hosts("203.0.113.1 cloudstack.apache.org");
        lab.restart_serve();
        lab.restart_core().await;
        let check = |lab: &Lab| lab.shim(&["ssvm-check.sh"]);
        wait_until("both halves", LIMIT, || check(&lab).0 == 0);
        assert!(check(&lab).1.contains("WARNING: no store is known yet"), "{}", check(&lab).1);
        lab.serve.kill();
        wait_until("serve to be missed", LIMIT, || check(&lab).0 == 3);
        assert!(check(&lab).1.contains("ERROR: the serve process is not there"));
        lab.restart_serve();

        lab.ready().await;
        let (code, text) = check(&lab);
        assert!(code == 0 && text.contains("Good: nfs://10.1.1.7/a answers and can be written"), "{text}");
        assert_eq!(lab.files("volumes"), [""; 0], "nothing of it stays");
        tool("chmod", &["555", lab.file("a", "volumes").to_str().unwrap()]);
        let (_, text) = check(&lab);
        assert!(text.contains("ERROR: nfs://10.1.1.7/a: ") && text.contains("permission denied"), "{text}");

        let first = lab.second_server().await;
        drop(first);
        let begun = std::time::Instant::now();
        while check(&lab).0 != 4 {
            assert!(begun.elapsed() < LIMIT, "the server does not go");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(check(&lab).1.contains("ERROR: 10.1.1.5:8250 cannot be reached"));
    });
}
