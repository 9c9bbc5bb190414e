//! Several SSVMs and CPVMs in a zone, by load: a real manager, with hosts and system VMs that are only simulated.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, Weak, atomic::AtomicUsize},
    time::Duration,
};

use common::{
    channel::message::{AnswerBase, Message, Wire as _},
    command::{
        agent::{Answer, PingCommand, StartupBase, StartupProxyCommand, StartupSecondaryStorageCommand},
        console::AllowConsoleAccessCommand,
        host::{
            DeliverCertificateCommand, GetVncPortAnswer, GetVncPortCommand, RouterAnswer, StartCommand,
            StopCommand, Traffic,
        },
        storage::{DownloadAnswer, DownloadCommand, DownloadProgressCommand, DownloadStatus},
    },
};
use serde_json::Value;
use tests::{
    lab::wait_until,
    zone::simulated::{Machine, Peer, Role, equip, join},
};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{LIMIT, Lab, ZONE};

const SYSTEM: &str = "ssvm = true\ncpvm = true\nssvm_max = 2\nssvm_transfers = 2\ncpvm_max = 2\ncpvm_sessions = 3\nspare_after = 5";
const REST: &str = "\
[[store]]\nname = \"s3a\"\nkind = \"s3\"\nendpoint = \"192.0.2.9:80\"\nbucket = \"b\"\naccess_key = \"a\"\nsecret_key = \"s\"\n\
https = false\n\
[[network]]\nname = \"net1\"\nbridge = \"br-guest\"\ncidr = \"10.1.1.0/24\"\ngateway = \"10.1.1.1\"\ndomain = \"x.example\"\n\
[[guest]]\nname = \"web1\"\nnetwork = \"net1\"\naddress = \"10.1.1.20\"\ndisk = \"none.qcow2\"\n";
const PING: Duration = Duration::from_secs(1);

/// A system VM's certificates and its connection.
type Connected = (Arc<Peer>, JoinHandle<()>);

/// All that is simulated.
struct World {
    folder: PathBuf,
    server: SocketAddr,
    slots: Semaphore,
    runtime: tokio::runtime::Handle,
    /// Management addresses of system VMs.
    addresses: Mutex<BTreeMap<String, Ipv4Addr>>,
    /// System VMs that have their certificates.
    agents: Mutex<BTreeMap<String, Connected>>,
    /// Jobs that an SSVM was given, by its name, and those that are done.
    jobs: Mutex<BTreeMap<String, BTreeSet<String>>>,
    done: Mutex<BTreeSet<String>>,
    /// Consoles that a CPVM was told of.
    consoles: Mutex<BTreeMap<String, usize>>,
}

impl World {
    /// (Re)connects a system VM.
    fn connect(self: &Arc<Self>, name: &str, peer: Arc<Peer>) {
        let (world, role) = (self.clone(), SystemVm { name: name.to_owned(), world: Arc::downgrade(self) });
        let task = {
            let peer = peer.clone();
            self.runtime.spawn(async move { peer.live(world.server, &role, &world.slots).await })
        };
        if let Some((_, old)) = self.agents.lock().unwrap().insert(name.to_owned(), (peer, task)) {
            old.abort();
        }
    }

    /// A system VM that runs, but is heard no more.
    fn silence(&self, name: &str) -> Arc<Peer> {
        let (peer, task) = self.agents.lock().unwrap().remove(name).unwrap();
        task.abort();
        peer
    }

    fn finish(&self, jobs: &[String]) {
        self.done.lock().unwrap().extend(jobs.iter().cloned());
    }

    fn jobs_of(&self, name: &str) -> Vec<String> {
        self.jobs.lock().unwrap().get(name).into_iter().flatten().cloned().collect()
    }
}

/// A host that starts system VMs.
struct Host {
    machine: Machine,
    world: Arc<World>,
}

impl Role for Host {
    fn startup(&self) -> Message {
        self.machine.startup()
    }

    fn ping(&self) -> Message {
        self.machine.ping()
    }

