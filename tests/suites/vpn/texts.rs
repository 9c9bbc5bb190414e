//! What people write who set up the other end by hand, and the documents of the management server for the same.

/// Where the machine outside is: as a client, and as the gateway of a site.
pub(crate) const CLIENT: &str = "203.0.113.50";
pub(crate) const GATEWAY: &str = "203.0.113.60";
/// Addresses in both networks of the site.
pub(crate) const FAR: [&str; 2] = ["192.168.50.1", "192.168.51.1"];
/// The secret of the site.
pub(crate) const SECRET: &str = "of the site";

/// The site, for strongSwan: who it says to be, and whom it expects.
pub(crate) fn site(router: &str, net: &str, own: &str, expected: &str) -> String {
    format!(
        r#"
connections {{
  site {{
    version = 2
    local_addrs = {GATEWAY}
    remote_addrs = {router}
    proposals = aes256-sha256-modp2048
    local {{
      auth = psk
      id = {own}
    }}
    remote {{
      auth = psk
      id = {expected}
    }}
    children {{
      fifty {{
        local_ts = 192.168.50.0/24
        remote_ts = {net}
        esp_proposals = aes256-sha256-modp2048
      }}
      fifty-one {{
        local_ts = 192.168.51.0/24
        remote_ts = {net}
        esp_proposals = aes256-sha256-modp2048
      }}
    }}
  }}
}}
secrets {{
  ike-site {{
    id-1 = {GATEWAY}
    id-2 = branch.example
    secret = "{SECRET}"
  }}
}}
"#
    )
}

/// The document for the site; the router begins unless it is passive.
pub(crate) fn document(router: &str, net: &str, passive: bool) -> String {
    format!(
        r#"{{"local_public_ip":"{router}","local_guest_cidr":"{net}","local_public_gateway":"203.0.113.1","peer_gateway_ip":"{GATEWAY}","peer_guest_cidr_list":"192.168.50.0/24,192.168.51.0/24","esp_policy":"aes256-sha256;modp2048","ike_policy":"aes256-sha256;modp2048","ipsec_psk":"{SECRET}","ike_version":"ikev2","ike_lifetime":86400,"esp_lifetime":3600,"create":true,"dpd":true,"passive":{passive},"encap":false,"split_connections":true,"type":"site2sitevpn"}}"#
    )
}

/// A client by L2TP and by IKEv2, for strongSwan: the router's address, and the network behind it.
pub(crate) fn client(router: &str, net: &str) -> String {
    format!(
        r#"
connections {{
  l2tp {{
    version = 1
    local_addrs = {CLIENT}
    remote_addrs = {router}
    proposals = aes256-sha1-modp2048
    local {{
      auth = psk
    }}
    remote {{
      auth = psk
      id = {router}
    }}
    children {{
      l2tp {{
        mode = transport
        local_ts = dynamic[udp]
        remote_ts = dynamic[udp/1701]
        esp_proposals = aes128-sha1
      }}
    }}
  }}
  ikev2 {{
    version = 2
    local_addrs = {CLIENT}
    remote_addrs = {router}
    vips = 0.0.0.0
    local {{
      auth = eap-mschapv2
      id = bob
      eap_id = bob
    }}
    remote {{
      auth = pubkey
      id = {router}
    }}
    children {{
      net {{
        remote_ts = {net},10.1.2.1/32
      }}
    }}
  }}
}}
secrets {{
  ike-client {{
    id = {CLIENT}
    secret = psk-Example2
  }}
  eap-bob {{
    id = bob
    secret = "a \"b\" c"
  }}
}}
"#
    )
}

/// The same for xl2tpd, which dials when it is told.
pub(crate) fn dialer(router: &str) -> String {
    format!(
        "[global]\nport = 1701\n\n[lac vpn]\nlns = {router}\npppoptfile = /etc/ppp/options.l2tpd.client\n\
         length bit = yes\n"
    )
}

/// The same for pppd.
pub(crate) const OPTIONS: &str = "name bob\npassword \"a \\\"b\\\" c\"\nnoauth\nnoccp\nipcp-accept-local\n\
    ipcp-accept-remote\nrefuse-eap\nmtu 1410\nmru 1410\nnodefaultroute\n";

/// The document that lets clients in, or lets them in no more.
pub(crate) fn remote(router: &str, net: &str, create: bool) -> String {
    format!(
        r#"{{"create":{create},"ip_range":"10.1.2.2-10.1.2.9","preshared_key":"psk-Example2","vpn_server_ip":"{router}","local_ip":"10.1.2.1","local_cidr":"{net}","public_interface":"eth1","type":"remoteaccessvpn"}}"#
    )
}

/// The document that lets bob in, or lets him in no more.
pub(crate) fn bob(add: bool) -> String {
    user("bob", r#"a \"b\" c"#, add)
}

/// The document for one user.
pub(crate) fn user(name: &str, password: &str, add: bool) -> String {
    format!(
        r#"{{"vpn_users":[{{"user":"{name}","password":"{password}","add":{add}}}],"type":"vpnuserlist"}}"#
    )
}

/// The document for WireGuard, with peers.
pub(crate) fn wireguard(key: &str, peers: &str) -> String {
    format!(
        r#"{{"private_key":"{key}","port":51820,"address":"10.3.0.1/24","peers":[{peers}],"type":"wireguard"}}"#
    )
}

/// The document that ends it.
pub(crate) const NO_WIREGUARD: &str = r#"{"create":false,"type":"wireguard"}"#;
