//! The NICs that are there.

use crate::mac::Mac;

/// One NIC of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Number that the kernel gave it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Whether it is up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
}

impl Device {
    /// N of `eth<N>`.
    pub fn number(&self) -> Option<u32> {
        self.name.strip_prefix("eth")?.parse().ok()
    }
}

/// All NICs called `eth<N>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices(pub Vec<Device>);

impl Devices {
    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<&Device> {
        self.0.iter().find(|d| d.name == name)
    }

    /// The one of this Ethernet address.
    pub fn by_mac(&self, mac: Mac) -> Option<&Device> {
        self.0.iter().find(|d| d.mac == mac)
    }
}