    fn execute(&self, command: &Message) -> Message {
        match command.class.as_str() {
            StartCommand::CLASS => {
                let start: StartCommand = command.read().unwrap();
                if let Some(nic) = start.vm.nics.iter().find(|nic| nic.traffic == Traffic::Management) {
                    let address = nic.ip.parse().unwrap();
                    self.world.addresses.lock().unwrap().insert(start.vm.name.clone(), address);
                }
            }
            StopCommand::CLASS => {
                let stop: StopCommand = command.read().unwrap();
                if let Some((_, task)) = self.world.agents.lock().unwrap().remove(&stop.vm_name) {
                    task.abort();
                }
            }
            DeliverCertificateCommand::CLASS => {
                let order: DeliverCertificateCommand = command.read().unwrap();
                let folder = self.world.folder.join(&order.vm_name);
                let config = equip(&folder, &order.certificate, &order.ca_certificates, &order.private_key);
                let address = self.world.addresses.lock().unwrap()[&order.vm_name];
                self.world.connect(&order.vm_name, Arc::new(Peer { address, config, ping: PING }));
                let answer =
                    RouterAnswer { code: Some(0), base: AnswerBase::ok(), ..RouterAnswer::default() };
                return Message::wrap(&answer);
            }
            GetVncPortCommand::CLASS => {
                return Message::wrap(&GetVncPortAnswer {
                    base: AnswerBase::ok(),
                    address: self.machine.address.to_string(),
                    port: 5900,
                });
            }
            _ => {}
        }
        self.machine.execute(command)
    }
}

/// An SSVM or a CPVM.
struct SystemVm {
    name: String,
    world: Weak<World>,
}

impl Role for SystemVm {
    fn startup(&self) -> Message {
        let startup = StartupBase {
            kind: if self.name.starts_with("s-") { "SecondaryStorage" } else { "ConsoleProxy" }.to_owned(),
            data_center: Some("1".to_owned()),
            pod: Some("1".to_owned()),
            guid: format!("{}-simulated", self.name),
            name: self.name.clone(),
            ..StartupBase::default()
        };
        if self.name.starts_with("s-") {
            Message::wrap(&StartupSecondaryStorageCommand { startup })
        } else {
            Message::wrap(&StartupProxyCommand { proxy_port: 80, proxy_vm_id: 1, startup })
        }
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingCommand::default())
    }

    fn execute(&self, command: &Message) -> Message {
        let Some(world) = self.world.upgrade() else {
            return Message::wrap(&Answer { answer: AnswerBase::ok() });
        };
        let progress = |job: String| {
            let done = world.done.lock().unwrap().contains(&job);
            Message::wrap(&DownloadAnswer {
                download_pct: if done { 100 } else { 10 },
                error_string: Some(" ".to_owned()),
                download_status: if done {
                    DownloadStatus::Downloaded
                } else {
                    DownloadStatus::DownloadInProgress
                },
                install_path: Some("template/tmpl/2/1/x".to_owned()),
                job_id: Some(job),
                answer: AnswerBase::ok(),
                ..DownloadAnswer::default()
            })
        };
        match command.class.as_str() {
            DownloadCommand::CLASS => {
                let order: DownloadCommand = command.read().unwrap();
                let job = format!("{}/{}", self.name, order.id);
                world.jobs.lock().unwrap().entry(self.name.clone()).or_default().insert(job.clone());
                progress(job)
            }
            DownloadProgressCommand::CLASS => {
                let order: DownloadProgressCommand = command.read().unwrap();
                progress(order.job_id.unwrap())
            }
            AllowConsoleAccessCommand::CLASS => {
                *world.consoles.lock().unwrap().entry(self.name.clone()).or_default() += 1;
                Message::wrap(&Answer { answer: AnswerBase::ok() })
            }
            _ => Message::wrap(&Answer { answer: AnswerBase::ok() }),
        }
    }
}

/// Runs a scene with a manager, two simulated hosts and what runs on them.
fn scene(act: impl FnOnce(&Lab, &Arc<World>) + Send) {
    let lab = Lab::new();
    lab.net.ip(&["route", "add", "local", "192.168.100.0/24", "dev", "lo"]);
    let zone = ZONE.replace("ssvm = false\ncpvm = false", SYSTEM) + REST;
    let zone = zone.replace("ping_interval = 1", "ping_interval = 5");
    let zone = zone.replace("address = \"192.168.100.1\"\n[[host]]", "address = \"192.168.100.3\"\n[[host]]");
    fs::write(lab.path("zone.toml"), zone).unwrap();
    let _serve = lab.serve();
    // On a thread of its own: it lives in the lab's namespace.
    lab.net.inside(|| inside(&lab, act));
}

