//! Boot arguments: unknown ones are logged, malformed ones refused by name.

use crate::lab::{Lab, Role, STEP};

#[test]
fn an_unknown_argument_is_logged_and_harms_nothing() {
    let lab = Lab::new();
    let mut vm = lab.start(Role::ConsoleProxy, "colour_of_the_rack=blue");
    vm.wait_line("TRIVIUM-READY role=cpvm", STEP);
    let log = vm.agent(STEP).text("/state/log/boot/current");
    assert!(log.contains("colour_of_the_rack"), "{log}");
}

#[test]
fn a_malformed_argument_is_named_and_refused() {
    let lab = Lab::new();
    let mut vm = lab.waiting(Role::Router);
    vm.deliver(&lab.line(Role::Router, "type=toaster"), STEP);
    let said = vm.wait_line("toaster", STEP);
    assert!(said.contains("type"), "{said}");
    assert!(!vm.serial().contains("TRIVIUM-READY"), "{}", vm.serial());
    // Good arguments repair it.
    vm.deliver(&lab.line(Role::Router, ""), STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
}
