//! A zone of three hosts with a router that forwards, in which for a long time one part after the other is killed or cut
//! off at random, while operators change things. `TRIVIUM_SOAK_MINUTES` says how long (30), `TRIVIUM_SOAK_SEED` begins
//! the same course again.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tests::{
    lab::vm::image_folder,
    zone::hosts::{Image, Zone},
};

/// Longest time for all to be well again at the end: a boot under emulation, after whatever was under way.
const CALM: Duration = Duration::from_secs(900);
const HOSTS: usize = 3;
const ROUTER: &str = "r-1-VM";

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A course of events that is the same for the same seed (xorshift).
struct Course(u64);

impl Course {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn host(&mut self) -> usize {
        usize::try_from(self.below(HOSTS as u64)).unwrap()
    }
}

/// What operators were told is done.
#[derive(Default)]
struct Told {
    drained: BTreeMap<String, bool>,
    stopped: Option<bool>,
    /// Number of port forwards in the zone file, and in the one that was applied last.
    written: u32,
    applied: u32,
}

struct Soak {
    lab: Zone,
    course: Course,
    told: Told,
    /// Hosts whose cables are out.
    out: [bool; HOSTS],
    counts: BTreeMap<&'static str, u32>,
    zone: String,
}

impl Soak {
    fn event(&mut self) {
        let host = self.course.host();
        let name = self.lab.hosts[host].name.clone();
        let what = match self.course.below(12) {
            0 | 1 => {
                self.lab.serve.kill();
                self.pause(3);
                self.lab.serve_again();
                "manager killed"
            }
            2 => {
                self.lab.hosts[host].agent.kill();
                self.pause(5);
                self.lab.start_again(host);
                "host's program killed"
            }
            3 => {
                self.lab.kill_guard(host);
                "guard killed"
            }
            4 => {
                self.lab.kill_machine(host);
                "VM killed"
            }
            5 => {
                self.lab.hosts[host].agent.kill();
                self.lab.kill_guard(host);
                self.pause(5);
                self.lab.start_again(host);
                "host's program and guard killed"
            }
            6 | 7 => {
                self.out[host] = !self.out[host];
                self.lab.cables(&name, !self.out[host]);
                "cables taken out or put in"
            }
            8 => {
                self.lab.cables("m", false);
                self.pause(25);
                self.lab.cables("m", true);
                "manager cut off"
            }
            9 => {
                let drain = self.course.below(2) == 0;
                let word = if drain { "host-drain" } else { "host-resume" };
                if self.lab.manage(&[word, &name]).is_ok() {
                    self.told.drained.insert(name, drain);
                } else {
                    // It may have been done and not been told.
                    self.told.drained.remove(&name);
                }
                "host drained or resumed"
            }
            10 => {
                let stop = self.course.below(4) == 0;
                let words = if stop { ["vm", "stop"] } else { ["vm", "start"] };
                let done = self.lab.manage(&[words[0], words[1], ROUTER]);
                self.told.stopped = done.is_ok().then_some(stop);
                "VM stopped or started"
            }
            _ => {
                self.told.written += 1;
                fs::write(self.lab.path("zone.toml"), self.zone_file(self.told.written)).unwrap();
                if self.lab.manage(&["apply", "--yes"]).is_ok() {
                    self.told.applied = self.told.written;
                }
                "zone file applied"
            }
        };
        *self.counts.entry(what).or_default() += 1;
        let pause = 1 + self.course.below(20);
        self.pause(pause);
        self.check();
    }

    /// Waits, and sees that no VM runs twice.
    fn pause(&self, seconds: u64) {
        self.lab.watch(Duration::from_secs(seconds), |_| false);
    }

    fn zone_file(&self, forwards: u32) -> String {
        let mut text = self.zone.clone();
        let mut rules = String::new();
        for n in 0..forwards {
            let port = 10_000 + n;
            rules += &format!(
                "[[network.forward]]\nprotocol = \"tcp\"\nports = \"{port}\"\nto = \"10.1.1.20\"\nto_ports = \"{port}\"\n"
            );
        }
        let at = text.find("[[host]]").unwrap();
        text.insert_str(at, &rules);
        text
    }

    /// Whether the manager, where it answers, still knows what operators were told.
    fn check(&self) {
        let status = self.lab.status();
        for host in status["hosts"].as_array().into_iter().flatten() {
            let standing = host["standing"].as_str().unwrap_or_default();
            let Some(drained) = self.told.drained.get(host["name"].as_str().unwrap_or_default()) else {
                continue;
            };
            // Of a lost host nothing else is said.
            if !standing.starts_with("lost") {
                assert_eq!(standing.starts_with("drained"), *drained, "{}: {}", host, status["events"]);
            }
        }
        for vm in status["vms"].as_array().into_iter().flatten() {
            if let Some(stopped) = self.told.stopped {
                assert_eq!(vm["wanted"] == "stopped", stopped, "{vm}");
            }
        }
    }

    fn calm(&mut self) {
        for host in 0..HOSTS {
            let name = self.lab.hosts[host].name.clone();
            self.lab.cables(&name, true);
        }
        let lab = &self.lab;
        assert!(lab.watch(CALM, |_| lab.hears_or_drains_all()), "{}", lab.status());
        self.check();
        for host in &lab.hosts {
            lab.manage(&["host-resume", &host.name]).unwrap();
        }
        lab.manage(&["vm", "start", ROUTER]).unwrap();
        fs::write(lab.path("zone.toml"), self.zone_file(self.told.written)).unwrap();
        lab.manage(&["apply", "--yes"]).unwrap();
        // A router is ready when it has taken all that the zone file says.
        assert!(lab.watch(CALM, |_| lab.is_ready()), "{}", lab.status());
        assert_eq!(lab.manage(&["plan"]).unwrap(), serde_json::json!([]), "it is as the zone file says");
        assert_eq!(lab.running().len(), 1);
    }
}

#[test]
fn whatever_is_killed_no_vm_runs_twice_and_no_change_is_lost() {
    let minutes = from_environment("TRIVIUM_SOAK_MINUTES").unwrap_or(30);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = from_environment("TRIVIUM_SOAK_SEED").unwrap_or(u64::try_from(now & 0xffff_ffff).unwrap() | 1);
    println!("soak: {minutes} minutes, seed {seed}");
    let image = image_folder().join("trivium.qcow2");
    let lab = Zone::new(HOSTS, Image::File(&image), "");
    let zone = fs::read_to_string(lab.path("zone.toml")).unwrap();
    let [guest, _outside] = lab.guest_and_outside();
    let mut soak = Soak {
        lab,
        course: Course(seed),
        told: Told::default(),
        out: [false; HOSTS],
        counts: BTreeMap::new(),
        zone,
    };
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < until {
        soak.event();
    }
    println!("soak: {:?}", soak.counts);
    soak.calm();
    let forwards = || guest.sh("ping -n -c 1 -W 1 203.0.113.1").status.success();
    assert!(soak.lab.watch(CALM, |_| forwards()), "{}", soak.lab.status());
}
