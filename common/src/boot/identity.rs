//! From the line of boot arguments to the [`Identity`].

use std::{collections::BTreeMap, net::Ipv4Addr};

/// What the VM is to be, from `type=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `router`, `vpcrouter`, `dhcpsrvr`, `ilbvm`, `elbvm`; the exact word stays in [`Identity::kind`].
    Router,
    /// `secstorage`.
    SecondaryStorage,
    /// `consoleproxy`.
    ConsoleProxy,
}

/// One NIC named by `eth<N>ip` and `eth<N>mask`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// N of `eth<N>`.
    pub index: u32,
    /// `None` when the argument was `0.0.0.0`.
    pub address: Option<Ipv4Addr>,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
}

/// Everything that the boot arguments say. Values that are the text `null` count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The role that decides which services run.
    pub role: Role,
    /// The word behind `type=`.
    pub kind: String,
    /// `name=`: instance and host name.
    pub name: String,
    /// NICs in order of their index.
    pub nics: Vec<Nic>,
    /// Index of the NIC on which SSH is answered.
    pub control_nic: u32,
    /// All arguments as they came, last one of a name wins.
    pub arguments: BTreeMap<String, String>,
}

/// A boot argument that cannot be right. The state before stays in force.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// A needed argument is missing.
    #[error("boot argument {0} is missing")]
    Missing(&'static str),
    /// An argument has a value that cannot be read.
    #[error("boot argument {name}={value}: {reason}")]
    Malformed {
        /// Its name.
        name: String,
        /// Its value, shortened, secrets left out.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Identity {
    /// The value of an argument, `None` where it is absent, empty or `null`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.arguments.get(name).map(String::as_str).filter(|v| !v.is_empty() && *v != "null")
    }

    /// Whether an argument is `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The NIC `eth<index>`, if the arguments name it.
    pub fn nic(&self, index: u32) -> Option<&Nic> {
        self.nics.iter().find(|n| n.index == index)
    }
}
