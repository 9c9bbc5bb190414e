//! Applying a changed zone file, without a restart.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use common::{
    channel::{
        message::Message,
        server::{AttachedAgent, SendOptions},
    },
    command::agent::Answer,
};

use super::{Manage, answer::ask, door::SSVM, store, vigil};
use crate::zone::{Zone, diff};

/// Longest time for an SSVM to attach all stores.
const ATTACH: Duration = Duration::from_secs(300);
/// Longest time for a host to keep a list of votes.
const ROLL: Duration = Duration::from_secs(30);

/// The zone file as it is now, and what applying it would do.
pub(super) fn plan(manage: &Manage) -> Result<(Zone, Vec<String>), String> {
    let new = Zone::load(&manage.zoned.file).map_err(|error| error.to_string())?;
    let lines = diff(&manage.zoned.zone(), &new)?;
    let vms = manage.zoned.db.vms().map_err(|error| error.to_string())?;
    let gone = |host: &String| !new.hosts.iter().any(|other| other.name == *host);
    if let Some((vm, host)) =
        vms.iter().find_map(|vm| Some((vm, vm.host.as_ref().filter(|host| gone(host))?)))
    {
        return Err(format!(
            "{} is on {host}, which the file has no longer: drain the host first (`manage host-drain {host}`); \
             guests leave it when the file has them no longer. Nothing was applied",
            vm.display()
        ));
    }
    Ok((new, lines))
}

/// Applies it, where that still does what the operator has seen.
pub(super) fn apply(manage: &Arc<Manage>, seen: &[String]) -> Result<Vec<String>, String> {
    let (new, lines) = plan(manage)?;
    if lines != seen {
        return Err("The zone file has changed since its plan was shown; nothing was applied".to_owned());
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (old, db) = (manage.zoned.zone(), &manage.zoned.db);
    // All that can fail comes first; then one transaction, and from there on nothing can.
    let votes = if (&old.hosts, old.fence_after) == (&new.hosts, new.fence_after) {
        None
    } else {
        let rolls = vigil::rolls(&new, db).map_err(|error| text(&error))?;
        let links = vigil::links(&rolls, db).map_err(|error| text(&error))?;
        Some((rolls, links))
    };
    let stores = if (&old.stores, &old.internal_sites) == (&new.stores, &new.internal_sites) {
        None
    } else {
        Some(store::setup(db, &new)?)
    };
    db.take_zone(&new).map_err(|error| text(&error))?;
    *manage.zoned.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new.clone());
    if let Some((rolls, links)) = votes {
        manage.call_roll(rolls, links);
        super::welcome_hosts(&manage.zoned);
        for host in &new.hosts {
            if let (Some(agent), Ok(command)) = (manage.agent(&host.name), manage.roll_command(&host.name)) {
                tokio::spawn(tell_roll(agent, command));
            }
        }
        for gone in old.hosts.iter().filter(|host| !new.hosts.iter().any(|other| other.name == host.name)) {
            if let Some(agent) = manage.agent(&gone.name) {
                agent.close("the zone file has it no longer");
            }
        }
    }
    if let Some(commands) = stores {
        manage.seen().stores.retain(|(name, _), _| new.store(name).is_some());
        for agent in manage.agents.get().map(|agents| agents.all()).unwrap_or_default() {
            if agent.class() == SSVM {
                tokio::spawn(tell_stores(manage.clone(), agent, commands.clone()));
            }
        }
    }
    manage.zoned.event("zone", &format!("its file was applied: {}", lines.join("; ")));
    manage.poke.notify_one();
    Ok(lines)
}

/// A host that does not take it is told again when it connects anew.
async fn tell_roll(agent: AttachedAgent, command: Message) {
    if let Err(error) = ask::<Answer>(&agent, command, ROLL).await {
        agent.close(&format!("it did not take the list of votes: {error}"));
    }
}

/// An SSVM that does not take them is told again when it connects anew.
async fn tell_stores(manage: Arc<Manage>, agent: AttachedAgent, commands: Vec<Message>) {
    match agent.send(commands, SendOptions::in_sequence().within(ATTACH)).await {
        Ok(answers) => {
            store::attached(&manage, agent.name(), &answers);
            store::attach_again(manage, agent).await;
        }
        Err(error) => agent.close(&format!("it did not take the stores: {error}")),
    }
}
