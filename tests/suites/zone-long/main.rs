//! What takes long of a zone: a host that is lost with a router that forwards, and all parts killed again and again.

mod soak;

use std::time::{Duration, Instant};

use tests::{
    lab::vm::image_folder,
    zone::hosts::{FENCE, Image, Zone},
};

/// Longest time for a router to be ready, under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// What may pass after a host has ended its VMs until its router forwards, the boot apart.
const FLOOR: Duration = Duration::from_secs(30);

#[test]
fn a_lost_hosts_router_forwards_again() {
    let image = image_folder().join("trivium.qcow2");
    let lab = Zone::new(2, Image::File(&image), "");
    let [guest, _outside] = lab.guest_and_outside();
    let forwards = || guest.sh("ping -n -c 1 -W 1 203.0.113.1").status.success();
    assert!(lab.watch(BOOT, |_| lab.is_ready() && forwards()), "{}", lab.events());

    let first = lab.running()[0];
    lab.cables(&lab.hosts[first].name, false);
    let cut = Instant::now();
    assert!(lab.watch(BOOT, |running| running.iter().any(|host| *host != first)), "{}", lab.events());
    let begun = cut.elapsed();
    assert!(lab.watch(BOOT, |_| forwards()), "{}", lab.events());
    let forwarded = cut.elapsed();
    println!(
        "host_lost: its VM began elsewhere after {begun:?}, forwarded after {forwarded:?}: boot {:?}",
        forwarded - begun
    );
    assert!(begun < FENCE + FLOOR, "after {begun:?}");

    // It comes back with its own idea of what it runs.
    lab.cables(&lab.hosts[first].name, true);
    assert!(lab.watch(BOOT, |_| lab.events().contains("is back")), "{}", lab.events());
    assert!(lab.watch(BOOT, |_| lab.is_ready()), "{}", lab.events());
    assert!(forwards() && !lab.running().contains(&first));
}
