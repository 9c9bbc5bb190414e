//! What happens to the zone when its processes are killed and its VMs lose their power.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    manage::Manage,
    network::{Network, WEB},
    report::{Failure, Report},
    servers,
    steps::{self, Scene},
};
use crate::lab::vm::Agent;

/// Longest time for VMs to be back, under emulation on a busy machine.
const BACK: Duration = Duration::from_secs(300);
/// Longest time for the management end to see that something has gone.
const SEEN: Duration = Duration::from_secs(90);
/// The kinds of system VMs.
const SYSTEM: [&str; 3] = ["router", "ssvm", "cpvm"];

/// Kills everything, one after the other, and looks whether it is all back.
pub fn all(report: &mut Report, network: &Network, manage: &mut Manage, dir: &Path) {
    let pictures = dir.to_path_buf();
    {
        let scene = Scene { network, manage, dir, pictures: pictures.clone() };
        report.check("SIGKILL of core and serve in all system VMs: flows pass, all come back", || {
            processes(&scene)
        });
        report.check("vm stop and vm start of the CPVM: an orderly end", || orderly(&scene));
        report.check("power off of the SSVM in the middle of a download", || job(&scene));
        report.check("power off of router and CPVM: started again, with what they were told", || {
            machines(&scene)
        });
    }
    report.check("SIGKILL of manage serve and manage host: VMs run on, the zone is ready again", || {
        let before: Vec<u64> = SYSTEM.iter().map(|kind| manage.qemu(kind)).collect::<Result<_, _>>()?;
        manage.serve.kill();
        manage.agent.kill();
        steps::page(network)?;
        manage.restart(network);
        manage.wait_ready(BACK)?;
        let after: Vec<u64> = SYSTEM.iter().map(|kind| manage.qemu(kind)).collect::<Result<_, _>>()?;
        if before != after {
            return Err(format!("QEMU processes were {before:?} and are {after:?}").into());
        }
        steps::page(network)?;
        Ok("the same QEMU processes".to_owned())
    });
}

fn processes(scene: &Scene<'_>) -> Result<String, Failure> {
    let mut killed = 0;
    for kind in SYSTEM {
        let socket = scene.manage.folder(kind)?.join("agent.sock");
        let mut agent = Agent::connect(&socket, SEEN).ok_or_else(|| format!("{kind}: no guest agent"))?;
        for service in ["core", "serve"] {
            let ran = agent.run("/bin/s6-svc", &["-k", &format!("/run/service/{service}")]);
            if ran.code != 0 {
                return Err(format!("{kind} {service}: {}", ran.stderr).into());
            }
            killed += 1;
        }
        if kind == "router" {
            steps::page(scene.network)?;
        }
    }
    let start = Instant::now();
    scene.manage.wait_ready(BACK)?;
    for kind in SYSTEM {
        let name = scene.manage.name(kind)?;
        healthy(scene, &name)?;
    }
    steps::page(scene.network)?;
    Ok(format!("{killed} processes, all healthy after {:.1} s", start.elapsed().as_secs_f64()))
}

fn orderly(scene: &Scene<'_>) -> Result<String, Failure> {
    let (name, log) = (scene.manage.name("cpvm")?, scene.manage.serial_log("cpvm"));
    let start = Instant::now();
    scene.manage.vm_order("stop", &name)?;
    let seconds = start.elapsed().as_secs_f64();
    let serial = fs::read_to_string(log)?;
    if serial.contains("panic") || !serial.contains("Power down") {
        return Err(format!("its console says: {serial}").into());
    }
    if scene.manage.vm("cpvm")?["state"] != "stopped" {
        return Err(scene.manage.overview().into());
    }
    scene.manage.vm_order("start", &name)?;
    scene.manage.wait_ready(BACK)?;
    Ok(format!("stopped after {seconds:.1} s"))
}

/// Waits until a VM says that it is healthy.
fn healthy(scene: &Scene<'_>, name: &str) -> Result<(), Failure> {
    let end = Instant::now() + BACK;
    loop {
        let status = scene.manage.run(name, &["status"]);
        if status.as_ref().is_ok_and(|text| text.lines().any(|line| line.trim() == "health: healthy")) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{name}: {status:?}").into());
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Cuts the power of a VM, and waits until the management end has seen it.
fn cut(scene: &Scene<'_>, kinds: &[&str]) -> Result<(), Failure> {
    for kind in kinds {
        let pid = i32::try_from(scene.manage.qemu(kind)?)?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    let end = Instant::now() + SEEN;
    for kind in kinds {
        while scene.manage.vm(kind)?["state"] == "ready" {
            if Instant::now() > end {
                return Err(format!("nobody has noticed that {kind} is gone").into());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// A download that loses its VM ends whole or with a cause, and leaves nothing half done.
fn job(scene: &Scene<'_>) -> Result<String, Failure> {
    let file = scene.dir.join("www/template.qcow2");
    let (hash, url) = (steps::hash(&fs::read(&file)?), format!("http://{WEB}/template.qcow2"));
    let before = servers::s3_keys(scene.network)?.len();
    let (manage, (url, hash)) = (scene.manage, (&url, &hash));
    let outcome = thread::scope(|scope| {
        let work =
            scope.spawn(|| manage.register("interrupted", url, hash, "s3a").map_err(|e| e.to_string()));
        // The download takes some seconds: it is under way.
        thread::sleep(Duration::from_millis(1500));
        cut(scene, &["ssvm"])?;
        scene.manage.wait_ready(BACK)?;
        work.join().map_err(|_| Failure::from("the order ended badly"))
    })?;
    let left = servers::s3_keys(scene.network)?.len() - before;
    let outcome = match (outcome, left) {
        (Ok(_), 1..) => "it went on and is whole".to_owned(),
        (Err(reason), 0) => format!("it failed: {reason}"),
        (outcome, left) => return Err(format!("{outcome:?}, and {left} objects more").into()),
    };
    let done = scene.manage.register("after", url, hash, "s3a")?;
    Ok(format!("{outcome}; another one: {}", done["state"]))
}

fn machines(scene: &Scene<'_>) -> Result<String, Failure> {
    let start = Instant::now();
    cut(scene, &["router", "cpvm"])?;
    scene.manage.wait_ready(BACK)?;
    let seconds = start.elapsed().as_secs_f64();
    steps::page(scene.network)?;
    let router = scene.manage.name("router")?;
    let status = scene.manage.run(&router, &["status"])?;
    for wanted in ["reservations: 1", "guests with metadata: 1", "port forwards: 2"] {
        if !status.lines().any(|line| line.trim() == wanted) {
            return Err(format!("'{wanted}' is not in: {status}").into());
        }
    }
    scene.manage.console_url("web1", &[])?;
    Ok(format!("{seconds:.0} s"))
}
