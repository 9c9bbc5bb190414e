//! What VPNs need of this machine beside charon: xl2tpd with the sessions of its clients, and the interface of
//! WireGuard. As with charon, no document waits for it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    command::Secret,
    paths::Paths,
    persist,
    program::{self, ProgramError},
    supervise::{self, Action, SuperviseError},
};
use rustix::process::{Pid, Signal};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::filter::{WIREGUARD, own_address};
use crate::{state::Wireguard, view::View};

/// The service of L2TP.
const XL2TPD: &str = "xl2tpd";
/// Longest time for one program.
const LIMIT: Duration = Duration::from_secs(10);
/// How long until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Bytes of a packet of WireGuard's clients.
const MTU: &str = "1420";

/// What there is to be. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    dial: Option<Dial>,
    wireguard: Option<Arc<Wireguard>>,
}

/// Where clients dial in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dial {
    /// Where L2TP is spoken.
    own: Ipv4Addr,
    /// The router's address towards clients.
    local: Ipv4Addr,
    /// First and last address that clients get.
    range: (Ipv4Addr, Ipv4Addr),
    users: BTreeMap<String, Secret>,
}

/// Clients with L2TP get the lower half of the range, those with IKEv2 the upper one: two programs that give out
/// addresses must not share them.
pub(super) fn halves(range: (Ipv4Addr, Ipv4Addr)) -> [(Ipv4Addr, Ipv4Addr); 2] {
    let (first, last) = (u32::from(range.0), u32::from(range.1));
    let middle = first + (last - first) / 2;
    let upper = if middle < last { middle + 1 } else { middle };
    [(range.0, middle.into()), (upper.into(), range.1)]
}

impl Machine {
    /// Says what there is to be.
    pub fn new(view: &View<'_>) -> Self {
        if !view.setup.kind.forwards() || view.setup.is_silent() {
            return Self::default();
        }
        let vpn = &view.state.vpn;
        let dial = vpn.remotes.iter().find_map(|(server, remote)| {
            let users = vpn.users.iter().map(|(user, password)| (user.clone(), password.clone())).collect();
            let [range, _] = halves(remote.range);
            Some(Dial { own: own_address(view, *server)?, local: remote.local, range, users })
        });
        Self { dial, wireguard: vpn.wireguard.clone() }
    }
}

