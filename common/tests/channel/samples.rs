//! Packets and texts of the first implementation, byte by byte.

use common::channel::json;
use common::channel::message::{Message, Wire};
use common::channel::packet::{Flags, Ids, MAX_CONTENT, Packet};
use common::command::agent::*;

/// Name, header in hex and text of packets that are not zipped.
const PLAIN: &[(&str, &str, &str)] = &[
    (
        "01-startup-request",
        "000000050000000000000000000002c2ffffffffffffffffffffffffffffffffffffffffffffffff",
        r##"[{"com.cloud.agent.api.StartupSecondaryStorageCommand":{"type":"SecondaryStorage","dataCenter":"1","pod":"1","guid":"s-1-VM-NfsSecondaryStorageResource","name":"s-1-VM","version":"4.22.0.0-SNAPSHOT","iqn":"NoIqn","publicIpAddress":"203.0.113.51","publicNetmask":"255.255.255.0","publicMacAddress":"1e:00:38:00:00:33","privateIpAddress":"10.1.1.21","privateMacAddress":"1e:00:0b:00:00:0b","privateNetmask":"255.255.255.0","storageIpAddress":"10.1.1.21","storageNetmask":"255.255.255.0","storageMacAddress":"1e:00:0b:00:00:0b","resourceName":"NfsSecondaryStorageResource","msHostList":"10.1.1.5,10.1.1.6","connectionTransferred":false,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "02-startup-response",
        "000000240000000000000000000000a70000525400a1b2c3ffffffffffffffffffffffffffffffff",
        r##"[{"com.cloud.agent.api.StartupAnswer":{"hostId":0,"hostName":"","hostUuid":"","pingInterval":60,"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "03-ready-request",
        "000000271f3a000000000001000000da0000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.ReadyCommand":{"dcId":1,"hostId":4,"hostUuid":"f6a1b2c3-d4e5-46f7-8899-aabbccddeeff","hostName":"s-1-VM","enableHumanReadableSizes":true,"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "04-ready-response",
        "000000061f3a0000000000010000006c0000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.ReadyAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "05-ping-request",
        "000000030000000000000001000000b6ffffffffffffffff00000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.PingStorageCommand":{"changes":{},"hostType":"Storage","hostId":4,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "06-ping-response",
        "0000002200000000000000010000013c0000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.PingAnswer":{"_command":{"changes":{},"hostType":"Storage","hostId":4,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false},"sendStartup":false,"avoidMsList":[],"reconcileCommands":[],"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "07-shutdown-request",
        "00000007ffffffffffffffff00000089ffffffffffffffff00000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.ShutdownCommand":{"reason":"sig.kill","removeHost":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "09-control-request",
        "0000000300000000000000070000016cffffffffffffffff00000000000000050000000000000005",
        r##"[{"com.cloud.agent.api.ConsoleAccessAuthenticationCommand":{"_host":"10.1.1.11","_port":"5901","_vmId":"c1c2c3c4-0000-4000-8000-000000000007","_sid":"T7xQvYwZ","_ticket":"h4Jw9u3xk1\u003d\u003d","sessionUuid":"9e0b9d2e-1111-4222-8333-444455556666","clientAddress":"198.51.100.7","_isReauthenticating":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "10-control-response",
        "000000220000000000000007000000b80000525400a1b2c300000000000000050000000000000005",
        r##"[{"com.cloud.agent.api.ConsoleAccessAuthenticationAnswer":{"_success":true,"_isReauthenticating":false,"_port":0,"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "11-start-checkssh-request",
        "000000231f3a00000000000900000d460000525400a1b2c300000000000000010000000000000001",
        r##"[{"com.cloud.agent.api.StartCommand":{"vm":{"id":1,"name":"s-1-VM","bootloader":"HVM","type":"SecondaryStorageVm","cpus":1,"speed":500,"minRam":536870912,"maxRam":536870912,"hostName":"s-1-VM","arch":"x86_64","os":"Debian GNU/Linux 12 (64-bit)","bootArgs":" template\u003ddomP type\u003dsecstorage host\u003d10.1.1.5,10.1.1.6 port\u003d8250 name\u003ds-1-VM zone\u003d1 pod\u003d1 guid\u003ds-1-VM workers\u003d5 authorized_key\u003dc3NoLXJzYSBBQUFB resource\u003dcom.cloud.storage.resource.PremiumSecondaryStorageResource instance\u003dSecStorage sslcopy\u003dfalse role\u003dtemplateProcessor mtu\u003d1500 eth2ip\u003d203.0.113.51 eth2mask\u003d255.255.255.0 gateway\u003d203.0.113.1 public.network.device\u003deth2 eth0ip\u003d169.254.1.11 eth0mask\u003d255.255.0.0 eth1ip\u003d10.1.1.21 eth1mask\u003d255.255.255.0 mgmtcidr\u003d10.1.1.0/24 localgw\u003d10.1.1.1 private.network.device\u003deth1 internaldns1\u003d10.1.1.2 dns1\u003d8.8.8.8 nfsVersion\u003dnull keystore_password\u003dVzZhQ2RMZk1OcFFyU3RVdg\u003d\u003d useHttpsToUpload\u003dtrue secondaryStorageServerAddress\u003d10.1.1.9","enableHA":true,"limitCpuUse":false,"enableDynamicallyScaleVm":false,"vncPassword":"w7YzQpLk","uuid":"0a1b2c3d-aaaa-4bbb-8ccc-000000000001","enterHardwareSetup":false,"disks":[{"data":{"org.apache.cloudstack.storage.to.VolumeObjectTO":{"uuid":"a1a2a3a4-b1b2-c1c2-d1d2-e1e2e3e4e5e6","volumeType":"ROOT","dataStore":{"org.apache.cloudstack.storage.to.PrimaryDataStoreTO":{"uuid":"cc0a55c0-0000-3000-8000-00000000aaaa","name":"ps1","id":1,"poolType":"NetworkFilesystem","host":"10.1.1.9","path":"/export/primary","port":2049,"url":"NetworkFilesystem://10.1.1.9/export/primary/?ROLE\u003dPrimary\u0026STOREUUID\u003dcc0a55c0-0000-3000-8000-00000000aaaa","isManaged":false}},"name":"ROOT-1","size":5368709120,"path":"e9a5b0de-0000-4000-8000-0000000000f1","volumeId":31,"vmName":"s-1-VM","accountId":2,"format":"QCOW2","provisioningType":"THIN","id":31,"deviceId":0,"hypervisorType":"KVM","directDownload":false,"deployAsIs":false,"followRedirects":false}},"diskSeq":0,"path":"e9a5b0de-0000-4000-8000-0000000000f1","type":"ROOT"}],"nics":[{"deviceId":2,"defaultNic":true,"pxeDisable":false,"dpdkEnabled":false,"ip":"203.0.113.51","netmask":"255.255.255.0","gateway":"203.0.113.1","mac":"1e:00:38:00:00:33","dns1":"8.8.8.8","broadcastType":"Vlan","type":"Public","broadcastUri":"vlan://untagged","isolationUri":"vlan://untagged","securityGroupEnabled":false,"name":"cloudbr0"},{"deviceId":0,"defaultNic":false,"pxeDisable":false,"nicUuid":"5b0c0001-0000-4000-8000-000000000001","dpdkEnabled":false,"ip":"169.254.1.11","netmask":"255.255.0.0","gateway":"169.254.0.1","mac":"0e:00:a9:fe:01:0b","broadcastType":"LinkLocal","type":"Control","securityGroupEnabled":false},{"deviceId":1,"defaultNic":false,"pxeDisable":false,"dpdkEnabled":false,"ip":"10.1.1.21","netmask":"255.255.255.0","gateway":"10.1.1.1","mac":"1e:00:0b:00:00:0b","broadcastType":"Native","type":"Management","securityGroupEnabled":false,"name":"cloudbr0"}],"configDriveLocation":"SECONDARY","guestOsDetails":{},"extraConfig":{},"networkIdToNetworkNameMap":{}},"hostIp":"10.1.1.11","executeInSequence":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}},{"com.cloud.agent.api.check.CheckSshCommand":{"ip":"169.254.1.11","port":3922,"interval":6,"retries":100,"name":"s-1-VM","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "12-start-checkssh-response",
        "000000021f3a00000000000900000ce60000525400a1b2c300000000000000010000000000000001",
        r##"[{"com.cloud.agent.api.StartAnswer":{"vm":{"id":1,"name":"s-1-VM","bootloader":"HVM","type":"SecondaryStorageVm","cpus":1,"speed":500,"minRam":536870912,"maxRam":536870912,"hostName":"s-1-VM","arch":"x86_64","os":"Debian GNU/Linux 12 (64-bit)","bootArgs":" template\u003ddomP type\u003dsecstorage host\u003d10.1.1.5,10.1.1.6 port\u003d8250 name\u003ds-1-VM zone\u003d1 pod\u003d1 guid\u003ds-1-VM workers\u003d5 authorized_key\u003dc3NoLXJzYSBBQUFB resource\u003dcom.cloud.storage.resource.PremiumSecondaryStorageResource instance\u003dSecStorage sslcopy\u003dfalse role\u003dtemplateProcessor mtu\u003d1500 eth2ip\u003d203.0.113.51 eth2mask\u003d255.255.255.0 gateway\u003d203.0.113.1 public.network.device\u003deth2 eth0ip\u003d169.254.1.11 eth0mask\u003d255.255.0.0 eth1ip\u003d10.1.1.21 eth1mask\u003d255.255.255.0 mgmtcidr\u003d10.1.1.0/24 localgw\u003d10.1.1.1 private.network.device\u003deth1 internaldns1\u003d10.1.1.2 dns1\u003d8.8.8.8 nfsVersion\u003dnull keystore_password\u003dVzZhQ2RMZk1OcFFyU3RVdg\u003d\u003d useHttpsToUpload\u003dtrue secondaryStorageServerAddress\u003d10.1.1.9","enableHA":true,"limitCpuUse":false,"enableDynamicallyScaleVm":false,"vncPassword":"w7YzQpLk","uuid":"0a1b2c3d-aaaa-4bbb-8ccc-000000000001","enterHardwareSetup":false,"disks":[{"data":{"org.apache.cloudstack.storage.to.VolumeObjectTO":{"uuid":"a1a2a3a4-b1b2-c1c2-d1d2-e1e2e3e4e5e6","volumeType":"ROOT","dataStore":{"org.apache.cloudstack.storage.to.PrimaryDataStoreTO":{"uuid":"cc0a55c0-0000-3000-8000-00000000aaaa","name":"ps1","id":1,"poolType":"NetworkFilesystem","host":"10.1.1.9","path":"/export/primary","port":2049,"url":"NetworkFilesystem://10.1.1.9/export/primary/?ROLE\u003dPrimary\u0026STOREUUID\u003dcc0a55c0-0000-3000-8000-00000000aaaa","isManaged":false}},"name":"ROOT-1","size":5368709120,"path":"e9a5b0de-0000-4000-8000-0000000000f1","volumeId":31,"vmName":"s-1-VM","accountId":2,"format":"QCOW2","provisioningType":"THIN","id":31,"deviceId":0,"hypervisorType":"KVM","directDownload":false,"deployAsIs":false,"followRedirects":false}},"diskSeq":0,"path":"e9a5b0de-0000-4000-8000-0000000000f1","type":"ROOT"}],"nics":[{"deviceId":2,"defaultNic":true,"pxeDisable":false,"dpdkEnabled":false,"ip":"203.0.113.51","netmask":"255.255.255.0","gateway":"203.0.113.1","mac":"1e:00:38:00:00:33","dns1":"8.8.8.8","broadcastType":"Vlan","type":"Public","broadcastUri":"vlan://untagged","isolationUri":"vlan://untagged","securityGroupEnabled":false,"name":"cloudbr0"},{"deviceId":0,"defaultNic":false,"pxeDisable":false,"nicUuid":"5b0c0001-0000-4000-8000-000000000001","dpdkEnabled":false,"ip":"169.254.1.11","netmask":"255.255.0.0","gateway":"169.254.0.1","mac":"0e:00:a9:fe:01:0b","broadcastType":"LinkLocal","type":"Control","securityGroupEnabled":false},{"deviceId":1,"defaultNic":false,"pxeDisable":false,"dpdkEnabled":false,"ip":"10.1.1.21","netmask":"255.255.255.0","gateway":"10.1.1.1","mac":"1e:00:0b:00:00:0b","broadcastType":"Native","type":"Management","securityGroupEnabled":false,"name":"cloudbr0"}],"configDriveLocation":"SECONDARY","guestOsDetails":{},"extraConfig":{},"networkIdToNetworkNameMap":{}},"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}},{"com.cloud.agent.api.check.CheckSshAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "13-cancel-control",
        "00000063ffffffffffffffff000000940000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.CancelCommand":{"sequence":2250110963824984071,"reason":"Timed Out","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "14-ready-refused",
        "00000007ffffffffffffffff000000beffffffffffffffffffffffffffffffffffffffffffffffff",
        r##"[{"com.cloud.agent.api.ReadyCommand":{"_details":"java.lang.IllegalArgumentException: Host 10.1.1.21 sent incorrect data center: 99","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "15-firewall-request",
        "000000231f3a000000000004000001110000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.SecStorageFirewallCfgCommand":{"portConfigs":[{"add":true,"sourceIp":"203.0.113.51","port":"80","intf":"eth2"},{"add":true,"sourceIp":"10.1.1.21","port":"80","intf":"eth1"}],"isAppendAIp":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "16-error-response",
        "000000021f3a000000000004000000950000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.Answer":{"result":false,"details":"java.lang.RuntimeException: boom","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
    (
        "18-unicode-response",
        "000000021f3a000000000004000000cc0000525400a1b2c300000000000000040000000000000004",
        r##"[{"com.cloud.agent.api.Answer":{"result":false,"details":"Größe 中文 😀 \u003ca href\u003d\u0027x\u0027\u003e\u0026\u003d\u2028 \"q\" \\ \t","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    ),
];

/// A packet's header in hex and its text, long enough to be zipped or just not.
fn long() -> [(&'static str, String); 3] {
    let rules: Vec<String> = (0..150)
        .map(|index| format!(r#"{{"add":true,"sourceIp":"203.0.113.{index}","port":"80","intf":"eth2"}}"#))
        .collect();
    let rules = format!(
        r#"[{{"com.cloud.agent.api.SecStorageFirewallCfgCommand":{{"portConfigs":[{}],"isAppendAIp":false,"contextMap":{{}},"wait":0,"bypassHostMaintenance":false}}}}]"#,
        rules.join(",")
    );
    let padded = |length: usize| {
        let (head, tail) = (
            r#"[{"com.cloud.agent.api.Answer":{"result":true,"details":""#,
            r#"","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"#,
        );
        format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len()))
    };
    [
        ("000000a31f3a000000000003000026d10000525400a1b2c300000000000000040000000000000004", rules),
        ("000000021f3a00000000000400001fff0000525400a1b2c300000000000000040000000000000004", padded(8191)),
        ("000000821f3a000000000004000020000000525400a1b2c300000000000000040000000000000004", padded(8192)),
    ]
}

/// The text comes back, through the typed command, as the same value.
fn round<T: Wire>(text: &str) {
    let message = json::parse(text.as_bytes()).unwrap().remove(0).unwrap();
    let typed: T = message.read().unwrap_or_else(|error| panic!("{text}: {error}"));
    let written = json::write(&[Message::of(&typed).unwrap()]);
    let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(text).unwrap());
}

#[test]
fn typed_commands_and_answers_keep_every_member() {
    round::<StartupSecondaryStorageCommand>(
        r##"[{"com.cloud.agent.api.StartupSecondaryStorageCommand":{"type":"SecondaryStorage","dataCenter":"1","pod":"1","guid":"s-1-VM-NfsSecondaryStorageResource","name":"s-1-VM","version":"4.22.0.0-SNAPSHOT","iqn":"NoIqn","publicIpAddress":"203.0.113.51","publicNetmask":"255.255.255.0","publicMacAddress":"1e:00:38:00:00:33","privateIpAddress":"10.1.1.21","privateMacAddress":"1e:00:0b:00:00:0b","privateNetmask":"255.255.255.0","storageIpAddress":"10.1.1.21","storageNetmask":"255.255.255.0","storageMacAddress":"1e:00:0b:00:00:0b","resourceName":"NfsSecondaryStorageResource","msHostList":"10.1.1.5,10.1.1.6","connectionTransferred":false,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupSecondaryStorageCommand>(
        r##"[{"com.cloud.agent.api.StartupSecondaryStorageCommand":{"type":"SecondaryStorage","dataCenter":"1","pod":"1","guid":"s-1-VM-PremiumSecondaryStorageResource","name":"s-1-VM","id":4,"version":"4.22.0.0-SNAPSHOT","iqn":"NoIqn","publicIpAddress":"203.0.113.51","publicNetmask":"255.255.255.0","publicMacAddress":"1e:00:38:00:00:33","privateIpAddress":"10.1.1.21","privateMacAddress":"1e:00:0b:00:00:0b","privateNetmask":"255.255.255.0","storageIpAddress":"10.1.1.21","storageNetmask":"255.255.255.0","storageMacAddress":"1e:00:0b:00:00:0b","resourceName":"PremiumSecondaryStorageResource","msHostList":"10.1.1.5,10.1.1.6@roundrobin","connectionTransferred":true,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupProxyCommand>(
        r##"[{"com.cloud.agent.api.StartupProxyCommand":{"proxyPort":80,"proxyVmId":2,"type":"ConsoleProxy","dataCenter":"1","pod":"1","guid":"Proxy.2-ConsoleProxyResource","name":"v-2-VM","version":"4.22.0.0-SNAPSHOT","iqn":"NoIqn","publicIpAddress":"203.0.113.52","publicNetmask":"255.255.255.0","publicMacAddress":"1e:00:39:00:00:34","privateIpAddress":"10.1.1.22","privateMacAddress":"1e:00:0c:00:00:0c","privateNetmask":"255.255.255.0","storageIpAddress":"10.1.1.22","storageNetmask":"255.255.255.0","storageMacAddress":"1e:00:0c:00:00:0c","resourceName":"ConsoleProxyResource","msHostList":"10.1.1.5,10.1.1.6","connectionTransferred":false,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupRoutingCommand>(
        r##"[{"com.cloud.agent.api.StartupRoutingCommand":{"cpuSockets":1,"cpus":8,"speed":2600,"cpuArch":"x86_64","memory":33554432000,"dom0MinMemory":1073741824,"poolSync":false,"supportsClonedVolumes":false,"caps":"hvm,snapshot","pool":"/root","hypervisorType":"KVM","hostDetails":{"com.cloud.network.Networks.RouterPrivateIpStrategy":"HostLocal","Host.OS.Version":"12","secured":"true","Host.OS":"Debian GNU/Linux"},"hostTags":[],"groupDetails":{},"gpuDevices":[],"type":"Routing","dataCenter":"1","pod":"1","cluster":"1","guid":"3d8c1f0a-2b4d-4c6e-9f10-a1b2c3d4e5f6-LibvirtComputingResource","name":"kvm1.example.org","version":"4.22.0.0-SNAPSHOT","iqn":"iqn.1993-08.org.debian:01:abc","publicIpAddress":"10.1.1.11","publicNetmask":"255.255.255.0","publicMacAddress":"52:54:00:aa:00:11","privateIpAddress":"10.1.1.11","privateMacAddress":"52:54:00:aa:00:11","privateNetmask":"255.255.255.0","storageIpAddress":"10.1.1.11","storageNetmask":"255.255.255.0","storageMacAddress":"52:54:00:aa:00:11","resourceName":"LibvirtComputingResource","gatewayIpAddress":"10.1.1.1","msHostList":"10.1.1.5,10.1.1.6","connectionTransferred":false,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupAnswer>(
        r##"[{"com.cloud.agent.api.StartupAnswer":{"hostId":0,"hostName":"","hostUuid":"","pingInterval":60,"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupAnswer>(
        r##"[{"com.cloud.agent.api.StartupAnswer":{"hostId":4,"hostName":"s-1-VM","hostUuid":"f6a1b2c3-d4e5-46f7-8899-aabbccddeeff","pingInterval":60,"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupAnswer>(
        r##"[{"com.cloud.agent.api.StartupAnswer":{"hostId":0,"pingInterval":0,"result":false,"details":"Host 10.1.1.21 sent incorrect data center: 99","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ReadyCommand>(
        r##"[{"com.cloud.agent.api.ReadyCommand":{"dcId":1,"hostId":4,"hostUuid":"f6a1b2c3-d4e5-46f7-8899-aabbccddeeff","hostName":"s-1-VM","enableHumanReadableSizes":true,"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<ReadyCommand>(
        r##"[{"com.cloud.agent.api.ReadyCommand":{"dcId":1,"hostId":4,"hostUuid":"f6a1b2c3-d4e5-46f7-8899-aabbccddeeff","hostName":"s-1-VM","msHostList":["10.1.1.5","10.1.1.6"],"avoidMsHostList":[],"lbAlgorithm":"static","lbCheckInterval":0,"enableHumanReadableSizes":true,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ReadyCommand>(
        r##"[{"com.cloud.agent.api.ReadyCommand":{"_details":"java.lang.IllegalArgumentException: Host 10.1.1.21 sent incorrect data center: 99","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ReadyAnswer>(
        r##"[{"com.cloud.agent.api.ReadyAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ReadyAnswer>(
        r##"[{"com.cloud.agent.api.ReadyAnswer":{"detailsMap":{"host.uefi.enable":"true"},"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingStorageCommand>(
        r##"[{"com.cloud.agent.api.PingStorageCommand":{"changes":{},"hostType":"Storage","hostId":4,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingCommand>(
        r##"[{"com.cloud.agent.api.PingCommand":{"hostType":"ConsoleProxy","hostId":5,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingRoutingCommand>(
        r##"[{"com.cloud.agent.api.PingRoutingCommand":{"_hostVmStateReport":{"s-1-VM":{"state":"PowerOn","host":"kvm1.example.org"},"v-2-VM":{"state":"PowerOn","host":"kvm1.example.org"}},"_gatewayAccessible":true,"_vnetAccessible":true,"hostType":"Routing","hostId":1,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingRoutingCommand>(
        r##"[{"com.cloud.agent.api.PingRoutingCommand":{"_hostVmStateReport":{"s-1-VM":{"state":"PowerOn","host":"kvm1.example.org"},"v-2-VM":{"state":"PowerOn","host":"kvm1.example.org"}},"_gatewayAccessible":true,"_vnetAccessible":true,"hostHealthCheckResult":true,"hostType":"Routing","hostId":1,"outOfBand":false,"commandInfos":[{"requestSeq":2250110963824984073,"state":"PROCESSING","startTime":"Oct 9, 2025, 8:53:20 AM","updateTime":"Oct 9, 2025, 8:53:24 AM","commandName":"com.cloud.agent.api.MigrateCommand","timeout":3600}],"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingAnswer>(
        r##"[{"com.cloud.agent.api.PingAnswer":{"_command":{"changes":{},"hostType":"Storage","hostId":4,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false},"sendStartup":false,"avoidMsList":[],"reconcileCommands":[],"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<PingAnswer>(
        r##"[{"com.cloud.agent.api.PingAnswer":{"_command":{"hostType":"ConsoleProxy","hostId":5,"outOfBand":false,"commandInfos":[],"contextMap":{},"wait":0,"bypassHostMaintenance":false},"sendStartup":true,"avoidMsList":["10.1.1.6"],"reconcileCommands":[],"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<CheckHealthCommand>(
        r##"[{"com.cloud.agent.api.CheckHealthCommand":{"contextMap":{},"wait":50,"bypassHostMaintenance":false}}]"##,
    );
    round::<CheckHealthAnswer>(
        r##"[{"com.cloud.agent.api.CheckHealthAnswer":{"result":true,"details":"resource is alive","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ShutdownCommand>(
        r##"[{"com.cloud.agent.api.ShutdownCommand":{"reason":"sig.kill","removeHost":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ShutdownCommand>(
        r##"[{"com.cloud.agent.api.ShutdownCommand":{"reason":"sig.kill","detail":"Restarting due to new X509 certificates","removeHost":false,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<ShutdownCommand>(
        r##"[{"com.cloud.agent.api.ShutdownCommand":{"reason":"deleteHost","removeHost":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<Answer>(
        r##"[{"com.cloud.agent.api.Answer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<Answer>(
        r##"[{"com.cloud.agent.api.Answer":{"result":false,"details":"Stopped by previous failure","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<Answer>(
        r##"[{"com.cloud.agent.api.Answer":{"result":false,"details":"Größe 中文 😀 \u003ca href\u003d\u0027x\u0027\u003e\u0026\u003d\u2028 \"q\" \\ \t","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<MaintainCommand>(
        r##"[{"com.cloud.agent.api.MaintainCommand":{"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<MaintainAnswer>(
        r##"[{"com.cloud.agent.api.MaintainAnswer":{"willMigrate":true,"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<UnsupportedAnswer>(
        r##"[{"com.cloud.agent.api.UnsupportedAnswer":{"result":false,"details":"Unsupported command issued: com.cloud.agent.api.MaintainCommand.  Are you sure you got the right type of server?","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<AgentControlAnswer>(
        r##"[{"com.cloud.agent.api.AgentControlAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupMsListCommand>(
        r##"[{"org.apache.cloudstack.agent.lb.SetupMSListCommand":{"msList":["10.1.1.6","10.1.1.5"],"avoidMsList":["10.1.1.5"],"lbAlgorithm":"roundrobin","lbCheckInterval":3600,"triggerHostLb":false,"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupMsListAnswer>(
        r##"[{"org.apache.cloudstack.agent.lb.SetupMSListAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<MigrateAgentConnectionCommand>(
        r##"[{"com.cloud.agent.api.MigrateAgentConnectionCommand":{"msList":["10.1.1.6","10.1.1.5"],"avoidMsList":["10.1.1.5"],"lbAlgorithm":"shuffle","lbCheckInterval":0,"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<MigrateAgentConnectionAnswer>(
        r##"[{"com.cloud.agent.api.MigrateAgentConnectionAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<MigrateAgentConnectionAnswer>(
        r##"[{"com.cloud.agent.api.MigrateAgentConnectionAnswer":{"result":false,"details":"Migrate agent connection failed, due to Could not persist received management servers list","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupKeyStoreCommand>(
        r##"[{"org.apache.cloudstack.ca.SetupKeyStoreCommand":{"validityDays":365,"keystorePassword":"dP5fT6Gk9Lq2Zx7w","handleByAgent":true,"accessDetails":{},"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupKeyStoreCommand>(
        r##"[{"org.apache.cloudstack.ca.SetupKeyStoreCommand":{"validityDays":365,"keystorePassword":"dP5fT6Gk9Lq2Zx7w","handleByAgent":false,"accessDetails":{"router.name":"s-1-VM","Control":"169.254.1.11","Management":"10.1.1.21","Public":"203.0.113.51","router.ip":"169.254.1.11"},"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupKeystoreAnswer>(
        r##"[{"org.apache.cloudstack.ca.SetupKeystoreAnswer":{"csr":"-----BEGIN NEW CERTIFICATE REQUEST-----\nMIIB...\n-----END NEW CERTIFICATE REQUEST-----\n","result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupCertificateCommand>(
        r##"[{"org.apache.cloudstack.ca.SetupCertificateCommand":{"certificate":"-----BEGIN CERTIFICATE-----\nMIIC...leaf\n-----END CERTIFICATE-----\n","privateKey":"-----BEGIN TEST KEY-----\nMIIE...\n-----END TEST KEY-----\n","caCertificates":"-----BEGIN CERTIFICATE-----\nMIIC...ca\n-----END CERTIFICATE-----\n","handleByAgent":true,"accessDetails":{},"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupCertificateCommand>(
        r##"[{"org.apache.cloudstack.ca.SetupCertificateCommand":{"certificate":"-----BEGIN CERTIFICATE-----\nMIIC...leaf\n-----END CERTIFICATE-----\n","privateKey":"-----BEGIN TEST KEY-----\nMIIE...\n-----END TEST KEY-----\n","caCertificates":"-----BEGIN CERTIFICATE-----\nMIIC...ca\n-----END CERTIFICATE-----\n","handleByAgent":false,"accessDetails":{"router.name":"s-1-VM","Control":"169.254.1.11","Management":"10.1.1.21","Public":"203.0.113.51","router.ip":"169.254.1.11"},"contextMap":{},"wait":60,"bypassHostMaintenance":false}}]"##,
    );
    round::<SetupCertificateAnswer>(
        r##"[{"org.apache.cloudstack.ca.SetupCertificateAnswer":{"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
    round::<StartupStorageCommand>(
        r##"[{"com.cloud.agent.api.StartupStorageCommand":{"parent":"/var/lib/libvirt/images/","templateInfo":{},"totalSize":500107862016,"poolInfo":{"uuid":"9d1e0c7b-0000-4000-8000-0000000000aa","host":"10.1.1.11","localPath":"/var/lib/libvirt/images/","hostPath":"/var/lib/libvirt/images/","poolType":"Filesystem","capacityBytes":500107862016,"availableBytes":400107862016},"resourceType":"STORAGE_POOL","fsType":"Filesystem","hostDetails":{},"type":"Storage","dataCenter":"1","pod":"1","guid":"9d1e0c7b-0000-4000-8000-0000000000aa","name":"kvm1.example.org","version":"4.22.0.0-SNAPSHOT","publicNetmask":"255.255.255.0","privateIpAddress":"10.1.1.11","privateMacAddress":"52:54:00:aa:00:11","privateNetmask":"255.255.255.0","resourceName":"LibvirtComputingResource","msHostList":"10.1.1.5,10.1.1.6","connectionTransferred":false,"arch":"x86_64","contextMap":{},"wait":0,"bypassHostMaintenance":false}}]"##,
    );
}

#[test]
fn plain_packets_are_read_and_written_byte_for_byte() {
    for (name, header, text) in PLAIN {
        let mut bytes = hex::decode(header).unwrap();
        bytes.extend_from_slice(text.as_bytes());
        let packet = Packet::decode(&bytes, MAX_CONTENT).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(packet.encode(), bytes, "{name}");
        let messages: Vec<Message> = packet.messages().unwrap().into_iter().map(Result::unwrap).collect();
        let written: serde_json::Value = serde_json::from_slice(&json::write(&messages)).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap(), "{name}");
    }
}

#[test]
fn long_packets_are_zipped() {
    for (header, text) in long() {
        let header = hex::decode(header).unwrap();
        let zipped = Flags(u16::from_be_bytes([header[2], header[3]])).has(Flags::COMPRESSED);
        assert_eq!(zipped, text.len() >= 8192);
        assert!(Packet::decode(&header, MAX_CONTENT).is_err(), "the text is missing");
        let mut packet = Packet::new(
            Flags(u16::from_be_bytes([header[2], header[3]])),
            i64::from_be_bytes(header[4..12].try_into().unwrap()),
            Ids { management: 0x5254_00a1_b2c3, agent: 4, via: 4 },
            &[],
        );
        packet.content = text.into_bytes();
        let bytes = packet.encode();
        assert_eq!(bytes[..40], header[..]);
        assert!(!zipped || bytes[40..44] == [0x1f, 0x8b, 8, 0] && bytes.len() < 1200);
        let back = Packet::decode(&bytes, MAX_CONTENT).unwrap();
        assert_eq!(back.content, packet.content);
        assert!(Packet::decode(&bytes, 8190).is_err());
    }
}

#[test]
fn responses_copy_what_the_contract_says() {
    // Request and response of the same exchange, as the first implementation sent them.
    for (request, response) in [
        ("03-ready-request", "04-ready-response"),
        ("11-start-checkssh-request", "12-start-checkssh-response"),
    ] {
        let find = |name: &str| {
            let (_, header, text) = PLAIN.iter().find(|(known, ..)| *known == name).unwrap();
            let bytes = [hex::decode(header).unwrap(), text.as_bytes().to_vec()].concat();
            Packet::decode(&bytes, MAX_CONTENT).unwrap()
        };
        let (request, response) = (find(request), find(response));
        let answers: Vec<Message> = response.messages().unwrap().into_iter().map(Result::unwrap).collect();
        let ours = request.response(&answers);
        assert_eq!(
            (ours.flags, ours.sequence, ours.management, ours.agent, ours.via),
            (response.flags, response.sequence, response.management, response.agent, response.via)
        );
    }
}
