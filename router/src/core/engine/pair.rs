//! Of a pair of routers: who is in force, and what follows from that.

use common::supervise::Action;

use super::Engine;
use crate::{
    apply::ApplyError,
    redundancy::{self, Role, plan::Election},
    state::Kind,
};

impl Engine {
    /// Brings the programs of a pair to what they should do, and follows the election. `events` are what keepalived
    /// has told. Tells whether the network was brought to another role.
    pub(in crate::core) async fn tend(&mut self, events: &str) -> Result<bool, ApplyError> {
        let Some(before) = self.network.setup().pair.as_ref().map(|pair| pair.role) else { return Ok(false) };
        let election = self.election();
        let mut healed = self.keeper.hear(events);
        healed |= self.keeper.tend(election.clone(), before).await;
        let role = self.keeper.role(election.as_ref(), self.network.netlink()).await?;
        if role == before && !self.behind {
            if healed && role == Role::Primary {
                tracing::info!("the other router has given way");
                self.network.announce_again();
            }
            return Ok(false);
        }
        tracing::info!(%role, %before, "this router");
        if role == Role::Primary {
            self.keeper.take_over().await;
        }
        self.network.set_role(role);
        self.behind = true;
        self.network.reconcile().await?;
        self.behind = false;
        self.publish_network();
        match role {
            Role::Primary => {
                self.keeper.took_over();
                // What keepalived did not hear while it was not elected.
                self.keeper.tend(election, role).await;
            }
            Role::Backup | Role::Fault if before == Role::Primary => self.keeper.gave_way(),
            Role::Backup | Role::Fault => {}
        }
        Ok(true)
    }

    fn election(&self) -> Option<Election> {
        redundancy::plan::plan(&self.network.view(), self.network.devices())
    }

    /// `checkrouter.sh` (router contract 2.8). A router without a partner is always the one that has the gateway.
    pub(in crate::core) async fn standing(&mut self) -> String {
        if let Err(error) = self.tend("").await {
            tracing::warn!(%error, "the network does not follow the election");
        }
        let setup = self.network.setup();
        let role = setup.pair.as_ref().map_or(Role::Primary, |pair| pair.role);
        match (self.election(), setup.kind) {
            (None, Kind::Vpc) if setup.pair.is_some() => "UNKNOWN".to_owned(),
            (None, _) if setup.pair.is_some() => Role::Fault.to_string(),
            _ => role.to_string(),
        }
    }

    /// `manage_service.sh ACTION SERVICE` for a service that only this core knows.
    pub(in crate::core) async fn control(&mut self, service: &str, action: Action) -> Result<(), String> {
        let known = self.network.setup().pair.is_some();
        let outcome = if known { self.keeper.control(service, action).await } else { None };
        match outcome {
            // What is not here is stopped already.
            None if action == Action::Stop => return Ok(()),
            None => return Err(format!("{service}: no such service")),
            Some(outcome) => outcome.map_err(|error| format!("{service}: {error}"))?,
        }
        self.tend("").await.map(drop).map_err(|error| error.to_string())
    }

    /// For an operator: what of a pair is not well, and how it stands.
    pub(in crate::core) fn pair(&mut self) -> Option<(String, bool)> {
        let role = self.network.setup().pair.as_ref()?.role;
        Some((format!("{role}, {}", self.keeper.report()), self.keeper.is_well()))
    }
}
