//! Two zones, each with its VM: what the one hands out the other takes, in clear and under certificates that the
//! management server has delivered.

use std::{fs, path::Path, sync::Arc};

use common::command::{
    Secret,
    agent::Answer,
    storage::{
        Certificates, DownloadStatus, ImageFormat, ListTemplateAnswer, ListTemplateCommand, PortConfig,
        SecStorageFirewallCfgCommand, SecStorageSetupAnswer, SecStorageSetupCommand, StoreRole,
    },
};
use tests::lab::{
    ssvm::{
        FAR, LIMIT, VM, disk, in_two_labs,
        origin::{Act, Origin},
        read, template, tool,
    },
    wait_tcp,
};

use super::packages::{descriptor, package};

/// Name of the first export's mount folder.
const MOUNT: &str = "cf09654f-527c-35d9-b18c-7b044f35fe9b";
/// What the first VM is called under its certificate.
const NAME: &str = "203-0-113-51.zone.example";

/// A wildcard certificate under an intermediate one, as an operator brings them.
fn certificates(folder: &Path) -> Certificates {
    let work = folder.join("certificates");
    fs::create_dir(&work).unwrap();
    let key = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let sign = "openssl x509 -req -days 9 -CAcreateserial";
    let authority = "printf 'basicConstraints=critical,CA:true\\nkeyUsage=keyCertSign\\n'";
    let script = format!(
        "cd {}; {key} -x509 -days 9 -subj /CN=root -keyout root.key -out root.pem 2>/dev/null;
         {key} -subj /CN=middle -keyout middle.key -out middle.csr 2>/dev/null;
         {authority} >ca; {sign} -in middle.csr -CA root.pem -CAkey root.key -extfile ca -out middle.pem 2>/dev/null;
         {key} -subj '/CN=*.zone.example' -keyout leaf.key -out leaf.csr 2>/dev/null;
         echo 'subjectAltName=DNS:*.zone.example' >san;
         {sign} -in leaf.csr -CA middle.pem -CAkey middle.key -extfile san -out leaf.pem 2>/dev/null",
        work.display()
    );
    tool("sh", &["-ec", &script]);
    let text = |name: &str| fs::read_to_string(work.join(name)).unwrap();
    Certificates {
        key: Some(Secret::new(text("leaf.key"))),
        certificate: Some(text("leaf.pem")),
        chain: Some(text("middle.pem")),
        root: Some(text("root.pem")),
    }
}

#[test]
fn templates_go_from_zone_to_zone() {
    in_two_labs(&format!("{VM} {NAME}"), async |near, far| {
        near.ready().await;
        far.ready().await;
        let image = disk(near.folder.path(), "qcow2", 3);
        disk(near.folder.path(), "vmdk", 3);
        let whole = package(near.folder.path(), &descriptor("d.vmdk", 3), "tar -cf vm.ova vm.ovf d.vmdk");
        let mut there = Vec::new();
        for (id, name, file, format) in
            [(201, "x.qcow2", read(&image), ImageFormat::Qcow2), (202, "x.ova", whole, ImageFormat::Ova)]
        {
            let origin = Origin::start(vec![Act::Serve(Arc::clone(&file))]).await;
            let url = format!("{}/{name}", origin.url);
            let command = template(near.nfs("a", StoreRole::Image), id, &url, format);
            let answer = near.download(&command).await;
            assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
            there.push((id, answer.install_path.unwrap(), file, format));
        }
        let fetched = async |scheme: &str, host: &str, id: i64, path: &str, format| {
            let url = format!("{scheme}://{host}/copy/SecStorage/{MOUNT}/{path}");
            far.download(&template(far.nfs("a", StoreRole::Image), id, &url, format)).await
        };
        let (_, path, _, format) = &there[0];
        let refused = fetched("http", VM, 300, path, *format).await;
        assert_eq!(refused.error_string.as_deref(), Some(" HTTP Server returned 403 (expected 200 OK) "));
        let config = PortConfig { add: true, source_ip: Some(FAR.into()), ..Default::default() };
        let peers = SecStorageFirewallCfgCommand { port_configs: vec![config], ..Default::default() };
        assert!(near.answer::<_, Answer>(&peers).await.answer.result);

        // Nobody trusts a certificate of the VM's own making.
        let own = fetched("https", NAME, 301, path, *format).await;
        assert_eq!(own.download_status, DownloadStatus::DownloadError, "{own:?}");
        let delivered = certificates(near.folder.path());
        for lab in [&near, &far] {
            let certs = Some(delivered.clone());
            let command = SecStorageSetupCommand { certs, ..lab.set_up("a") };
            let _: SecStorageSetupAnswer = lab.answer(&command).await;
        }
        wait_tcp(format!("{VM}:443").parse().unwrap(), LIMIT);
        let root = near.folder.path().join("certificates/root.pem");
        let ask = format!(
            "openssl s_client -connect {VM}:443 -servername {NAME} -verify_hostname {NAME} -showcerts \
             -CAfile {} </dev/null 2>&1",
            root.display()
        );
        let shown = far.namespace.ok(&ask);
        assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
        assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 2, "leaf and intermediate: {shown}");

        for (scheme, host, first) in [("http", VM, 310), ("https", NAME, 320)] {
            for (id, path, file, format) in &there {
                let id = first + id - 200;
                let answer = fetched(scheme, host, id, path, *format).await;
                assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{scheme}: {answer:?}");
                assert_eq!(answer.template_size, 3 << 20);
                assert!(*read(&far.file("a", &answer.install_path.unwrap())) == **file, "{scheme} {path}");
            }
        }
        let list = ListTemplateCommand { store: Some(far.nfs("a", StoreRole::Image)), ..Default::default() };
        let listed: ListTemplateAnswer = far.answer(&list).await;
        let mut ids: Vec<i64> = listed.template_infos.values().map(|entry| entry.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [311, 312, 321, 322]);
        assert!(listed.template_infos.values().all(|entry| !entry.is_corrupted && entry.size == 3 << 20));
        let key = fs::read_to_string(near.folder.path().join("certificates/leaf.key")).unwrap();
        let secret = key.lines().nth(1).unwrap();
        for text in [near.core.output(), near.serve.output(), far.core.output(), far.serve.output()] {
            assert!(!text.contains(secret));
        }
    });
}
