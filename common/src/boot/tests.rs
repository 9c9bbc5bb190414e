use proptest::prelude::*;

use super::*;

pub(super) const ROUTER: &str = "template=domP name=r-7-VM authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 privateMtu=1500 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 dns2=192.0.2.54 logrotatefrequency=*:00:00";

#[test]
fn router_line_of_the_contract() {
    let id = Identity::parse(ROUTER).unwrap();
    assert_eq!((id.role, id.kind.as_str(), id.name.as_str()), (Role::Router, "router", "r-7-VM"));
    assert_eq!(id.control_nic, 1);
    assert_eq!(id.control().unwrap().ipv4().unwrap().to_string(), "169.254.10.20/16");
    assert_eq!(id.nics.iter().map(|n| n.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(id.authorized_key().as_deref(), Some("ssh-rsa AAAA"));
    assert_eq!(id.resolvers().len(), 2);
    assert!(id.problems.is_empty(), "{:?}", id.problems);
    assert!(id.unknown().is_empty(), "{:?}", id.unknown());
}

#[test]
fn control_nic_of_each_type() {
    let of = |line: &str| Identity::parse(line).unwrap().control_nic;
    assert_eq!(of("type=vpcrouter name=r-1-VM eth0ip=169.254.33.7 eth0mask=255.255.0.0"), 0);
    assert_eq!(of("type=dhcpsrvr name=r-1-VM"), 1);
    assert_eq!(of("type=dhcpsrvr name=r-1-VM sshonguest=true"), 0);
    assert_eq!(of("type=ilbvm name=b-1-VM"), 1);
    assert_eq!(of("type=consoleproxy name=v-1-VM eth0ip=169.254.1.2 eth0mask=255.255.0.0"), 0);
    let vmware =
        "type=secstorage name=s-1-VM eth0ip=0.0.0.0 eth0mask=0.0.0.0 eth1ip=10.0.0.4 eth1mask=255.255.255.0";
    assert_eq!(of(vmware), 1);
    assert_eq!(Identity::parse(vmware).unwrap().nic(0).unwrap().address, None);
}

#[test]
fn words_split_at_the_first_sign_and_the_last_one_wins() {
    let id = Identity::parse(
        "type=router  name=a name=b bare authorized_key=c3NoLXJzYSBBQUE= dns1=null domain=\n",
    )
    .unwrap();
    assert_eq!(id.name, "b");
    assert_eq!(id.get("bare"), Some("bare"));
    assert_eq!(id.authorized_key().as_deref(), Some("ssh-rsa AAA"));
    assert_eq!(id.get("dns1"), None);
    assert_eq!(id.get("domain"), None);
    let unpadded = Identity::parse("type=router name=a authorized_key=c3NoLXJzYSBBQUE").unwrap();
    assert_eq!(unpadded.authorized_key().as_deref(), Some("ssh-rsa AAA"));
}

#[test]
fn hidden_blanks_are_blanks() {
    let id =
        Identity::parse("console=hvc0 %template=domP%type=consoleproxy%name=v-2-VM%guid=Proxy.2").unwrap();
    assert_eq!((id.name.as_str(), id.get("guid")), ("v-2-VM", Some("Proxy.2")));
}

#[test]
fn bad_arguments_are_named_and_the_rest_stays() {
    let line = "type=router name=r-7-VM eth0ip=10.1.1.1 eth0mask=255.0.255.0 eth1ip=169.254.1.2 eth1mask=255.255.0.0 dns1=x mgmtcidr=10.0.0.0/8,bad port=many strange=1";
    let id = Identity::parse(line).unwrap();
    let texts: Vec<String> = id.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "boot argument eth0mask=255.0.255.0: is a mask with gaps",
            "boot argument dns1=x: is not an address",
            "boot argument port=many: is not a number",
            "boot argument mgmtcidr=bad: is not a CIDR",
        ]
    );
    assert!(id.nic(0).is_none());
    assert!(id.nic(1).is_some());
    assert_eq!(id.cidrs("mgmtcidr").len(), 1);
    assert_eq!(id.unknown(), ["strange"]);
}

#[test]
fn no_type_is_refused() {
    assert_eq!(Identity::parse("name=r-1-VM"), Err(ArgumentError::Missing("type")));
    let error = Identity::parse("type=toaster").unwrap_err().to_string();
    assert!(error.starts_with("boot argument type=toaster: is none of"), "{error}");
}

#[test]
fn secrets_stay_out_of_messages() {
    let error =
        super::identity::ArgumentError::Malformed { name: "a".into(), value: "b".into(), reason: "c".into() };
    assert_eq!(error.to_string(), "boot argument a=b: c");
    let id = Identity::parse("type=router name=bad_.-name").unwrap();
    assert_eq!(id.name, "router");
    assert_eq!(id.problems.len(), 1);
}

#[test]
fn load_and_ready() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    assert!(matches!(load(&paths), Err(LoadError::Read { .. })));
    fs::create_dir_all(paths.cache()).unwrap();
    fs::create_dir_all(paths.at("/dev")).unwrap();
    fs::write(paths.at("/dev/console"), "").unwrap();
    fs::write(paths.cmdline(), format!(" {ROUTER}\n")).unwrap();
    assert_eq!(load(&paths).unwrap().name, "r-7-VM");
    ready(&paths, "router").unwrap();
    assert!(fs::read_to_string(paths.boot_done()).unwrap().starts_with("20"));
    assert!(
        fs::read_to_string(paths.at("/dev/console"))
            .unwrap()
            .starts_with("TRIVIUM-READY role=router uptime=")
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(line in "\\PC{0,300}") {
        let _ = Identity::parse(&line);
    }

    #[test]
    fn any_router_line_is_read_or_refused(words in proptest::collection::vec("(eth[0-9]{1,2}(ip|mask|ip6|ip6prelen)|name|dns1|mgmtcidr|authorized_key)=[0-9a-f.:/=%]{0,18}", 0..12)) {
        let id = Identity::parse(&format!("{} type=router", words.join(" "))).unwrap();
        prop_assert!(id.nics.iter().all(|n| n.prefix <= 32));
    }
}
