//! What may reach the console proxy: consoles from the public side, status from the management side,
//! SSH from where the host manages the VM.

use std::time::Duration;

use common::{
    boot::Identity,
    program::{self, ProgramError},
};

use super::plan::{STATUS_PORT, VncPort};

const LIMIT: Duration = Duration::from_secs(30);

/// Replaces the VM's one table whole, in one transaction: the first two lines make sure that there is
/// one to delete.
pub fn render(identity: &Identity) -> String {
    let ssh = identity.control_nic;
    let stream = VncPort::of(identity).number();
    format!(
        "table inet trivium\n\
         delete table inet trivium\n\
         table inet trivium {{\n\
         \tchain input {{\n\
         \t\ttype filter hook input priority filter; policy drop;\n\
         \t\tct state established,related accept\n\
         \t\tiifname \"lo\" accept\n\
         \t\tct state invalid drop\n\
         \t\ticmp type timestamp-request drop\n\
         \t\tmeta l4proto icmp accept\n\
         \t\tiifname \"eth{ssh}\" tcp dport 3922 accept\n\
         \t\tiifname {{ \"eth0\", \"eth1\" }} tcp dport {STATUS_PORT} accept\n\
         \t\tiifname \"eth2\" tcp dport {{ 80, 443, {stream} }} accept\n\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy drop;\n\
         \t}}\n\
         }}\n"
    )
}

/// Puts it in force. Blocks.
pub fn apply(identity: &Identity) -> Result<(), ProgramError> {
    program::run("nft", ["-f", "-"], render(identity).as_bytes(), LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_those_of_the_boot_arguments() {
        let of =
            |more: &str| render(&Identity::parse(&format!("type=consoleproxy name=v-1-VM {more}")).unwrap());
        let plain = of("vncport=8080 eth0ip=169.254.3.4 eth0mask=255.255.0.0");
        assert!(plain.contains("iifname \"eth0\" tcp dport 3922 accept"), "{plain}");
        assert!(plain.contains("iifname \"eth2\" tcp dport { 80, 443, 8080 } accept"), "{plain}");
        assert!(of("vncport=8443").contains("{ 80, 443, 8443 }"));
        assert!(of("").contains("{ 80, 443, 8080 }"));
    }
}
