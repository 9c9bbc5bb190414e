//! Certificates of hosts and system VMs: new ones over the channel before the old ones end, and the end of those that
//! somebody else may have (management channel 4.3, 4.7).

use std::{net::IpAddr, sync::Arc, time::Duration};

use common::{
    channel::{
        message::Message,
        server::AttachedAgent,
        tls::{Issue, Issued},
    },
    command::{
        Secret,
        agent::{SetupCertificateAnswer, SetupCertificateCommand, SetupKeyStoreCommand, SetupKeystoreAnswer},
    },
};

use super::{Manage, Zoned, answer::ask};
use crate::db::{DbError, now};

/// Days that a certificate of a host or system VM is good.
pub(super) const DAYS: u32 = 365;
/// Seconds before its end at which it is renewed.
const BEFORE: i64 = 30 * DAY;
const DAY: i64 = 24 * 3600;
/// Between two looks at all agents.
const LOOK: Duration = Duration::from_secs(6 * 3600);
/// Longest time for an agent to make a key, or to put a certificate in place.
const ASK: Duration = Duration::from_secs(60);

/// Whether a certificate that ends then is to be renewed.
fn is_due(end: i64, now: i64) -> bool {
    end - now < BEFORE
}

/// Writes down that a certificate was issued.
pub(super) fn issued(zoned: &Zoned, issued: &Issued, owner: &str) -> Result<(), DbError> {
    zoned.db.issued(&issued.serial, owner, now() + i64::from(DAYS) * DAY)
}

/// Renews what is due, again and again, until it is cancelled.
pub(super) async fn keep(manage: Arc<Manage>) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        for agent in manage.agents.get().map(|agents| agents.all()).unwrap_or_default() {
            look(&manage, &agent).await;
        }
    }
}

/// Renews the certificate of an agent where that is due.
pub(super) async fn look(manage: &Manage, agent: &AttachedAgent) {
    let name = agent.name();
    let end = match manage.zoned.db.certificate_end(name) {
        Ok(Some(end)) => end,
        Ok(None) => return,
        Err(error) => return manage.zoned.trouble(&error),
    };
    if !agent.is_ready() || !is_due(end, now()) {
        return;
    }
    let days = (end - now()) / DAY;
    match renew(manage, agent).await {
        Ok(()) => manage.zoned.event(name, "has a new certificate: the old one was to end soon"),
        Err(reason) => {
            let left = if end == 0 { "soon".to_owned() } else { format!("in {days} days") };
            let text = format!("its certificate ends {left}, and it has no new one: {reason}");
            manage.zoned.event(name, &text);
        }
    }
}

/// Renews the certificate of one that an operator names.
pub(super) async fn by_hand(manage: &Manage, name: &str) -> Result<String, String> {
    let agent = manage.agent(name).ok_or_else(|| format!("{name} is not connected"))?;
    renew(manage, &agent).await?;
    manage.zoned.event(name, "has a new certificate: the operator wanted it");
    Ok(format!("{name} has a new certificate, which it shows from its next connection on"))
}

/// Has an agent make a key, issues a certificate for it, and hands that over. The connection stays.
async fn renew(manage: &Manage, agent: &AttachedAgent) -> Result<(), String> {
    let name = agent.name().to_owned();
    let addresses = addresses(manage, &name)?;
    let command = SetupKeyStoreCommand {
        validity_days: i64::from(DAYS),
        handle_by_agent: true,
        ..SetupKeyStoreCommand::default()
    };
    let made: SetupKeystoreAnswer = ask(agent, Message::wrap(&command), ASK).await?;
    let wish = Issue { names: vec![name.clone()], addresses, days: DAYS };
    let authority = &manage.zoned.authority;
    let new = authority.issue_on_request(made.csr.expose(), &wish).map_err(|error| error.to_string())?;
    // Known before it is used.
    issued(&manage.zoned, &new, &name).map_err(|error| error.to_string())?;
    let command = SetupCertificateCommand {
        certificate: Secret::new(&new.certificate),
        ca_certificates: Secret::new(&new.ca_certificates),
        handle_by_agent: true,
        ..SetupCertificateCommand::default()
    };
    ask::<SetupCertificateAnswer>(agent, Message::wrap(&command), ASK).await?;
    Ok(())
}

/// The addresses from which a host or system VM connects.
fn addresses(manage: &Manage, name: &str) -> Result<Vec<IpAddr>, String> {
    if let Some(host) = manage.zoned.zone().hosts.iter().find(|host| host.name == name) {
        return Ok(vec![host.address.into()]);
    }
    let vm = manage.zoned.db.vm(name).map_err(|error| error.to_string())?;
    let vm = vm.ok_or_else(|| format!("the zone has no {name:?}"))?;
    Ok(vm.nics.iter().map(|nic| nic.address.into()).collect())
}

/// Refuses the certificates of one from now on, and closes its connection.
pub(super) fn revoke(manage: &Manage, name: &str) -> Result<String, String> {
    let db = &manage.zoned.db;
    let text = |error: DbError| error.to_string();
    if !db.has_certificate(name).map_err(text)? {
        return Err(format!(
            "{name:?} was never given a certificate; hosts and system VMs are named as in `manage status`"
        ));
    }
    let count = db.revoke(name).map_err(text)?;
    for serial in db.revoked().map_err(text)? {
        manage.zoned.revoked.add(&serial);
    }
    if let Some(agents) = manage.agents.get() {
        agents.close_revoked(&manage.zoned.revoked);
    }
    manage.zoned.event(name, &format!("its certificates are revoked ({count})"));
    manage.poke.notify_one();
    let host = manage.zoned.zone().hosts.iter().any(|host| host.name == name);
    Ok(if host {
        format!(
            "{name} is let in no more; what runs there runs on. It may join anew with the file of `manage host-token \
             {name}`; if it is powered off, say so with `manage host-off {name}`"
        )
    } else {
        format!("{name} is let in no more with its old certificates, and is given a new one where it runs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_month() {
        let end = 1_000 * DAY;
        assert!(!is_due(end, end - 31 * DAY));
        assert!(is_due(end, end - 29 * DAY) && is_due(end, end + DAY));
        assert!(is_due(0, end), "one of which nothing was written down");
    }
}
