//! The golden texts read into the types and come out as they were.

use serde_json::{Value, json};

use super::*;
use crate::channel::message::{Message, Wire};

fn round<T: Wire>(body: &Value) -> T {
    let message = Message { class: T::CLASS.to_owned(), body: body.as_object().unwrap().clone() };
    let value: T = message.read().unwrap();
    assert_eq!(&Value::Object(Message::of(&value).unwrap().body), body, "{}", T::CLASS);
    value
}

fn nfs() -> Value {
    json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://10.1.1.9/export/secondary", "_role": "Image",
        "uuid": "6f1c9a52-8a3a-4b8c-9f0e-6b0c8a6f0d11"}})
}

fn with_base(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    object.insert("contextMap".into(), json!({}));
    object.insert("wait".into(), json!(0));
    object.insert("bypassHostMaintenance".into(), json!(false));
    value
}

#[test]
fn set_up_of_a_store() {
    let command: SecStorageSetupCommand = round(&with_base(json!({
        "store": nfs(), "secUrl": "nfs://10.1.1.9/export/secondary", "postUploadKey": "WTJ4dmRXUnpkR0ZqYXc=",
        "certs": {"privKey": "k", "privCert": "c", "certChain": "m", "rootCACert": "r"}, "nfsVersion": "4.1"})));
    assert!(matches!(&command.store, Some(DataStoreTO::Nfs(n)) if n.role == Some(StoreRole::Image)));
    let shown = format!("{command:?}");
    assert!(!shown.contains("WTJ4") && !shown.contains("\"k\""), "{shown}");
    round::<SecStorageSetupAnswer>(&with_base(
        json!({"_dir": "6f1c9a52", "result": true, "details": "success"}),
    ));
    round::<SecStorageVMSetupCommand>(&with_base(
        json!({"allowedInternalSites": ["10.0.0.0/8"], "copyUserName": "cloud", "copyPassword": "k3J"}),
    ));
    let list: SecStorageFirewallCfgCommand = round(&with_base(json!({"portConfigs": [
        {"add": true, "sourceIp": "203.0.113.51", "port": "80", "intf": "eth2"}], "isAppendAIp": true})));
    assert!(list.append && list.port_configs.len() == 1);
    round::<SecStorageFirewallCfgCommand>(&with_base(json!({"isAppendAIp": false})));
}

#[test]
fn an_s3_store_keeps_its_keys_out_of_logs() {
    let command: GetStorageStatsCommand =
        round(&with_base(json!({"store": {"com.cloud.agent.api.to.S3TO": {
        "id": 3, "uuid": "77777777-0000-4000-8000-000000000003", "accessKey": "AKIAEXAMPLE",
        "secretKey": "s3cr3t/key+=", "endPoint": "s3.example.org", "bucketName": "cloudbucket",
        "signer": "S3SignerType", "httpsFlag": true, "useTCPKeepAlive": true, "connectionTimeout": 30000,
        "maxErrorRetry": 3, "socketTimeout": 30000, "connectionTtl": 60, "created": "Oct 9, 2025, 8:53:20 AM",
        "enableRRS": true, "maxSingleUploadSizeInBytes": 5368709120_i64}}})));
    let shown = format!("{command:?}");
    assert!(shown.contains("cloudbucket") && !shown.contains("AKIA") && !shown.contains("s3cr3t"), "{shown}");
}

#[test]
fn other_stores_are_kept_as_they_came() {
    let command: GetStorageStatsCommand = round(&with_base(json!({"store":
        {"com.cloud.agent.api.to.SwiftTO": {"id": 4, "url": "http://10.1.1.8:8080/auth/v1"}}})));
    assert_eq!(command.store.unwrap().class(), "com.cloud.agent.api.to.SwiftTO");
}

#[test]
fn downloads() {
    let order = json!({"hvm": true, "description": "Debian 12", "checksum": "{SHA-256}9f2c3a",
        "auth": {"userName": "cloud", "password": "k3JdPq8sWxYz"}, "_proxy": {"_host": "10.1.1.200", "_port": 3128},
        "maxDownloadSizeInBytes": 536870912000_i64, "id": 201, "resourceType": "TEMPLATE",
        "installPath": "template/tmpl/2/201/", "_store": nfs(), "followRedirects": false,
        "url": "http://mirror.example.org/images/debian12.qcow2", "format": "QCOW2", "accountId": 2,
        "name": "201-2-0b1c2d3e", "secUrl": "nfs://10.1.1.9/export/secondary"});
    let command: DownloadCommand = round(&with_base(order.clone()));
    assert_eq!(command.format, Some(ImageFormat::Qcow2));
    assert!(!format!("{command:?}").contains("k3JdPq8sWxYz"));
    let mut poll = order;
    poll["jobId"] = json!("5a6b7c8d");
    poll["request"] = json!("GET_STATUS");
    let poll: DownloadProgressCommand = round(&with_base(poll));
    assert_eq!(poll.download, command);
    let answer: DownloadAnswer = round(&with_base(json!({"jobId": "5a6b7c8d", "downloadPct": 42,
        "downloadStatus": "DOWNLOAD_IN_PROGRESS", "downloadPath": "/mnt/SecStorage/6f1c/t/dnld123tmp_",
        "installPath": "template/tmpl/2/201/x.qcow2", "templateSize": 2147483648_i64,
        "templatePhySicalSize": 410124288, "checkSum": "9f2c3a", "result": true})));
    assert_eq!(answer.download_status, DownloadStatus::DownloadInProgress);
}

