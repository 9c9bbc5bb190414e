//! The wires of the zone: one host, the stores on its management network, and an internet.
//!
//! ```text
//! host   cloud0     169.254.0.1/16        control NICs of the system VMs
//!        br-mgmt    192.168.100.1/24      management: manage serve, stores, eth1 of SSVM and CPVM
//!        br-guest                         the tenant network 10.1.1.0/24
//!        br-public                        203.0.113.0/24
//! store  eth0       192.168.100.5/24      NFS, S3 and an internal DNS
//! inet   eth0       203.0.113.1/24        gateway of the public network, web, DNS, browser
//!        lo         198.51.100.1, .2      a web server somewhere out there
//! ```

use crate::lab::{Namespace, join};

/// Where the stores answer.
pub const STORE: &str = "192.168.100.5";
/// The web server of the internet.
pub const WEB: &str = "198.51.100.1";

/// The three namespaces of one zone.
#[derive(Debug)]
pub struct Network {
    /// The host that runs the VMs; the management end runs here as well.
    pub host: Namespace,
    /// NFS and S3.
    pub store: Namespace,
    /// What lies beyond the public network.
    pub inet: Namespace,
}

/// Names of the namespaces of the zone called `id`.
pub fn names(id: &str) -> [String; 3] {
    ["host", "store", "inet"].map(|role| format!("tz{id}-{role}"))
}

impl Network {
    /// Lays all wires.
    pub fn lay(id: &str) -> Self {
        let [host, store, inet] = names(id).map(Namespace::named);
        for bridge in ["cloud0", "br-mgmt", "br-guest", "br-public"] {
            host.bridge(bridge);
        }
        host.address("cloud0", "169.254.0.1/16");
        host.address("br-mgmt", "192.168.100.1/24");
        join(&host, "to-store", &store, "eth0");
        host.attach("br-mgmt", "to-store");
        store.address("eth0", &format!("{STORE}/24"));
        join(&host, "to-inet", &inet, "eth0");
        host.attach("br-public", "to-inet");
        inet.address("eth0", "203.0.113.1/24");
        inet.address("lo", &format!("{WEB}/32"));
        inet.address("lo", "198.51.100.2/32");
        Self { host, store, inet }
    }

    /// Lets everything run on after the end of this process.
    pub fn keep(&mut self) {
        for namespace in [&mut self.host, &mut self.store, &mut self.inet] {
            namespace.keep();
        }
    }
}
