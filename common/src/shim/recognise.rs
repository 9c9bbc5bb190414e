//! Tells what a command string asks for. Exactly the strings of the contract (router contract 2.3, 2.7)
//! and the operator's words are known; everything else is refused.

use std::net::IpAddr;

use super::words::{self, WordsError};
use crate::supervise::Action;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `scp -t`: files come in.
    Receive {
        /// The folder or file.
        target: String,
    },
    /// `scp -f`: a file goes out.
    Send {
        /// The file.
        path: String,
    },
    /// The `sftp` subsystem.
    Sftp,
    /// `get_template_version.sh`.
    Version,
    /// `patched.sh`: is there a file of this pattern?
    Patched {
        /// The pattern.
        pattern: String,
    },
    /// `patch-sysvms.sh`: have the next start try the bundle that was uploaded, where it was one.
    Patch,
    /// `keystore-setup`, with its arguments.
    KeySetup(Vec<String>),
    /// `keystore-cert-import`, with its arguments.
    CertificateImport(Vec<String>),
    /// `ls /proc/sys/net/ipv4/conf`.
    Interfaces,
    /// `ip address show <if> | grep …`: its MAC.
    Mac {
        /// The interface.
        device: String,
    },
    /// `cp -f …/cmdline …/cmdline.backup`.
    KeepCmdline,
    /// `cat /var/cache/cloud/cmdline`.
    ShowCmdline,
    /// `ping -c 1 -n -q`, `arping -c 1 -q`.
    Ping(IpAddr),
    /// `systemctl`, `manage_service.sh` with an action.
    Service {
        /// What to do.
        action: Action,
        /// With what; a name of the host's.
        service: String,
    },
    /// `systemctl is-active`, `systemctl status`.
    ServiceStatus {
        /// The service; a name of the host's.
        service: String,
        /// One word only.
        brief: bool,
    },
    /// `poweroff -f`.
    PowerOff,
    /// `cleanup.sh`: a downloaded file may go.
    Cleanup {
        /// The file.
        path: String,
    },
    /// `filesystem_writable_check.py`.
    Writable,
    /// `status`: everything an operator asks first.
    Status,
    /// `logs [service]`.
    Logs {
        /// The service; all where absent.
        service: Option<String>,
    },
    /// `timeline`: how the start went.
    Timeline,
    /// `replace`: the programs of the bundle that was uploaded, without a restart.
    Replace,
    /// `help`.
    Help,
    /// Everything else that is known: the role's core answers. Base name, then arguments.
    Core(Vec<String>),
}