#[test]
fn copies_and_deletions() {
    let volume = json!({"uuid": "a1a2a3a4", "volumeType": "DATADISK", "dataStore": nfs(), "name": "data-1",
        "size": 5368709120_i64, "path": "volumes/2/31/a1a2a3a4", "volumeId": 31, "accountId": 2,
        "format": "QCOW2", "id": 31, "hypervisorType": "KVM"});
    let snapshot = json!({"org.apache.cloudstack.storage.to.SnapshotObjectTO": {"path": "snapshots/2/31/51ab",
        "volume": volume, "dataStore": nfs(), "kvmIncrementalSnapshot": false, "vmName": "i-2-7-VM",
        "name": "snap-1", "hypervisorType": "KVM", "id": 12, "parents": ["snapshots/2/31/50aa"],
        "physicalSize": 1048576, "accountId": 2}});
    let command: DeleteCommand = round(&with_base(json!({"data": snapshot.clone()})));
    assert_eq!(command.data.as_ref().and_then(DataTO::path), Some("snapshots/2/31/51ab"));
    let template = json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": {"path": "template/tmpl/2/201/",
        "origUrl": "http://mirror.example.org/d.qcow2", "uuid": "0b1c", "id": 201, "format": "QCOW2",
        "accountId": 2, "checksum": "{SHA-256}9f2c3a", "hvm": true, "displayText": "Debian 12",
        "imageDataStore": nfs(), "name": "201-2-0b1c2d3e", "size": 2147483648_i64,
        "physicalSize": 410124288, "hypervisorType": "KVM", "bootable": true, "uniqueName": "201-2-0b1c2d3e"}});
    let mut copy =
        with_base(json!({"srcTO": snapshot, "destTO": template.clone(), "executeInSequence": true,
        "options": {"fullSnapshot": "true"}}));
    copy["wait"] = json!(10800);
    let copy: CopyCommand = round(&copy);
    assert!(copy.destination.as_ref().and_then(DataTO::store).is_some());
    round::<CopyCmdAnswer>(&with_base(json!({"newData": template, "result": true})));
    round::<CopyCmdAnswer>(&with_base(json!({"result": false, "details": "No space left on device"})));
}

#[test]
fn listings_use_numbers_as_keys_where_told() {
    let entry = json!({"templateName": "a1", "installPath": "volumes/2/31/a1.qcow2", "size": 5, "physicalSize": 4,
        "id": 31, "isPublic": true, "isCorrupted": false});
    let answer: ListVolumeAnswer =
        round(&with_base(json!({"secUrl": "nfs://h/e", "templateInfos": {"31": entry},
        "result": true, "details": "success"})));
    assert!(answer.template_infos.contains_key(&31));
    round::<ListTemplateAnswer>(&with_base(
        json!({"secUrl": "nfs://h/e", "templateInfos": {}, "result": true}),
    ));
    let sum: ComputeChecksumCommand = round(&with_base(json!({"store": nfs(), "templatePath": "t/x.qcow2",
        "algorithm": "SHA-256"})));
    assert_eq!(sum.algorithm, "SHA-256");
}

#[test]
fn packages() {
    let disk = json!({"path": "/mnt/SecStorage/6f1c/template/tmpl/2/201/d.vmdk", "virtualSize": 1073741824,
        "fileSize": 1048576, "bootable": false, "diskId": "disk1", "isIso": true, "diskController": "1",
        "diskControllerSubType": "lsilogic", "diskNumber": 0, "configuration": ""});
    let template = json!({"path": "template/tmpl/2/201/", "id": 201, "format": "OVA", "accountId": 2, "hvm": true,
        "imageDataStore": nfs(), "name": "201-2-0b1c2d3e", "bootable": true});
    let tagged = json!({"org.apache.cloudstack.storage.to.TemplateObjectTO": template.clone()});
    round::<GetDatadisksCommand>(&with_base(json!({"data": tagged.clone(), "configurationId": "small"})));
    round::<GetDatadisksAnswer>(&with_base(json!({"dataDiskDetails": [disk.clone()], "result": true})));
    round::<CreateDatadiskTemplateCommand>(&with_base(json!({"dataDiskTemplate": tagged,
        "path": "/mnt/SecStorage/6f1c/template/tmpl/2/201/d.vmdk", "fileSize": 1048576, "bootable": false,
        "diskId": "disk1"})));
    round::<CreateDatadiskTemplateAnswer>(&with_base(json!({"dataDiskTemplate": template, "result": true})));
    let information = json!({"properties": [{"key": "pw", "type": "string", "value": "hunter2",
            "userConfigurable": true, "password": true, "index": 3}],
        "networks": [{"name": "VM Network", "addressOnParent": 7, "automaticAllocation": true, "InstanceID": 4,
            "resourceType": "10"}],
        "disks": [disk],
        "hardwareSection": {"minimiumHardwareVersion": "vmx-13", "configurations": [{"id": "small",
            "hardwareItems": [], "index": 0}], "commonHardwareItems": [{"automaticAllocation": false,
            "automaticDeallocation": false, "resourceType": "Memory", "virtualQuantity": 1024, "weight": 0}]},
        "eulaSections": [{"compressedLicense": [31, -117, 8], "index": 0}],
        "guestOsInfo": {"t": "debian10_64Guest", "u": "Debian"}});
    let answer: DownloadAnswer = round(&with_base(
        json!({"downloadPct": 100, "downloadStatus": "DOWNLOADED",
        "templateSize": 5, "templatePhySicalSize": 4, "ovfInformationTO": information.clone(), "result": true}),
    ));
    assert!(!format!("{answer:?}").contains("hunter2"));
    round::<UploadStatusAnswer>(&with_base(
        json!({"status": "COMPLETED", "virtualSize": 5, "physicalSize": 4,
        "downloadPercent": 100, "ovfInformationTO": information, "result": true}),
    ));
}
