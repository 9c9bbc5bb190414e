//! Whom the manager hears, and what becomes of a host that it does not: see [`crate::fence`].

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, process::Command, task::JoinHandle};

use super::{Manage, ServeError};
use crate::{
    api::IN_SERVICE,
    db::{Db, DbError, random_word},
    fence::{
        self, Moment, Roll, Timing, beat,
        judge::{Verdict, judge},
        links::Links,
        now,
    },
    zone::{Host, Zone},
};

/// Longest run of a command that cuts a host's power.
const FENCE_LIMIT: Duration = Duration::from_secs(60);
/// Between two runs of it.
const FENCE_AGAIN: Duration = Duration::from_secs(30);
/// Silence after which it is run: a link and a few beats more.
const FENCE_AFTER: Duration = Duration::from_secs(8);

/// The lists of votes of a zone, the manager's own first.
pub(super) fn rolls(zone: &Zone, db: &Db) -> Result<Vec<Roll>, DbError> {
    let secret = db.secret("fence", || random_word(40))?;
    let hosts: Vec<_> = zone.hosts.iter().map(|host| (host.name.clone(), host.address)).collect();
    Ok(fence::rolls(&secret, zone.management.address, &hosts, zone.fence_after))
}

/// What the manager knows of the others when it begins: nothing.
pub(super) fn links(rolls: &[Roll], db: &Db) -> Result<Links, ServeError> {
    let own = rolls.first().ok_or_else(|| ServeError::Internal("a zone without votes".to_owned()))?;
    Ok(Links::new(own.clone(), db.next_run()?, now()))
}

/// Sends and hears beats, and judges, until the task is aborted.
pub(super) async fn keep(manage: Arc<Manage>) -> Result<JoinHandle<()>, ServeError> {
    let at = manage.links().roll().at;
    let socket = UdpSocket::bind(at)
        .await
        .map_err(|source| ServeError::Listen { address: format!("UDP {at}"), source })?;
    Ok(tokio::spawn(async move {
        let mut vigil = Vigil { manage, told: BTreeSet::new(), fenced: BTreeMap::new() };
        let mut ticks = tokio::time::interval(Timing::BEAT);
        let mut buffer = vec![0; beat::LIMIT + 64];
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    if let Ok((length, _)) = received {
                        vigil.manage.links().receive(&buffer[..length], now());
                    }
                }
                _ = ticks.tick() => {
                    let beats = vigil.manage.links().beats(now());
                    for (to, datagram) in beats {
                        // Who cannot be reached does not answer, either.
                        let _ = socket.send_to(&datagram, to).await;
                    }
                    if let Err(error) = vigil.look() {
                        vigil.manage.zoned.trouble(&error);
                    }
                }
            }
        }
    }))
}

struct Vigil {
    manage: Arc<Manage>,
    /// Hosts of which it was told that nothing can be said.
    told: BTreeSet<String>,
    /// When the command of a host was run last.
    fenced: BTreeMap<String, Instant>,
}

