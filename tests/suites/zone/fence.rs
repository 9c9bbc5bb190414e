//! Hosts that are cut off: no links are touched but those of the test, and no process but by the zone itself.

use std::time::{Duration, Instant};

use tests::{
    lab::{Namespace, wait_until},
    zone::hosts::{FENCE, Image, MARGIN, SOON, Zone},
};

#[test]
fn a_host_that_is_cut_off_ends_its_vm_and_another_one_starts_it() {
    let mut lab = Zone::new(3, Image::Empty, "");
    let first = lab.running()[0];
    let name = lab.hosts[first].name.clone();

    // The manager is cut off: the hosts go on, and it starts nothing.
    lab.cables("m", false);
    lab.watch(FENCE + MARGIN + Duration::from_secs(4), |_| false);
    assert_eq!(lab.running(), [first], "hosts go on without their manager");
    let events = lab.events();
    assert!(
        events.contains("this manager hears 1 of 4 votes only") && !events.contains("is lost"),
        "{events}"
    );
    lab.cables("m", true);
    wait_until("the manager hears all again", SOON, || lab.hears_all());
    assert!(lab.manage(&["host-off", &name]).unwrap_err().contains("is heard: it is not powered off"));

    // The host is cut off; nothing of `manage host` is left there to stop anything.
    lab.hosts[first].agent.kill();
    lab.cables(&name, false);
    let cut = Instant::now();
    assert!(lab.watch(SOON, |running| running.is_empty()), "its guard ends the VM: {}", lab.events());
    let ended = cut.elapsed();
    assert!(
        ended > FENCE - Duration::from_secs(1) && ended < FENCE + Duration::from_secs(10),
        "after {ended:?}"
    );
    assert!(lab.watch(SOON, |running| !running.is_empty() && running != [first]), "{}", lab.events());
    println!("the VM ended after {ended:?}, and began elsewhere after {:?}", cut.elapsed());
    let events = lab.events();
    assert!(events.contains("is lost: nobody hears it; 1 system VMs are started elsewhere"), "{events}");
    let second = lab.running()[0];

    // It comes back and is given nothing.
    lab.cables(&name, true);
    lab.start_again(first);
    assert!(lab.watch(SOON, |_| lab.events().contains("is back")), "{}", lab.events());
    lab.watch(Duration::from_secs(3), |_| false);
    assert_eq!(lab.running(), [second]);
}

/// The power of a host is cut: its guard is gone as well.
fn power_off(lab: &mut Zone) -> (String, Instant) {
    let first = lab.running()[0];
    let name = lab.hosts[first].name.clone();
    lab.cables(&name, false);
    lab.hosts[first].agent.kill();
    Namespace::end(lab.hosts[first].net.name());
    assert!(lab.running().is_empty());
    (name, Instant::now())
}

#[test]
fn the_operator_may_shorten_the_wait() {
    let mut lab = Zone::new(2, Image::Empty, "");
    let (name, cut) = power_off(&mut lab);
    wait_until("the manager hears it no longer", SOON, || lab.manage(&["host-off", &name]).is_ok());
    assert!(lab.watch(SOON, |running| !running.is_empty()), "{}", lab.events());
    assert!(cut.elapsed() < FENCE + MARGIN, "after {:?}", cut.elapsed());
}

#[test]
fn a_command_that_cuts_the_power_may_shorten_the_wait() {
    let mut lab = Zone::new(2, Image::Empty, "fence = [\"touch\", \"DIR/power-of-NAME\"]\n");
    let (name, cut) = power_off(&mut lab);
    assert!(lab.watch(SOON, |running| !running.is_empty()), "{}", lab.events());
    assert!(cut.elapsed() < FENCE + MARGIN, "after {:?}", cut.elapsed());
    assert!(lab.path(&format!("power-of-{name}")).exists());
    let events = lab.events();
    assert!(events.contains("is lost: its power was cut; 1 system VMs are started elsewhere"), "{events}");
}
