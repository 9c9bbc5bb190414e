use super::*;
use crate::zone::tests::example;

#[test]
fn numbers_names_and_addresses_are_given_out_once() {
    let zone = example();
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(folder.path()).unwrap();
    db.take_zone(&zone).unwrap();
    let before = db.vms().unwrap();
    let names: Vec<_> = before.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["r-1-VM", "s-2-VM", "v-3-VM", "i-2-4-VM"]);
    assert_eq!(before[1].nics[0].mac, "0e:00:a9:fe:01:02");
    assert_eq!(before[3].nics[0].mac, "02:01:00:cc:00:09");
    drop(db);

    let db = Db::open(folder.path()).unwrap();
    db.take_zone(&zone).unwrap();
    assert_eq!(db.vms().unwrap(), before, "the same after a restart");
}

#[test]
fn only_one_manager_works_on_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _db = Db::open(folder.path()).unwrap();
    let error = Db::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("Another `manage serve`"), "{error}");
}

#[test]
fn a_database_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Db::open(folder.path()).unwrap());
    let connection = Connection::open(folder.path().join("manage.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(Db::open(folder.path()), Err(DbError::Newer { found: 99, .. })));
}

#[test]
fn a_vm_that_leaves_the_zone_is_marked_and_comes_back_as_it_was() {
    let zone = example();
    let db = Db::in_memory().unwrap();
    db.take_zone(&zone).unwrap();
    let before = db.vms().unwrap();
    let mut smaller = zone.clone();
    smaller.guests.clear();
    db.take_zone(&smaller).unwrap();
    assert_eq!(db.vms().unwrap()[3].wanted, Wanted::Removed);
    db.take_zone(&zone).unwrap();
    assert_eq!(db.vms().unwrap(), before);
}

#[test]
fn a_vm_that_the_operator_stopped_stays_stopped() {
    let zone = example();
    let db = Db::in_memory().unwrap();
    db.take_zone(&zone).unwrap();
    db.want(2, Wanted::Stopped).unwrap();
    db.take_zone(&zone).unwrap();
    assert_eq!(db.vms().unwrap()[1].wanted, Wanted::Stopped);
}

#[test]
fn addresses_in_use_are_passed_over() {
    let mut zone = example();
    zone.public.range = ("203.0.113.1".parse().unwrap(), "203.0.113.4".parse().unwrap());
    let db = Db::in_memory().unwrap();
    db.take_zone(&zone).unwrap();
    let public: Vec<_> =
        db.vms().unwrap().iter().filter_map(|v| v.address(common::command::host::Traffic::Public)).collect();
    assert_eq!(
        public,
        ["203.0.113.2", "203.0.113.3", "203.0.113.4"].map(|a| a.parse::<std::net::Ipv4Addr>().unwrap())
    );
    zone.public.range.1 = "203.0.113.3".parse().unwrap();
    let error = Db::in_memory().unwrap().take_zone(&zone).unwrap_err().to_string();
    assert!(error.contains("the public range"), "{error}");
}

#[test]
fn a_console_session_is_good_once() {
    let db = Db::in_memory().unwrap();
    let session = ConsoleSession { uuid: "u".into(), vm: "v".into() };
    db.add_console_session(&session).unwrap();
    assert_eq!(db.redeem_console_session("u", "192.0.2.1").unwrap(), Redeem::Granted(session));
    assert_eq!(db.redeem_console_session("u", "192.0.2.1").unwrap(), Redeem::Used);
    db.end_console_session("u").unwrap();
    assert_eq!(db.redeem_console_session("u", "192.0.2.1").unwrap(), Redeem::Unknown);
    assert_eq!(db.redeem_console_session("other", "192.0.2.1").unwrap(), Redeem::Unknown);
}

#[test]
fn a_token_is_good_once() {
    let db = Db::in_memory().unwrap();
    db.put_join_token("h1", b"hash", now() + 60).unwrap();
    assert_eq!(db.join_token("h1").unwrap().unwrap(), b"hash");
    assert!(db.use_join_token("h1").unwrap());
    assert!(!db.use_join_token("h1").unwrap());
    db.put_join_token("h1", b"hash", now() - 1).unwrap();
    assert!(db.join_token("h1").unwrap().is_none());
}

#[test]
fn a_template_that_failed_may_be_asked_for_again() {
    let db = Db::in_memory().unwrap();
    let mut first = db.add_template("t", "nfs1", "http://a/t", "QCOW2", None, "s-2-VM").unwrap().unwrap();
    assert!(db.add_template("t", "nfs1", "http://a/t", "QCOW2", None, "s-2-VM").unwrap().is_none());
    first.state = TemplateState::Failed;
    db.put_template(&first).unwrap();
    let second =
        db.add_template("t", "nfs1", "http://b/t", "QCOW2", Some("{MD5}aa"), "s-5-VM").unwrap().unwrap();
    assert_eq!((second.state, second.url.as_str()), (TemplateState::Downloading, "http://b/t"));
    assert_eq!((db.downloads_of("s-5-VM").unwrap(), db.downloads_of("s-2-VM").unwrap()), (1, 0));
    assert_eq!(db.templates().unwrap().len(), 1);
}

#[test]
fn a_peer_keeps_its_id() {
    let db = Db::in_memory().unwrap();
    let first = db.peer("g", "s-2-VM", "SecondaryStorage").unwrap();
    assert_eq!(db.peer("g", "s-2-VM", "SecondaryStorage").unwrap(), first);
    assert_ne!(db.peer("h", "v-3-VM", "ConsoleProxy").unwrap().id, first.id);
}

#[test]
fn a_certificate_is_known_by_its_serial_number() {
    let db = Db::in_memory().unwrap();
    assert!(!db.has_certificate("h1").unwrap());
    db.issued("00AB12", "h1", 7).unwrap();
    assert_eq!(db.certificate_owner("ab12").unwrap().as_deref(), Some("h1"));
    assert_eq!(db.certificate_owner("ab13").unwrap(), None);
    assert!(db.has_certificate("h1").unwrap());
}

#[test]
fn revoked_certificates_stay_known_and_are_not_renewed() {
    let db = Db::in_memory().unwrap();
    db.take_zone(&example()).unwrap();
    db.certified(2, "start").unwrap();
    assert_eq!(db.certificate_end("s-2-VM").unwrap(), None);
    for (serial, end) in [("a1", 7), ("a2", 9)] {
        db.issued(serial, "s-2-VM", end).unwrap();
    }
    db.issued("b1", "h1", 8).unwrap();
    assert_eq!(db.certificate_end("s-2-VM").unwrap(), Some(9));
    assert_eq!(db.revoke("s-2-VM").unwrap(), 2);
    assert_eq!(db.revoke("s-2-VM").unwrap(), 0);
    assert_eq!(db.certificate_end("s-2-VM").unwrap(), None);
    assert_eq!(db.revoked().unwrap(), ["a1", "a2"]);
    assert_eq!(db.vms().unwrap()[1].certificate_for, "", "it is given a new one");
    assert_eq!(db.certificate_owner("a1").unwrap().as_deref(), Some("s-2-VM"));
    assert_eq!(db.certificate_end("h1").unwrap(), Some(8));
}

#[test]
fn events_are_bounded() {
    let db = Db::in_memory().unwrap();
    for number in 0..600 {
        db.event("zone", &number.to_string()).unwrap();
    }
    let events = db.events(1000, 0).unwrap();
    assert_eq!((events.len(), &*events[0].text, &*events[499].text), (500, "100", "599"));
    let later = db.events(1000, events[497].id).unwrap();
    assert_eq!(later, events[498..], "those after one");
}

#[test]
fn of_several_ssvms_the_first_one_runs_and_the_others_are_spare() {
    let mut zone = example();
    zone.system.ssvm_max = 3;
    let db = Db::in_memory().unwrap();
    db.take_zone(&zone).unwrap();
    let of = |db: &Db| -> Vec<(String, Wanted)> {
        let vms = db.vms().unwrap().into_iter();
        vms.filter(|vm| vm.kind == Kind::Ssvm).map(|vm| (vm.name, vm.wanted)).collect()
    };
    let all = of(&db);
    assert_eq!(
        all.iter().map(|(_, wanted)| *wanted).collect::<Vec<_>>(),
        [Wanted::Running, Wanted::Spare, Wanted::Spare]
    );
    let addresses: std::collections::BTreeSet<_> =
        db.vms().unwrap().iter().flat_map(|vm| vm.nics.clone()).map(|nic| nic.address).collect();
    assert_eq!(addresses.len(), db.vms().unwrap().iter().map(|vm| vm.nics.len()).sum::<usize>());
    db.want(db.vms().unwrap()[2].id, Wanted::Running).unwrap();
    zone.system.ssvm_max = 1;
    db.take_zone(&zone).unwrap();
    let left: Vec<_> = of(&db).into_iter().map(|(_, wanted)| wanted).collect();
    assert_eq!(left, [Wanted::Running, Wanted::Removed, Wanted::Removed]);
    zone.system.ssvm_max = 2;
    db.take_zone(&zone).unwrap();
    assert_eq!(of(&db)[1].1, Wanted::Spare, "back as a spare");
}