impl Vigil {
    fn look(&mut self) -> Result<(), DbError> {
        let manage = self.manage.clone();
        let time = now();
        let mut rows = manage.zoned.db.hosts()?;
        for host in &manage.zoned.zone().hosts {
            let name = &host.name;
            let row = rows.remove(name).unwrap_or_default();
            if row.lost.is_some() {
                // What was being given to it in the moment in which it was lost.
                if manage.agent(name).is_none() {
                    manage.zoned.db.host_lost(name)?;
                }
                continue;
            }
            let (heard, agrees, generation, verdict) = {
                let links = manage.links();
                let generation = links.roll().generation.clone();
                (links.hears(name, time), links.agrees(name), generation, judge(&links, name, time))
            };
            if heard && agrees && row.generation != generation {
                manage.zoned.db.host_agrees(name, &generation)?;
            }
            // One that has never held by this list may hold by another one: only the operator can say.
            if row.generation != generation {
                continue;
            }
            match verdict {
                Verdict::Lives { silent } => {
                    if silent > FENCE_AFTER {
                        self.cut_power(host, time);
                    } else {
                        self.told.remove(name);
                    }
                }
                Verdict::Lost => lose(&manage, name, "nobody hears it")?,
                Verdict::Unknown { heard } => {
                    if self.told.insert(name.clone()) {
                        let votes = manage.links().votes();
                        let text = format!(
                            "is not heard, but this manager hears {heard} of {votes} votes only: nothing is \
                             started elsewhere; if it is powered off say so with `manage host-off {name}`"
                        );
                        manage.zoned.event(name, &text);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs the command that cuts the power of a silent host, where the zone file has one and enough votes are heard.
    fn cut_power(&mut self, host: &Host, time: Moment) {
        let Some((program, arguments)) = host.fence.split_first() else { return };
        let (heard, votes) = {
            let links = self.manage.links();
            (links.heard_votes(time), links.votes())
        };
        let lately = self.fenced.get(&host.name).is_some_and(|at| at.elapsed() < FENCE_AGAIN);
        if lately || heard * 2 < votes {
            return;
        }
        self.fenced.insert(host.name.clone(), Instant::now());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let (manage, name) = (self.manage.clone(), host.name.clone());
        tokio::spawn(async move {
            let ended = match tokio::time::timeout(FENCE_LIMIT, command.output()).await {
                Ok(Ok(output)) if output.status.success() => {
                    lose(&manage, &name, "its power was cut").map_err(|error| error.to_string())
                }
                Ok(Ok(output)) => {
                    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    Err(format!("{}: {said}", output.status))
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no end within {FENCE_LIMIT:?}")),
            };
            if let Err(error) = ended {
                manage.zoned.event(&name, &format!("is not heard, and its fence command failed: {error}"));
            }
        });
    }
}

/// Takes the system VMs of a host from it.
pub(super) fn lose(manage: &Manage, name: &str, why: &str) -> Result<(), DbError> {
    let moved = manage.zoned.db.host_lost(name)?;
    manage.zoned.event(name, &format!("is lost: {why}; {moved} system VMs are started elsewhere"));
    manage.seen().reports.remove(name);
    // What was sent on the old connection must not arrive any more.
    if let Some(agent) = manage.agents.get().and_then(|agents| agents.named(name)) {
        agent.close("the host is lost");
    }
    manage.poke.notify_one();
    Ok(())
}

impl Manage {
    /// Whom this manager hears.
    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of votes for a host.
    pub(super) fn roll(&self, host: &str) -> Option<Roll> {
        let rolls = self.rolls.read().unwrap_or_else(PoisonError::into_inner);
        rolls.iter().find(|roll| roll.me == host).cloned()
    }

    /// Takes other lists of votes in. What was heard by the old ones is forgotten, so that nobody is lost by it.
    pub(super) fn call_roll(&self, rolls: Vec<Roll>, links: Links) {
        *self.rolls.write().unwrap_or_else(PoisonError::into_inner) = rolls;
        *self.links() = links;
    }

    /// What an operator should know of a host.
    pub(super) fn standing(&self, name: &str) -> Result<String, DbError> {
        let row = self.zoned.db.host(name)?;
        if row.lost.is_some() {
            return Ok("lost: its system VMs are elsewhere".to_owned());
        }
        let (alone, heard, held) = {
            let links = self.links();
            let held = row.generation == links.roll().generation;
            (links.roll().others.len() <= 1, links.hears(name, now()), held)
        };
        let drained = if row.drained { "drained" } else { IN_SERVICE };
        // One that has not joined yet has no guard.
        let unheard = !alone && !heard && (held || self.agent(name).is_some());
        Ok(match (!unheard, held) {
            (true, _) => drained.to_owned(),
            (false, true) => format!("{drained}, its guard is not heard"),
            (false, false) => {
                format!("{drained}, its guard was never heard: do UDP ports 8252 and 8253 reach each other?")
            }
        })
    }
}