impl Dial {
    /// Files by their names: what xl2tpd reads, what its pppd reads, and the users.
    fn files(&self) -> [(&'static str, String); 3] {
        let Self { own, local, range: (first, last), users } = self;
        let conf = format!(
            "[global]\nlisten-addr = {own}\nport = 1701\naccess control = no\n\n[lns default]\n\
             ip range = {first}-{last}\nlocal ip = {local}\nrequire authentication = yes\nrefuse pap = yes\n\
             name = router\npppoptfile = /run/trivium/vpn/options\nlength bit = yes\n"
        );
        let options = format!(
            "auth\nrequire-mschap-v2\nrequire-chap\nrefuse-pap\nrefuse-mschap\nrefuse-eap\nnoccp\n\
             ipcp-accept-remote\nms-dns {local}\nmtu 1410\nmru 1410\nidle 1800\nnodefaultroute\nproxyarp\n\
             lcp-echo-interval 30\nlcp-echo-failure 4\nconnect-delay 5000\n"
        );
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let secrets: String = users
            .iter()
            .map(|(user, password)| format!("{} * {} *\n", quoted(user), quoted(password.expose())))
            .collect();
        [("xl2tpd.conf", conf), ("options", options), ("chap-secrets", secrets)]
    }
}

/// Why something is not as it should be.
#[derive(Debug, thiserror::Error)]
enum MachineError {
    #[error("{0}: {1}")]
    File(&'static str, io::Error),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    #[error("{0}")]
    Broken(String),
}

/// Brings it about in the background; clones share everything.
#[derive(Debug, Clone)]
pub struct MachineKeeper {
    paths: Paths,
    wanted: Arc<watch::Sender<Arc<Machine>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl MachineKeeper {
    /// Begins; nothing is wanted yet.
    pub fn start(paths: &Paths) -> Self {
        let keeper = Self {
            paths: paths.clone(),
            wanted: Arc::new(watch::Sender::new(Arc::default())),
            trouble: Arc::default(),
        };
        let own = keeper.clone();
        tokio::spawn(async move { own.run().await });
        keeper
    }

    /// Says what is wanted from now on.
    pub fn want(&self, wanted: Machine) {
        self.wanted.send_if_modified(|now| {
            let differs = **now != wanted;
            if differs {
                *now = Arc::new(wanted);
            }
            differs
        });
    }

    /// Why something is not as it should be, where that is so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sessions of clients with L2TP, `ppp0`, each with its user.
    pub fn sessions(&self) -> Vec<(String, String)> {
        let has_interface = |session: &String| Path::new("/sys/class/net").join(session).exists();
        sessions(&self.paths).into_iter().filter(|(session, _)| has_interface(session)).collect()
    }

    async fn run(self) {
        let mut wanted = self.wanted.subscribe();
        // An earlier core may have left anything: the first time everything is looked at.
        let mut done: Option<Arc<Machine>> = None;
        loop {
            let now = wanted.borrow_and_update().clone();
            let (paths, before, next) = (self.paths.clone(), done.clone(), now.clone());
            let outcome = spawn_blocking(move || bring(&paths, before.as_deref(), &next)).await;
            let outcome = outcome.unwrap_or_else(|broken| Err(MachineError::Broken(broken.to_string())));
            let trouble = outcome.err().map(|error| error.to_string());
            if let Some(trouble) = &trouble {
                tracing::error!(trouble, "a VPN is not as it should be");
            } else {
                done = Some(now);
            }
            let failed = trouble.is_some();
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
            let changed = async { if failed { sleep(AGAIN).await } else { std::future::pending().await } };
            tokio::select! {
                news = wanted.changed() => if news.is_err() { return },
                () = changed => {}
            }
        }
    }
}

/// From what there was to what there is to be; `None` where that is not known.
fn bring(paths: &Paths, before: Option<&Machine>, next: &Machine) -> Result<(), MachineError> {
    if before.map(|b| &b.dial) != Some(&next.dial) {
        match &next.dial {
            Some(dial) => dial_in(paths, before.and_then(|b| b.dial.as_ref()), dial)?,
            None => hang_up(paths, before.and_then(|b| b.dial.as_ref()))?,
        }
    }
    if before.map(|b| &b.wireguard) != Some(&next.wireguard) {
        match &next.wireguard {
            Some(wireguard) => interface(before.and_then(|b| b.wireguard.as_deref()), wireguard)?,
            None if Path::new("/sys/class/net").join(WIREGUARD).exists() => ip(&["link", "del", WIREGUARD])?,
            None => {}
        }
    }
    Ok(())
}

fn folder(paths: &Paths) -> PathBuf {
    paths.run().join("vpn")
}

fn dial_in(paths: &Paths, before: Option<&Dial>, dial: &Dial) -> Result<(), MachineError> {
    fs::create_dir_all(folder(paths)).map_err(|error| MachineError::File("/run/trivium/vpn", error))?;
    let mut restart = false;
    for (name, text) in dial.files() {
        let path = folder(paths).join(name);
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            continue;
        }
        // Users are read anew for each session, the others once.
        restart |= name != "chap-secrets";
        persist::write(&path, text.as_bytes(), 0o600).map_err(|error| MachineError::File(name, error))?;
    }
    if let Some(before) = before.filter(|before| before.local != dial.local) {
        drop_address(before.local);
    }
    ip(&["addr", "replace", &format!("{}/32", dial.local), "dev", "lo"])?;
    let running = supervise::status(paths, XL2TPD)?.up;
    match (running, restart) {
        (true, true) => supervise::control(paths, XL2TPD, Action::Restart)?,
        (false, _) => supervise::control(paths, XL2TPD, Action::Start)?,
        (true, false) => {}
    }
    let same = |user: &str| match before {
        Some(before) => before.users.get(user) == dial.users.get(user) && dial.users.contains_key(user),
        None => dial.users.contains_key(user),
    };
    for (session, user) in sessions(paths) {
        if !same(&user) {
            cut(paths, &session);
        }
    }
    Ok(())
}

fn hang_up(paths: &Paths, before: Option<&Dial>) -> Result<(), MachineError> {
    match supervise::status(paths, XL2TPD) {
        Ok(status) if status.up => supervise::control(paths, XL2TPD, Action::Stop)?,
        // A machine without the service has nobody to stop.
        Ok(_) | Err(SuperviseError::Unknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for (session, _) in sessions(paths) {
        cut(paths, &session);
    }
    for name in ["chap-secrets", "options", "xl2tpd.conf"] {
        let _ = fs::remove_file(folder(paths).join(name));
    }
    before.iter().for_each(|before| drop_address(before.local));
    Ok(())
}

fn drop_address(address: Ipv4Addr) {
    // It may have gone with what had it.
    let _ = ip(&["addr", "del", &format!("{address}/32"), "dev", "lo"]);
}

/// Sessions of clients, `ppp0`, and their users, as they were noted when each began.
fn sessions(paths: &Paths) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder(paths)).into_iter().flatten().flatten();
    let session = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let session = name.strip_prefix("session.")?.to_owned();
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((session, text.trim().strip_prefix("user ")?.to_owned()))
    };
    entries.filter_map(session).collect()
}

/// Ends a session: its pppd says good-bye to the client.
fn cut(paths: &Paths, session: &str) {
    let _ = fs::remove_file(folder(paths).join(format!("session.{session}")));
    let text = fs::read_to_string(paths.at(&format!("/run/{session}.pid"))).unwrap_or_default();
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return };
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    if name.trim() == "pppd" {
        tracing::info!(session, "the session of a client is ended");
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

fn ip(words: &[&str]) -> Result<(), MachineError> {
    program::run("ip", words, b"", LIMIT)?;
    Ok(())
}

/// The interface, its keys and peers (only those that differ are touched), and the routes to what is behind them.
fn interface(before: Option<&Wireguard>, wireguard: &Wireguard) -> Result<(), MachineError> {
    if !Path::new("/sys/class/net").join(WIREGUARD).exists() {
        ip(&["link", "add", WIREGUARD, "type", "wireguard"])?;
    }
    program::run("wg", ["syncconf", WIREGUARD, "/dev/stdin"], config(wireguard).as_bytes(), LIMIT)?;
    if before.is_none_or(|before| before.address != wireguard.address) {
        ip(&["addr", "flush", "dev", WIREGUARD])?;
    }
    ip(&["addr", "replace", &wireguard.address.to_string(), "dev", WIREGUARD])?;
    ip(&["link", "set", WIREGUARD, "mtu", MTU, "up"])?;
    let nets = |wireguard: &Wireguard| -> Vec<String> {
        let near = wireguard.address.trunc();
        let nets = wireguard.peers.iter().flat_map(|peer| &peer.nets);
        nets.filter(|net| net.prefix_len() > 0 && !near.contains(*net)).map(ToString::to_string).collect()
    };
    let wanted = nets(wireguard);
    for net in before.map(nets).unwrap_or_default().iter().filter(|net| !wanted.contains(net)) {
        ip(&["route", "del", net, "dev", WIREGUARD])?;
    }
    for net in &wanted {
        ip(&["route", "replace", net, "dev", WIREGUARD])?;
    }
    Ok(())
}

/// As `wg` reads it.
fn config(wireguard: &Wireguard) -> String {
    let mut text =
        format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", wireguard.key.expose(), wireguard.port);
    for peer in &wireguard.peers {
        let nets: Vec<String> = peer.nets.iter().map(ToString::to_string).collect();
        text += &format!("\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n", peer.key, nets.join(", "));
        text += &peer.shared.iter().map(|s| format!("PresharedKey = {}\n", s.expose())).collect::<String>();
        text += &peer.endpoint.iter().map(|at| format!("Endpoint = {at}\n")).collect::<String>();
        text += &peer.keepalive.iter().map(|s| format!("PersistentKeepalive = {s}\n")).collect::<String>();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_share_no_address() {
        let halves = |first: u8, last: u8| {
            let at = |n| Ipv4Addr::new(10, 1, 2, n);
            super::halves((at(first), at(last))).map(|(a, b)| (a.octets()[3], b.octets()[3]))
        };
        assert_eq!(halves(2, 8), [(2, 5), (6, 8)]);
        assert_eq!(halves(2, 3), [(2, 2), (3, 3)]);
        assert_eq!(halves(2, 2), [(2, 2), (2, 2)], "one address is for whoever comes first");
    }

    #[test]
    fn passwords_may_hold_anything() {
        let at = |n| Ipv4Addr::new(10, 1, 2, n);
        let users = BTreeMap::from([("bob".to_owned(), Secret::new(r#"a "b\ #c"#))]);
        let dial = Dial { own: Ipv4Addr::new(203, 0, 113, 10), local: at(1), range: (at(2), at(5)), users };
        let [conf, options, secrets] = dial.files();
        assert!(
            conf.1.contains("listen-addr = 203.0.113.10\n")
                && conf.1.contains("ip range = 10.1.2.2-10.1.2.5\n")
        );
        assert!(options.1.contains("ms-dns 10.1.2.1\n") && options.1.contains("refuse-pap\n"));
        assert_eq!(secrets.1, "\"bob\" * \"a \\\"b\\\\ #c\" *\n");
    }

    #[test]
    fn sessions_are_known_by_what_was_noted() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        fs::create_dir_all(folder(&paths)).unwrap();
        fs::write(folder(&paths).join("session.ppp0"), "user bob\n").unwrap();
        fs::write(folder(&paths).join("session.ppp1"), "torn").unwrap();
        assert_eq!(sessions(&paths), [("ppp0".to_owned(), "bob".to_owned())]);
        cut(&paths, "ppp0");
        assert_eq!(sessions(&paths), []);
    }

    #[test]
    fn peers_are_written_as_wg_reads_them() {
        let peer = crate::state::WireguardPeer {
            key: "KEY=".into(),
            shared: None,
            nets: vec!["10.3.0.2/32".parse().unwrap(), "192.168.9.0/24".parse().unwrap()],
            endpoint: Some("198.51.100.9:51820".parse().unwrap()),
            keepalive: Some(25),
        };
        let wireguard = Wireguard {
            key: Secret::new("PRIVATE="),
            port: 51820,
            address: "10.3.0.1/24".parse().unwrap(),
            peers: vec![peer],
        };
        assert_eq!(
            config(&wireguard),
            "[Interface]\nPrivateKey = PRIVATE=\nListenPort = 51820\n\n[Peer]\nPublicKey = KEY=\n\
             AllowedIPs = 10.3.0.2/32, 192.168.9.0/24\nEndpoint = 198.51.100.9:51820\nPersistentKeepalive = 25\n"
        );
    }
}
