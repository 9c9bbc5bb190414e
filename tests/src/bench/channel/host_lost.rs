//! How long the router of a host that is cut off does not forward: the wait and the start of a copy elsewhere, and its
//! boot under emulation, apart.

use std::time::{Duration, Instant};

use crate::{
    bench::{Figure, Floor},
    lab::vm::image_folder,
    zone::hosts::{FENCE, Image, Zone},
};

/// Longest boot, under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(400);
/// Beyond [`FENCE`], the boot apart.
const FLOOR: f64 = 30.0;

pub(super) fn measure() {
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
    let boot = cut.elapsed() - begun;
    let floor = Floor::AtMost(FENCE.as_secs_f64() + FLOOR);
    Figure::host("host_lost", "s", vec![begun.as_secs_f64()], Some(floor)).print();
    Figure::host("host_lost_boot", "s", vec![boot.as_secs_f64()], None).print();
}
