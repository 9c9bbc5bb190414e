//! Joining, stores, access lists, what an operator sees.

use std::{collections::BTreeMap, fs};

use common::{
    channel::message::Message,
    command::{
        agent::{Answer, UnsupportedAnswer},
        storage::{
            ComputeChecksumCommand, GetStorageStatsAnswer, GetStorageStatsCommand, ListTemplateAnswer,
            ListTemplateCommand, PortConfig, SecStorageFirewallCfgCommand, SecStorageSetupAnswer,
            SecStorageVMSetupCommand, StoreRole,
        },
    },
};

use tests::lab::ssvm::{LIMIT, in_lab, tool};

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
        assert!(stats.answer.result && stats.capacity_bytes > stats.used_bytes && stats.used_bytes > 0);
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
        let listed: ListTemplateAnswer = lab.answer(&list).await;
        let seeded = &listed.template_infos["routing-3"];
        assert_eq!(listed.template_infos.len(), 1);
        assert_eq!(seeded.install_path, "template/tmpl/1/3/sys.qcow2");
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
