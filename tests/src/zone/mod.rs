//! A whole zone on this machine: its wires, the servers around it, and the checks of its main job.

pub mod browser;
mod faults;
pub mod hosts;
pub mod manage;
pub mod network;
pub mod report;
pub mod servers;
pub mod simulated;
pub mod steps;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::lab::Namespace;
use report::{Failure, Report};

/// Longest time for three system VMs and a guest to be ready, under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(300);

/// Word for the names of namespaces: the last part of the zone's folder.
fn id(dir: &Path) -> String {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name.rsplit('-').next().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(6).collect()
}

/// What to do with a zone once its main job is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Leave it running.
    Keep,
    /// End it.
    End,
    /// Kill its parts and see that they come back, then end it.
    Faults,
}

/// Lays, starts and checks a zone in `dir`. Returns whether every step went well.
pub fn run(dir: &Path, then: Then) -> bool {
    down(dir);
    let mut report = Report::default();
    if let Err(error) = all(dir, then, &mut report) {
        report.check("the zone", || Err(error));
    }
    report.close()
}

fn all(dir: &Path, then: Then, report: &mut Report) -> Result<(), Failure> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    let pictures = servers::checkout().join("image/out/pictures");
    fs::create_dir_all(&pictures)?;
    let begin = Instant::now();
    let mut network = network::Network::lay(&id(dir));
    let mut around = servers::internet(&network, dir)?;
    let ready = report.check("NFS and S3 servers, web and DNS of the internet", || {
        around.push(servers::nfs(&network, dir)?);
        servers::s3(&network, dir)?;
        Ok(String::new())
    });
    if !ready {
        return Err(format!("no stores; see {}", dir.display()).into());
    }
    let Some(mut manage) = report.step("manage serve and manage host", || {
        manage::Manage::start(&network, dir).map(|manage| (manage, String::new()))
    }) else {
        return Err("no management end".into());
    };
    let booted = report.check("router, SSVM, CPVM and guest are ready", || {
        manage.wait_ready(BOOT)?;
        Ok(format!("{:.0} s after the start", begin.elapsed().as_secs_f64()))
    });
    println!("{}", manage.overview());
    if booted {
        let scene = steps::Scene { network: &network, manage: &manage, dir, pictures };
        steps::router(report, &scene);
        steps::storage(report, &scene);
        steps::console(report, &scene);
        if then == Then::Faults {
            faults::all(report, &network, &mut manage, dir);
        }
    } else {
        println!("--- manage serve\n{}\n--- manage host\n{}", manage.serve.output(), manage.agent.output());
    }
    if then == Then::Keep {
        look_around(&manage, &network, dir);
        network.keep();
        manage.keep();
        around.iter_mut().for_each(crate::lab::Process::keep);
    }
    Ok(())
}

/// Tells where to look at a zone that runs on.
fn look_around(manage: &manage::Manage, network: &network::Network, dir: &Path) {
    println!("\nThe zone runs on. `image/stop` ends it.");
    println!("  manage:   {}", manage.by_hand());
    println!("  logs:     {}", dir.display());
    println!("  internet: ip netns exec {} curl http://203.0.113.10:8080/", network.inet.name());
    match manage.console_url("web1", &[]) {
        Ok(url) => println!(
            "  console:  {url}\n            (once, within a minute; for another one: manage console-url web1)"
        ),
        Err(error) => println!("  console:  {error}"),
    }
}

/// Ends a zone that was left running in `dir`. Its folder stays, for its logs.
pub fn down(dir: &Path) {
    for name in network::names(&id(dir)) {
        if Path::new("/run/netns").join(&name).exists() {
            Namespace::end(&name);
        }
    }
}
