//! The configuration files of the base system, rendered from the [`Identity`].

use std::fmt::Write as _;

use super::{
    Identity, Nic, Role,
    plan::{Facts, File, SSH_PORT, public_address},
};

/// All files; one for which the arguments say nothing is written all the same, so that none is stale.
pub(super) fn render(identity: &Identity, control: Option<&Nic>, facts: &Facts) -> Vec<File> {
    let file = |path, text, mode| File { path, text, mode };
    let mut files = vec![
        file("/etc/hostname", format!("{}\n", identity.name), 0o644),
        file("/etc/hosts", hosts(identity, control), 0o644),
        file("/etc/resolv.conf", resolv_conf(identity), 0o644),
        file("/etc/chrony/chrony.conf", chrony_conf(identity, facts), 0o644),
        file("/root/.ssh/authorized_keys", authorized_keys(identity), 0o600),
    ];
    if let Some(address) = control.and_then(|nic| nic.address) {
        files.push(file("/etc/ssh/sshd_config", sshd_config(&address.to_string()), 0o600));
    }
    files
}

fn hosts(identity: &Identity, control: Option<&Nic>) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let own = match identity.role {
        Role::Router => control.and_then(|nic| nic.address),
        Role::SecondaryStorage | Role::ConsoleProxy => public_address(identity),
    };
    if let Some(address) = own {
        // Writing into a string does not fail, here and below.
        let _ = writeln!(text, "{address} {}", identity.name);
    }
    text
}

fn resolv_conf(identity: &Identity) -> String {
    let mut text = String::new();
    // The C library reads the first three.
    for address in identity.resolvers() {
        let _ = writeln!(text, "nameserver {address}");
    }
    if let Some(domain) = identity.get("domain") {
        let _ = writeln!(text, "search {domain}");
    }
    text.push_str("options timeout:2 attempts:2\n");
    text
}

fn chrony_conf(identity: &Identity, facts: &Facts) -> String {
    let mut text = String::new();
    let servers = identity.list("ntpserverlist");
    for server in &servers {
        let _ = writeln!(text, "server {server} iburst");
    }
    if facts.host_clock {
        text.push_str("refclock PHC /dev/ptp0 poll 3 dpoll -2\n");
    }
    if servers.is_empty() && !facts.host_clock {
        // Nobody to ask: the clock that the host gave at the start counts.
        text.push_str("local stratum 15\n");
    }
    // A VM may stand still for hours and come back: its clock is stepped whenever it is far off.
    text.push_str("makestep 1 -1\nrtcsync\nport 0\ncmdport 0\n");
    text
}

fn authorized_keys(identity: &Identity) -> String {
    identity.authorized_key().map(|key| format!("{key}\n")).unwrap_or_default()
}

/// SSH as the management's clients need it (router contract 2.1): a Java client without GCM, chacha20
/// and `-etm`, which signs with `ssh-rsa` where it must, and hundreds of connections at a time.
fn sshd_config(address: &str) -> String {
    format!(
        "Port {SSH_PORT}\n\
         AddressFamily inet\n\
         ListenAddress {address}\n\
         HostKey /etc/ssh/keys/ssh_host_ed25519_key\n\
         HostKey /etc/ssh/keys/ssh_host_ecdsa_key\n\
         KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,\
         ecdh-sha2-nistp521,diffie-hellman-group14-sha256,diffie-hellman-group14-sha1\n\
         Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,\
         aes128-ctr,aes192-ctr,aes256-ctr\n\
         MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512\n\
         HostKeyAlgorithms +ssh-rsa\n\
         PubkeyAcceptedAlgorithms +ssh-rsa\n\
         AllowUsers root\n\
         PermitRootLogin prohibit-password\n\
         AuthenticationMethods publickey\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         AuthorizedKeysFile /root/.ssh/authorized_keys\n\
         MaxStartups 1000\n\
         MaxSessions 1000\n\
         LoginGraceTime 60\n\
         ClientAliveInterval 60\n\
         ClientAliveCountMax 10\n\
         UseDNS no\n\
         PrintMotd no\n\
         PrintLastLog no\n\
         Banner none\n\
         DisableForwarding yes\n\
         PermitUserEnvironment no\n\
         PermitUserRC no\n\
         Subsystem sftp /usr/lib/trivium/shim sftp\n"
    )
}