fn inside(lab: &Lab, act: impl FnOnce(&Lab, &Arc<World>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = lab.path("agents");
    fs::create_dir(&folder).unwrap();
    let members = runtime.block_on(join(&lab.path("m/join"), &folder, PING));
    let world = Arc::new(World {
        folder,
        server: "192.168.100.1:8250".parse().unwrap(),
        slots: Semaphore::new(8),
        runtime: runtime.handle().clone(),
        addresses: Mutex::default(),
        agents: Mutex::default(),
        jobs: Mutex::default(),
        done: Mutex::default(),
        consoles: Mutex::default(),
    });
    for member in members {
        let host =
            Host { machine: Machine::new(&member, Arc::new(AtomicUsize::new(0))), world: world.clone() };
        let world = world.clone();
        runtime.spawn(async move { member.peer.live(world.server, &host, &world.slots).await });
    }
    wait_until("all that is needed at first", LIMIT, || lab.ask(&["status"]).unwrap()["ready"] == true);
    act(lab, &world);
    runtime.shutdown_background();
}

fn vms(lab: &Lab, kind: &str) -> Vec<Value> {
    let status = lab.ask(&["status"]).unwrap();
    status["vms"].as_array().unwrap().iter().filter(|vm| vm["kind"] == kind).cloned().collect()
}

fn name(vm: &Value) -> String {
    vm["name"].as_str().unwrap().to_owned()
}

fn register(lab: &Lab, template: &str) {
    let url = "http://192.0.2.8/t";
    let words = ["template", "register", "--no-wait", "--name", template, "--url", url, "--store", "s3a"];
    lab.ask(&words).unwrap();
}

#[test]
fn ssvms_come_with_transfers_share_them_and_go_without() {
    scene(|lab, world| {
        let all = vms(lab, "ssvm");
        let (first, second) = (name(&all[0]), name(&all[1]));
        assert_eq!((&all[0]["wanted"], &all[1]["wanted"]), (&"running".into(), &"spare".into()));
        let state = |place: usize| vms(lab, "ssvm")[place]["state"].as_str().unwrap().to_owned();
        assert_eq!((state(0), state(1)), ("ready".to_owned(), "stopped".to_owned()));

        for template in ["a", "b"] {
            register(lab, template);
        }
        wait_until("the second one is started", LIMIT, || state(1) == "ready");
        wait_until("the first one has two", LIMIT, || world.jobs_of(&first).len() == 2);
        for template in ["c", "d"] {
            register(lab, template);
        }
        wait_until("the second one has two", LIMIT, || world.jobs_of(&second).len() == 2);
        assert_eq!(world.jobs_of(&first).len(), 2);

        // The first one is heard no more: the other one takes over what it was at.
        let lost = world.silence(&first);
        wait_until("the second one has all", LIMIT * 3, || world.jobs_of(&second).len() == 4);
        register(lab, "e");
        wait_until("it gets the next one, too", LIMIT, || world.jobs_of(&second).len() == 5);
        let jobs = world.jobs_of(&second);
        world.finish(&jobs[..4]);
        let ready = || {
            let templates = lab.ask(&["template", "list"]).unwrap();
            templates.as_array().unwrap().iter().filter(|t| t["state"] == "ready").count()
        };
        wait_until("four are there", LIMIT, || ready() == 4);

        // One that has a transfer is not stopped, however little that is; nor the only one that works.
        std::thread::sleep(Duration::from_secs(8));
        world.connect(&first, lost);
        wait_until("the first one is back", LIMIT, || state(0) == "ready");
        std::thread::sleep(Duration::from_secs(8));
        assert_eq!(state(1), "ready");
        world.finish(&jobs);
        wait_until("all are there", LIMIT, || ready() == 5);
        wait_until("the second one is stopped", LIMIT, || state(1) == "stopped");
        assert_eq!(vms(lab, "ssvm")[1]["wanted"], "spare");
        assert_eq!(state(0), "ready");
    });
}

#[test]
fn consoles_are_spread_and_go_to_who_is_left() {
    scene(|lab, world| {
        let all = vms(lab, "cpvm");
        let (first, second) = (name(&all[0]), name(&all[1]));
        let told = |name: &str| world.consoles.lock().unwrap().get(name).copied().unwrap_or_default();
        let hand_out = || lab.ask(&["console-url", "web1"]).unwrap();
        for _ in 0..3 {
            hand_out();
        }
        wait_until("the second one is started", LIMIT, || vms(lab, "cpvm")[1]["state"] == "ready");
        let urls: BTreeSet<String> = (0..3)
            .map(|_| hand_out()["url"].as_str().unwrap().split('/').nth(2).unwrap().to_owned())
            .collect();
        assert_eq!((told(&first), told(&second), urls.len()), (3, 3, 1));
        world.silence(&second);
        wait_until("it is seen to be gone", LIMIT, || vms(lab, "cpvm")[1]["agent"] == false);
        for _ in 0..2 {
            hand_out();
        }
        assert_eq!((told(&first), told(&second)), (5, 3));
    });
}