/// Why a command string was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not the one plain command that it has to be.
    #[error("not allowed: {0}")]
    Words(#[from] WordsError),
    /// The command is known, its arguments are not.
    #[error("{command}: {reason}")]
    Arguments {
        /// The command.
        command: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The command is not known.
    #[error("{0}: no such command")]
    Unknown(String),
}

impl Refused {
    /// The exit code that a shell would give.
    pub fn code(&self) -> u8 {
        match self {
            Self::Words(_) | Self::Arguments { .. } => 126,
            Self::Unknown(_) => 127,
        }
    }
}

/// Scripts of the contract that the role's core answers, or refuses.
const CORE: &[&str] = &[
    "update_config.py",
    "configure.py",
    "vr_cfg.sh",
    "checkrouter.sh",
    "checkbatchs2svpn.sh",
    "checks2svpn.sh",
    "getRouterAlerts.sh",
    "getRouterMonitorResults.sh",
    "diagnostics.py",
    "get_diagnostics_files.py",
    "update_interface_config.sh",
    "cks_iso.sh",
    "netusage.sh",
    "vpc_netusage.sh",
    "get_haproxy_stats.sh",
    "bumpup_priority.sh",
    "dnsmasq.sh",
    "ipsectunnel.sh",
    "edithosts.sh",
    "ipassoc.sh",
    "loadbalancer.sh",
    "monitor_service.sh",
    "savepassword.sh",
    "vmdata.py",
    "vpc_snat.sh",
    "vpc_staticroute.sh",
    "vpn_l2tp.sh",
    CHECK,
];

/// What an operator runs on a secondary storage VM.
pub(super) const CHECK: &str = "ssvm-check.sh";

/// Words of an operator that a role's core answers: the rules of a router, which of them decides about a
/// packet, what a document would change, figures, and the certificate by which clients of its VPN know it; the sessions of a
/// console proxy, the end of one, and what was recorded of them.
const OPERATOR: &[&str] =
    &["rules", "explain", "diff", "metrics", "certificate", "sessions", "cut", "recordings"];

/// Services that the supervisor does not know: a role's core looks after them.
const KEPT: [&str; 2] = ["keepalived", "conntrackd"];

/// The tail of the pipe by which a host asks for the MAC of an interface.
const MAC_TAIL: &str = r"| grep link/ether | sed -e 's/^[ \t]*//' | cut -d' ' -f2";

/// Tells what the command string of an exec request asks for.
///
/// # Errors
/// Where it is not a string of the contract.
pub fn recognise(text: &str) -> Result<Call, Refused> {
    let text = text.trim();
    if let Some(device) = text.strip_prefix("ip address show ").and_then(|rest| rest.strip_suffix(MAC_TAIL))
        && is_device(device.trim())
    {
        return Ok(Call::Mac { device: device.trim().to_owned() });
    }
    let mut words = words::split(text)?;
    if words.is_empty() {
        return Ok(Call::Help);
    }
    let command = words.remove(0);
    program(&command, words)
}

/// Tells what a command and its arguments ask for.
fn program(command: &str, words: Vec<String>) -> Result<Call, Refused> {
    let list: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrong = |reason| Refused::Arguments { command: command.to_owned(), reason };
    if let Some(name) = command.strip_prefix("/opt/cloud/bin/") {
        return script(name, words);
    }
    // Operators know it by this path.
    if command == "/usr/local/cloud/systemvm/ssvm-check.sh" {
        return script(CHECK, words);
    }
    let name = ["/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/lib/trivium/"]
        .iter()
        .find_map(|folder| command.strip_prefix(folder))
        .unwrap_or(command);
    match (name, &list[..]) {
        ("scp", _) => scp(&list).ok_or_else(|| wrong("only -t and -f with one path are known")),
        ("shim", ["sftp"]) => Ok(Call::Sftp),
        ("bash" | "sh", [PATCH]) | (PATCH, []) => Ok(Call::Patch),
        ("ls", ["/proc/sys/net/ipv4/conf" | "/proc/sys/net/ipv4/conf/"]) => Ok(Call::Interfaces),
        ("cp", ["-f", CMDLINE, to]) if to.strip_prefix(CMDLINE) == Some(".backup") => Ok(Call::KeepCmdline),
        ("cat", [CMDLINE]) => Ok(Call::ShowCmdline),
        ("ping", ["-c", "1", "-n", "-q", address]) | ("arping", ["-c", "1", "-q", address]) => {
            address.parse().map(Call::Ping).map_err(|_| wrong("the address cannot be read"))
        }
        ("systemctl", ["is-active", service]) => {
            Ok(Call::ServiceStatus { service: unit(service), brief: true })
        }
        ("systemctl", ["status", service]) => {
            Ok(Call::ServiceStatus { service: unit(service), brief: false })
        }
        ("systemctl", [action, service]) => {
            let action = action.parse().map_err(|_| wrong("the action is not known"))?;
            Ok(Call::Service { action, service: unit(service) })
        }
        ("poweroff", ["-f"] | []) => Ok(Call::PowerOff),
        ("ls" | "cp" | "cat" | "ping" | "arping" | "systemctl" | "poweroff", _) => {
            Err(wrong("these arguments are not known"))
        }
        ("status" | "logs" | "timeline" | "replace" | "help", _) => script(name, words),
        (name, _) if OPERATOR.contains(&name) => script(name, words),
        _ => Err(Refused::Unknown(shown(command))),
    }
}

const CMDLINE: &str = "/var/cache/cloud/cmdline";
const PATCH: &str = "/var/cache/cloud/patch-sysvms.sh";

/// Tells what a script below `/opt/cloud/bin` with its arguments asks for. A single argument `null`
/// stands for none.
///
/// # Errors
/// Where the script is not known, or its arguments are not.
pub fn script(name: &str, mut words: Vec<String>) -> Result<Call, Refused> {
    if words == ["null"] {
        words.clear();
    }
    let wrong = |reason| Refused::Arguments { command: name.to_owned(), reason };
    let list: Vec<&str> = words.iter().map(String::as_str).collect();
    match (name, &list[..]) {
        ("get_template_version.sh", []) => Ok(Call::Version),
        ("patched.sh", [pattern]) => Ok(Call::Patched { pattern: (*pattern).to_owned() }),
        ("patch-sysvms.sh", []) => Ok(Call::Patch),
        ("keystore-setup", [_, _, _, _, _]) => Ok(Call::KeySetup(words)),
        ("keystore-cert-import", [_, _, _, _, _, _, _, _, _, _]) => Ok(Call::CertificateImport(words)),
        ("manage_service.sh", [action, service]) => {
            let known: Action = action.parse().map_err(|_| wrong("the action is not known"))?;
            let service = unit(service);
            if KEPT.contains(&service.as_str()) {
                return Ok(Call::Core(vec![name.to_owned(), (*action).to_owned(), service]));
            }
            Ok(Call::Service { action: known, service })
        }
        ("cleanup.sh", [path]) => Ok(Call::Cleanup { path: (*path).to_owned() }),
        ("filesystem_writable_check.py", []) => Ok(Call::Writable),
        ("status", []) => Ok(Call::Status),
        ("logs", [] | [_]) => Ok(Call::Logs { service: list.first().map(|s| (*s).to_owned()) }),
        ("timeline", []) => Ok(Call::Timeline),
        ("replace", []) => Ok(Call::Replace),
        ("help", _) => Ok(Call::Help),
        (name, _) if CORE.contains(&name) || OPERATOR.contains(&name) => {
            words.insert(0, name.to_owned());
            Ok(Call::Core(words))
        }
        (
            "get_template_version.sh"
            | "patched.sh"
            | "patch-sysvms.sh"
            | "keystore-setup"
            | "keystore-cert-import"
            | "manage_service.sh"
            | "cleanup.sh"
            | "filesystem_writable_check.py"
            | "status"
            | "logs"
            | "timeline"
            | "replace",
            _,
        ) => Err(wrong("a wrong number of arguments")),
        _ => Err(Refused::Unknown(shown(name))),
    }
}

/// `scp -t` and `scp -f` as clients start them: flags in any order, then one path.
fn scp(words: &[&str]) -> Option<Call> {
    let (path, flags) = words.split_last()?;
    let (mut to, mut from) = (false, false);
    let mut rest = flags.iter();
    while let Some(flag) = rest.next() {
        match *flag {
            "--" if rest.as_slice().is_empty() => {}
            flag => {
                for letter in flag.strip_prefix('-').filter(|letters| !letters.is_empty())?.chars() {
                    match letter {
                        't' => to = true,
                        'f' => from = true,
                        'd' | 'p' | 'q' | 'v' => {}
                        _ => return None,
                    }
                }
            }
        }
    }
    match (to, from) {
        (true, false) => Some(Call::Receive { target: (*path).to_owned() }),
        (false, true) => Some(Call::Send { path: (*path).to_owned() }),
        _ => None,
    }
}

/// A unit's name without the ending that hosts may add.
fn unit(name: &str) -> String {
    name.strip_suffix(".service").unwrap_or(name).to_owned()
}

/// Whether a text may be the name of an interface.
fn is_device(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A command fit for a message.
fn shown(command: &str) -> String {
    command.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn core(words: &[&str]) -> Call {
        Call::Core(words.iter().map(|w| (*w).to_owned()).collect())
    }

    #[test]
    fn strings_of_the_contract() {
        let of = |text| recognise(text).unwrap();
        assert_eq!(of("/opt/cloud/bin/get_template_version.sh"), Call::Version);
        assert_eq!(of("/opt/cloud/bin/get_template_version.sh null"), Call::Version);
        assert_eq!(of("/opt/cloud/bin/checkrouter.sh null"), core(&["checkrouter.sh"]));
        for check in ["/opt/cloud/bin/ssvm-check.sh", "/usr/local/cloud/systemvm/ssvm-check.sh"] {
            assert_eq!(of(check), core(&["ssvm-check.sh"]));
        }
        assert_eq!(
            of("/opt/cloud/bin/update_config.py vm_dhcp_entry.json.5b0c false"),
            core(&["update_config.py", "vm_dhcp_entry.json.5b0c", "false"])
        );
        assert_eq!(of("scp -t -d /var/cache/cloud/"), Call::Receive { target: "/var/cache/cloud/".into() });
        assert_eq!(of("scp -t /var/cache/cloud/x"), Call::Receive { target: "/var/cache/cloud/x".into() });
        assert_eq!(of("scp -v -p -f -- /root/a.zip"), Call::Send { path: "/root/a.zip".into() });
        assert_eq!(of("/usr/lib/trivium/shim sftp"), Call::Sftp);
        assert_eq!(of("/bin/bash /var/cache/cloud/patch-sysvms.sh"), Call::Patch);
        assert_eq!(of("/var/cache/cloud/patch-sysvms.sh"), Call::Patch);
        assert_eq!(of("ls /proc/sys/net/ipv4/conf"), Call::Interfaces);
        assert_eq!(
            of(r"ip address show eth3 | grep link/ether | sed -e 's/^[ \t]*//' | cut -d' ' -f2"),
            Call::Mac { device: "eth3".into() }
        );
        assert_eq!(of("cp -f /var/cache/cloud/cmdline /var/cache/cloud/cmdline.backup"), Call::KeepCmdline);
        assert_eq!(of("/bin/ping -c 1 -n -q 10.1.1.2"), Call::Ping("10.1.1.2".parse().unwrap()));
        assert_eq!(of("arping -c 1 -q 10.1.1.2"), Call::Ping("10.1.1.2".parse().unwrap()));
        assert_eq!(
            of("systemctl restart cloud.service"),
            Call::Service { action: Action::Restart, service: "cloud".into() }
        );
        assert_eq!(
            of("systemctl is-active cloud"),
            Call::ServiceStatus { service: "cloud".into(), brief: true }
        );
        assert_eq!(
            of("/opt/cloud/bin/manage_service.sh stop keepalived"),
            Call::Core(["manage_service.sh", "stop", "keepalived"].map(str::to_owned).to_vec())
        );
        assert_eq!(
            of("/opt/cloud/bin/manage_service.sh stop dnsmasq"),
            Call::Service { action: Action::Stop, service: "dnsmasq".into() }
        );
        assert_eq!(of("poweroff -f"), Call::PowerOff);
        assert_eq!(
            of(r#"/opt/cloud/bin/patched.sh "/opt/cloud/bin/keystore*""#),
            Call::Patched { pattern: "/opt/cloud/bin/keystore*".into() }
        );
        assert_eq!(of("logs core"), Call::Logs { service: Some("core".into()) });
        assert_eq!(of("timeline"), Call::Timeline);
        assert_eq!(of("replace"), Call::Replace);
        assert_eq!(of("diff vm_dhcp_entry.json.1"), core(&["diff", "vm_dhcp_entry.json.1"]));
        assert_eq!(of("cut 7"), core(&["cut", "7"]));
        assert_eq!(of(""), Call::Help);
    }

    #[test]
    fn everything_else_is_refused() {
        let code = |text| recognise(text).unwrap_err().code();
        for text in [
            "bash",
            "sh -c id",
            "python3",
            "/opt/cloud/bin/../../bin/sh",
            "/opt/cloud/bin/nothing.sh",
            "rm -rf /",
        ] {
            assert_eq!(code(text), 127, "{text}");
        }
        for text in [
            "scp -r -t /tmp",
            "scp -t",
            "scp -t -f x",
            "ls /",
            "cat /etc/shadow",
            "cp -f a b",
            "ping -f 10.1.1.1",
            "ping -c 1 -n -q -I10.1.1.1",
            "poweroff -f; id",
            "systemctl mask cloud",
            "/opt/cloud/bin/patched.sh a b",
            "ip address show eth0;id | grep link/ether | sed -e 's/^[ \\t]*//' | cut -d' ' -f2",
            "status | cat",
        ] {
            assert_eq!(code(text), 126, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_recognised_or_refused(text in any::<String>()) {
            let _ = recognise(&text);
        }

        #[test]
        fn near_commands_too(text in "(scp|ls|cp|ip address show|/opt/cloud/bin/[a-z.-]{0,12}|systemctl)( [-a-z/'\"|*]{0,9}){0,5}") {
            let _ = recognise(&text);
        }
    }
}
