//! What a serve process may still do: its own user, no new privileges, only the folders it was given
//! (landlock), and no system calls beyond those a network server needs (seccomp). And what of root's
//! privileges a core keeps ([`keep_privileges`]).

mod calls;

use std::{fs, io, path::PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
    path_beneath_rules,
};
use rustix::thread::{self, CapabilitySets};

pub use rustix::thread::CapabilitySet;

use crate::paths::Paths;

/// An account of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
}

impl User {
    /// The account under which serve processes run.
    pub const SERVE: &'static str = "serve";

    /// Looks an account up in `/etc/passwd`; `None` where there is none of this name.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn named(paths: &Paths, name: &str) -> io::Result<Option<Self>> {
        let text = fs::read_to_string(paths.at("/etc/passwd"))?;
        Ok(text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [user, _, uid, gid, ..] if user == name => {
                    Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
                }
                _ => None,
            }
        }))
    }
}

/// Why a process could not be shut in. It must not serve then.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The user cannot be changed.
    #[error("cannot become user {uid}: {source}")]
    User {
        /// The user.
        uid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// New privileges cannot be ruled out.
    #[error("cannot rule out new privileges: {0}")]
    Privileges(io::Error),
    /// Privileges of root cannot be given up.
    #[error("cannot give up privileges: {0}")]
    Capabilities(io::Error),
    /// The folders cannot be limited.
    #[error("cannot limit the folders: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The system calls cannot be limited.
    #[error("cannot limit the system calls: {0}")]
    Seccomp(String),
}

/// What a serve process keeps. Everything else is gone for good once it has entered.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    /// Files and folders it may read.
    pub read: Vec<PathBuf>,
    /// Folders below which it may read and write.
    pub write: Vec<PathBuf>,
    /// The account it becomes where it runs as root; `None` keeps the account.
    pub user: Option<User>,
    /// It opens local sockets alone: every connection of the network is handed to it.
    pub local_only: bool,
}

impl Sandbox {
    /// Shuts the calling thread in, and with it every thread that it starts later: to be called first thing
    /// in `main`, before any runtime. Paths that do not exist are left out. It may then use sockets (local,
    /// IPv4, IPv6; see [`Sandbox::local_only`]), threads and memory, but start no program and gain no privilege.
    ///
    /// # Errors
    /// Where something cannot be given up. A kernel without landlock is no error; the log says so.
    pub fn enter(self) -> Result<(), SandboxError> {
        if let Some(user) = self.user
            && rustix::process::geteuid().is_root()
        {
            become_user(user).map_err(|source| SandboxError::User { uid: user.uid, source })?;
        }
        thread::set_no_new_privs(true).map_err(|e| SandboxError::Privileges(e.into()))?;
        let all = AccessFs::from_all(ABI::V3);
        let status = Ruleset::default()
            .handle_access(all)?
            .create()?
            .add_rules(path_beneath_rules(&self.read, AccessFs::ReadFile | AccessFs::ReadDir))?
            .add_rules(path_beneath_rules(&self.write, all & !AccessFs::Execute))?
            .restrict_self()?;
        if status.ruleset == RulesetStatus::NotEnforced {
            tracing::warn!("this kernel has no landlock: folders are limited by the user's rights alone");
        }
        calls::limit(self.local_only)
    }
}

/// What the core of every role needs: the files of others, their processes, the network.
pub const CORE: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW);

/// [`keep_privileges`] for a core: what cannot be given up is kept, and the log says so, since a VM that does
/// nothing helps nobody.
pub fn keep_only(keep: CapabilitySet) {
    if let Err(error) = keep_privileges(keep) {
        tracing::warn!(%error, "this core has all privileges of root");
    }
}

