//! Who trusts whom: strict and lax servers, foreign and revoked certificates, certificates that
//! arrive late or anew.

use std::net::IpAddr;

use common::channel::agent::Agent;
use common::channel::message::Message;
use common::channel::server::SendOptions;
use common::channel::tls::{AgentFiles, Authority, ClientPolicy, Issue, KeyKind, Revoked, ServerTls};
use common::command::Secret;
use common::command::agent::{
    SetupCertificateAnswer, SetupCertificateCommand, SetupKeyStoreCommand, SetupKeystoreAnswer,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::support::*;

/// Whether a raw peer gets as far as a start-up answer.
async fn is_let_in(office: &Office, folder: &std::path::Path) -> bool {
    let Ok(mut stream) = raw_agent(office.server.address(), folder).await else { return false };
    if stream.writer.send(&startup(0), LIMIT).await.is_err() {
        return false;
    }
    matches!(soon("an answer or the end", stream.reader.next()).await, Ok(Some(Ok(_))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_server_takes_only_its_own_certificates_for_their_own_address() {
    let (ca, foreign) = (authority(), authority());
    let office = office(&ca, Setting::default()).await;
    let folder = |name: &str| std::path::PathBuf::from(name);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(folder(name));

    ca.equip(&at("good"), "127.0.0.1");
    assert!(is_let_in(&office, &at("good")).await);

    std::fs::create_dir_all(at("none")).unwrap();
    assert!(!is_let_in(&office, &at("none")).await, "no certificate");

    ca.equip(&at("elsewhere"), "10.1.1.21");
    assert!(!is_let_in(&office, &at("elsewhere")).await, "a certificate for another address");

    // A stranger's certificate that says all the right things; the server itself is trusted.
    foreign.equip(&at("foreign"), "127.0.0.1");
    std::fs::write(at("foreign").join("cloud.ca.crt"), ca.authority.certificate_pem()).unwrap();
    assert!(!is_let_in(&office, &at("foreign")).await, "a certificate of another authority");

    let serial = ca.equip(&at("revoked"), "127.0.0.1");
    assert!(is_let_in(&office, &at("revoked")).await);
    office.revoked.add(&serial.to_uppercase());
    assert!(!is_let_in(&office, &at("revoked")).await, "a revoked certificate");
    assert!(is_let_in(&office, &at("good")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lax_server_takes_anything_but_knows_what_it_is_worth() {
    let (ca, foreign) = (authority(), authority());
    let policy = ClientPolicy { strict: false, allow_expired: true };
    let office = office(&ca, Setting { policy, ..Setting::default() }).await;
    let dir = tempfile::tempdir().unwrap();
    let (good, none, other) = (dir.path().join("good"), dir.path().join("none"), dir.path().join("other"));
    ca.equip(&good, "127.0.0.1");
    std::fs::create_dir_all(&none).unwrap();
    foreign.equip(&other, "127.0.0.1");
    std::fs::write(other.join("cloud.ca.crt"), ca.authority.certificate_pem()).unwrap();
    for (folder, verified) in [(good, true), (none, false), (other, false)] {
        assert!(is_let_in(&office, &folder).await);
        let candidate = office.desk.candidates.lock().unwrap().pop().unwrap();
        assert_eq!(candidate.verified, verified, "{folder:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_does_not_talk_to_a_foreign_server() {
    let (ca, foreign) = (authority(), authority());
    let policy = ClientPolicy { strict: false, allow_expired: true };
    let office = office(&foreign, Setting { policy, ..Setting::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let refused = status(&agent, "an error", |status| status.last_error.is_some()).await;
    let error = refused.last_error.unwrap();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(refused.connections, 0);
    assert!(office.desk.candidates.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_arrive_late_are_used_at_once() {
    let ca = authority();
    let mut office = office(&ca, Setting::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = agent_config(folder.path(), office.server.address());
    // Only the arrival of the files can make it try again in time.
    config.timings.backoff = LIMIT * 10;
    config.timings.backoff_limit = LIMIT * 10;
    let agent = Agent::start(config, Role::default().into());
    status(&agent, "a refusal", |status| status.last_error.is_some()).await;
    ca.equip(folder.path(), "127.0.0.1");
    let attached = office.attached().await;
    assert!(attached.verified());
    // The same while connected: a new certificate from outside makes it connect anew.
    let serial = ca.equip(folder.path(), "127.0.0.1");
    let again = office.attached().await;
    assert_eq!(again.serial(), Some(serial.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_insists_waits_for_an_authority() {
    let ca = authority();
    let policy = ClientPolicy { strict: false, allow_expired: true };
    let mut office = office(&ca, Setting { policy, ..Setting::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = agent_config(folder.path(), office.server.address());
    config.require_authority = true;
    let agent = Agent::start(config, Role::default().into());
    status(&agent, "no authority", |status| {
        status.last_error.as_deref() == Some("no cloud.ca.crt to know a server by")
    })
    .await;
    std::fs::write(folder.path().join("cloud.ca.crt"), ca.authority.certificate_pem()).unwrap();
    assert!(!office.attached().await.verified());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_over_the_channel() {
    let ca = authority();
    let mut office = office(&ca, Setting::default()).await;
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let attached = office.attached().await;

    // With a key of the server's.
    let wish = Issue { names: vec!["v-2-VM".to_owned()], addresses: vec![LOCALHOST], days: 30 };
    let issued = ca.authority.issue(&wish, KeyKind::Rsa).unwrap();
    let command = SetupCertificateCommand {
        certificate: Secret::new(&issued.certificate),
        private_key: Secret::new(&issued.private_key),
        ca_certificates: Secret::new(&issued.ca_certificates),
        handle_by_agent: true,
        ..SetupCertificateCommand::default()
    };
    assert!(!format!("{command:?}").contains("BEGIN"));
    assert!(!format!("{:?}", Message::wrap(&command)).contains("BEGIN"));
    let answer = attached.ask(Message::wrap(&command), SendOptions::default()).await.unwrap();
    assert!(answer.read::<SetupCertificateAnswer>().unwrap().answer.result, "{answer:?}");
    assert_eq!(agent.status().borrow().connections, 1, "the new certificate is for the next connection");
    attached.close("use the new one");
    let attached = office.attached().await;
    assert_eq!(attached.serial(), Some(issued.serial.as_str()));

    // With a key of the agent's own.
    let request = SetupKeyStoreCommand { handle_by_agent: true, ..SetupKeyStoreCommand::default() };
    let answer = attached.ask(Message::wrap(&request), SendOptions::default()).await.unwrap();
    let csr = answer.read::<SetupKeystoreAnswer>().unwrap().csr;
    let wish = Issue { names: vec!["v-2-VM".to_owned()], addresses: vec![LOCALHOST], days: 30 };
    let issued = ca.authority.issue_on_request(csr.expose(), &wish).unwrap();
    assert!(issued.private_key.is_empty());
    let command = SetupCertificateCommand {
        certificate: Secret::new(&issued.certificate),
        private_key: Secret::default(),
        ca_certificates: Secret::new(&issued.ca_certificates),
        handle_by_agent: true,
        ..SetupCertificateCommand::default()
    };
    assert!(attached.ask(Message::wrap(&command), SendOptions::default()).await.unwrap().result());

    // One that does not fit its key is refused by name and leaves the others in place.
    let wrong = ca.authority.issue(&Issue { days: 1, ..wish }, KeyKind::P256).unwrap();
    let command = SetupCertificateCommand { certificate: Secret::new(&wrong.certificate), ..command };
    let answer = attached.ask(Message::wrap(&command), SendOptions::default()).await.unwrap();
    assert_eq!(answer.class, "org.apache.cloudstack.ca.SetupCertificateAnswer");
    assert!(!answer.result() && !answer.details().is_empty());
    attached.close("use the new one");
    assert_eq!(office.attached().await.serial(), Some(issued.serial.as_str()));
}

#[test]
fn the_authority_itself_may_be_the_server_s_certificate() {
    // The first implementation shows its authority's certificate on 8250 and agents must take it.
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::open(dir.path(), "ca.cloudstack.apache.org", KeyKind::P256).unwrap();
    let key = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
    let agent = tempfile::tempdir().unwrap();
    std::fs::write(agent.path().join("cloud.ca.crt"), ca.certificate_pem()).unwrap();
    let config = AgentFiles::new(agent.path()).load().unwrap().config().unwrap();
    let server = rustls::ServerConfig::builder_with_provider(common::channel::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![ca.certificate().clone()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    assert!(handshake(config, server.into()).is_ok());
}

#[test]
fn only_tls_1_2_is_spoken() {
    let (ca, dir) = (authority(), tempfile::tempdir().unwrap());
    ca.equip(dir.path(), "127.0.0.1");
    let files = AgentFiles::new(dir.path());
    let server =
        ServerTls::new(&ca.authority, vec![], vec![], ClientPolicy::default(), Revoked::default()).unwrap();
    let only_13 = |builder: rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.authority.certificate().clone()).unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    let builder = rustls::ClientConfig::builder_with_provider(common::channel::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    assert!(handshake(only_13(builder).into(), server.config(LOCALHOST).unwrap()).is_err());
    let client = files.load().unwrap().config().unwrap();
    assert!(handshake(client, server.config(LOCALHOST).unwrap()).is_ok());
}

/// Shakes hands in memory.
fn handshake(
    client: std::sync::Arc<rustls::ClientConfig>,
    server: std::sync::Arc<rustls::ServerConfig>,
) -> Result<(), rustls::Error> {
    let mut client = rustls::ClientConnection::new(client, LOCALHOST.into()).unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn an_authority_is_made_once_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::open(dir.path(), "ca.cloudstack.apache.org", KeyKind::P256).unwrap();
    let second = Authority::open(dir.path(), "another name", KeyKind::P256).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("ca.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // A key that is not its own is refused.
    let other = tempfile::tempdir().unwrap();
    Authority::open(other.path(), "x", KeyKind::P256).unwrap();
    std::fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    assert!(Authority::load(dir.path()).is_err());
}

#[test]
fn a_certificate_says_what_the_contract_wants() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::open(dir.path(), "ca.cloudstack.apache.org", KeyKind::Rsa).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(ca.certificate()).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=ca.cloudstack.apache.org");
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(parsed.is_ca() && parsed.subject_alternative_name().unwrap().is_none());
    assert!(parsed.extended_key_usage().unwrap().is_none());

    let addresses: Vec<IpAddr> = vec!["10.1.1.21".parse().unwrap(), "2001:db8::21".parse().unwrap()];
    let wish = Issue { names: vec!["s-1-VM".to_owned(), "s-1".to_owned()], addresses, days: 365 };
    let issued = ca.issue(&wish, KeyKind::Rsa).unwrap();
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=s-1-VM");
    assert_eq!(leaf.issuer(), parsed.subject());
    assert!(leaf.key_usage().unwrap().is_none() && leaf.extended_key_usage().unwrap().is_none());
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 4);
    assert!(leaf.verify_signature(Some(parsed.public_key())).is_ok());
    assert_eq!(leaf.raw_serial_as_string().replace(':', "").trim_start_matches('0'), issued.serial);
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!((now - from - 12 * 3600).abs() < 60 && (to - now - 365 * 86400).abs() < 60);
    assert!(!format!("{issued:?}").contains("PRIVATE"));
}

#[test]
fn a_request_of_keytool_s_kind_is_taken_and_a_forged_one_is_not() {
    // Made by another tool: header with NEW, and a subject key identifier among the wishes.
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    let wish = Issue { names: vec!["kvm1".to_owned()], addresses: vec![LOCALHOST], days: 0 };
    let csr = AgentFiles::new(dir.path()).request(&wish).unwrap();
    let renamed = csr.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
    let issued = ca.authority.issue_on_request(&renamed, &Issue { days: 9, ..Issue::default() }).unwrap();
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=kvm1");
    assert!(!leaf.is_ca());
    // Any change of the request breaks its signature.
    let mut lines: Vec<String> = csr.lines().map(str::to_owned).collect();
    let last = lines.len() - 2;
    let changed: String = lines[last]
        .chars()
        .enumerate()
        .map(|(at, c)| if at == 2 { if c == 'A' { 'B' } else { 'A' } } else { c })
        .collect();
    lines[last] = changed;
    assert!(ca.authority.issue_on_request(&lines.join("\n"), &Issue::default()).is_err());
    assert!(ca.authority.issue_on_request("nonsense", &Issue::default()).is_err());
}

#[test]
fn keys_of_both_forms_are_read() {
    // PKCS#1, as older tools export an RSA key.
    let (ca, dir) = (authority(), tempfile::tempdir().unwrap());
    let wish = Issue { names: vec!["x".to_owned()], addresses: vec![], days: 1 };
    let issued = ca.authority.issue(&wish, KeyKind::Rsa).unwrap();
    let pkcs8 = rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(issued.private_key.as_bytes()).unwrap();
    // The PKCS#1 key is the octet string at the end of the PKCS#8 structure.
    let der = pkcs8.secret_pkcs8_der();
    let start = der.windows(4).skip(8).position(|window| window[0] == 0x30 && window[1] == 0x82).unwrap() + 8;
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(&der[start..]);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem =
        format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"));
    let files = AgentFiles::new(dir.path());
    files.install(&issued.certificate, &issued.ca_certificates, &pem).unwrap();
    assert!(files.load().unwrap().has_identity());
}
