//! What keepalived and conntrackd read. Names, numbers and secrets in it come from types that hold nothing else.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use common::paths::Paths;

use super::{
    GROUPS, SYNC,
    plan::{Election, Shared},
};

/// The group of routers, the same for everybody: each network of guests has one pair at most.
const GROUP: u8 = 51;

/// What conntrackd makes for itself: its lock and its socket.
pub const OF_CONNTRACKD: [&str; 2] = ["conntrackd.lock", "conntrackd.sock"];

/// Bytes of the buffers towards the kernel and the partner.
const BUFFER: u32 = 1 << 21;

/// Where their files are.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// Below the folder of what runs.
    pub fn new(paths: &Paths) -> Self {
        Self(paths.run().join("redundancy"))
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// keepalived's configuration.
    pub fn keepalived(&self) -> PathBuf {
        self.0.join("keepalived.conf")
    }

    /// conntrackd's configuration.
    pub fn conntrackd(&self) -> PathBuf {
        self.0.join("conntrackd.conf")
    }

    /// Where keepalived tells what happens.
    pub fn events(&self) -> PathBuf {
        self.0.join("events")
    }

    /// What a program prints.
    pub fn output(&self, program: &str) -> PathBuf {
        self.0.join(format!("{program}.out"))
    }

    /// Is there while a program was stopped by command.
    pub fn stopped(&self, program: &str) -> PathBuf {
        self.0.join(format!("{program}.stopped"))
    }
}

/// keepalived's configuration: VRRP version 2, what the management server's own routers have, so that one of them
/// can be the partner.
///
/// - Both begin as backup with one priority and take nothing away from each other: whoever is in force stays so.
/// - An advertisement with other addresses than ours counts all the same while it is from the one that was known as
///   elected: the two learn of a new network one after the other.
/// - The addresses of other NICs are no reason to give way when one of those goes.
pub fn keepalived(election: &Election, files: &Files) -> String {
    let Election { name, nic, interval, secret, .. } = election;
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    let mut text = format!(
        "global_defs {{\n  router_id {name}\n  vrrp_version 2\n  vrrp_skip_check_adv_addr\n  \
         vrrp_notify_fifo {events}\n  vrrp_priority -15\n}}\n\
         vrrp_instance inside_network {{\n  state BACKUP\n  nopreempt\n  interface {nic}\n  \
         virtual_router_id {GROUP}\n  priority 100\n  advert_int {interval}\n  \
         authentication {{\n    auth_type AH\n    auth_pass {secret}\n  }}\n  virtual_ipaddress {{\n",
        events = files.events().display(),
    );
    for Shared { nic: place, index, net } in &election.shared {
        let alone = if place == nic { "" } else { " no_track" };
        let broadcast = net.broadcast();
        // Writing to a string cannot fail. The number makes a NIC that came back a change.
        let _ = writeln!(text, "    # {place} is {index}\n    {net} brd {broadcast} dev {place}{alone}");
    }
    text.push_str("  }\n}\n");
    text
}

/// Whether two configurations differ in the addresses of the elected one alone.
pub fn differ_in_addresses_only(one: &str, other: &str) -> bool {
    let head = |text: &str| text.split("virtual_ipaddress").next().map(str::to_owned);
    head(one) == head(other)
}

/// conntrackd's configuration: the same way and place as the management server's own routers use.
pub fn conntrackd(election: &Election, files: &Files) -> String {
    let Election { nic, own, control, .. } = election;
    let [_, group] = GROUPS;
    let at = |name: &str| files.folder().join(name).display().to_string();
    format!(
        "Sync {{\n  Mode FTFW {{\n    DisableExternalCache Off\n    CommitTimeout 1800\n    PurgeTimeout 60\n  }}\n  \
         Multicast {{\n    IPv4_address {group}\n    Group {SYNC}\n    IPv4_interface {own}\n    Interface {nic}\n    \
         SndSocketBuffer {BUFFER}\n    RcvSocketBuffer {BUFFER}\n    Checksum on\n  }}\n}}\n\
         General {{\n  HashSize 32768\n  HashLimit 1000000\n  LogFile off\n  Syslog off\n  LockFile {lock}\n  \
         UNIX {{\n    Path {socket}\n  }}\n  NetlinkBufferSize {BUFFER}\n  NetlinkBufferSizeMaxGrowth 8388608\n  \
         Filter From Userspace {{\n    Protocol Accept {{\n      TCP\n      SCTP\n      DCCP\n      UDP\n      ICMP\n    }}\n    \
         Address Ignore {{\n      IPv4_address 127.0.0.1\n      IPv4_address {control}\n      IPv4_address {own}\n      \
         IPv4_address {group}\n    }}\n  }}\n}}\n",
        lock = at(OF_CONNTRACKD[0]),
        socket = at(OF_CONNTRACKD[1]),
    )
}