/// Gives up every privilege of root but these, for good, for the calling thread and all that it starts later,
/// programs included: to be called first thing in `main`, before any runtime. Who is not root has none.
///
/// # Errors
/// Where one cannot be given up.
pub fn keep_privileges(keep: CapabilitySet) -> Result<(), SandboxError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let wrong = |error: rustix::io::Errno| SandboxError::Capabilities(error.into());
    for privilege in CapabilitySet::all().difference(keep).iter() {
        match thread::remove_capability_from_bounding_set(privilege) {
            // The kernel does not know it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    let held = thread::capabilities(None).map_err(wrong)?;
    let sets = CapabilitySets {
        effective: held.effective & keep,
        permitted: held.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, sets).map_err(wrong)
}

fn become_user(user: User) -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid));
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command, thread::spawn};

    use super::*;

    #[test]
    fn accounts_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        assert!(User::named(&paths, "serve").is_err());
        fs::create_dir_all(paths.at("/etc")).unwrap();
        fs::write(paths.at("/etc/passwd"), "root:x:0:0::/root:/x\nserve:x:901:902::/:/x\n").unwrap();
        assert_eq!(User::named(&paths, "serve").unwrap(), Some(User { uid: 901, gid: 902 }));
        assert_eq!(User::named(&paths, "other").unwrap(), None);
    }

    #[test]
    fn programs_of_a_core_have_its_privileges_and_no_more() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let status = spawn(|| {
            keep_privileges(CORE).unwrap();
            let own = fs::read_to_string("/proc/thread-self/status").unwrap();
            let theirs = Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
            [own, String::from_utf8(theirs).unwrap()]
        });
        let expected = format!("{:016x}", CORE.bits());
        for status in status.join().unwrap() {
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":\t"));
                assert_eq!(line, Some(expected.as_str()), "{set}: {status}");
            }
        }
    }

    #[test]
    fn inside_only_the_given_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("mine");
        fs::create_dir(&mine).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        let (inside, outside) = (mine.clone(), folder.path().join("secret"));
        // A thread of its own: the rest of the tests stay outside.
        let findings = spawn(move || {
            Sandbox { write: vec![inside.clone()], ..Sandbox::default() }.enter().unwrap();
            let write = fs::write(inside.join("file"), "x").is_ok();
            let listen = spawn(|| TcpListener::bind("127.0.0.1:0").is_ok()).join().unwrap();
            let start = Command::new("/bin/true").status().is_ok();
            (write, listen, start, fs::read(outside).is_ok())
        });
        let (write, listen, start, read) = findings.join().unwrap();
        assert!(write, "its own folder");
        assert!(listen, "sockets, from a new thread");
        assert!(!start, "no program");
        let has_landlock =
            fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|l| l.contains("landlock"));
        assert!(!(has_landlock && read), "no folder of others");
    }

    #[test]
    fn local_only_leaves_no_way_into_the_network() {
        let findings = spawn(|| {
            Sandbox { local_only: true, ..Sandbox::default() }.enter().unwrap();
            (TcpListener::bind("127.0.0.1:0").is_ok(), std::os::unix::net::UnixStream::pair().is_ok())
        });
        assert_eq!(findings.join().unwrap(), (false, true));
    }

    #[test]
    fn inside_a_server_finds_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().to_owned();
        let work = move || -> io::Result<()> {
            Sandbox { write: vec![mine.clone()], ..Sandbox::default() }.enter().unwrap();
            let (file, other) = (mine.join("file"), mine.join("folder/other"));
            fs::create_dir(mine.join("folder"))?;
            fs::write(&file, "text")?;
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
            fs::copy(&file, &other)?;
            fs::rename(&other, mine.join("renamed"))?;
            fs::hard_link(&file, mine.join("linked"))?;
            fs::File::options().write(true).open(&file)?.set_len(1)?;
            assert_eq!(fs::read_dir(&mine)?.count(), 4);
            let root = fs::File::open(&mine)?;
            let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            rustix::fs::openat2(&root, "file", flags, mode, rustix::fs::ResolveFlags::BENEATH)?;
            fs::remove_dir_all(mine.join("folder"))?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                let client = tokio::spawn(tokio::net::TcpStream::connect(listener.local_addr()?));
                listener.accept().await?;
                client.await??;
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
                socket.send_to(b"x", socket.local_addr()?).await?;
                socket.recv(&mut [0; 8]).await?;
                let local = tokio::net::UnixListener::bind(mine.join("socket"))?;
                tokio::try_join!(local.accept(), tokio::net::UnixStream::connect(mine.join("socket")))?;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                tokio::fs::read(&file).await?;
                Ok(())
            })
        };
        spawn(work).join().unwrap().unwrap();
    }
}
