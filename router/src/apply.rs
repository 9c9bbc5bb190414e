//! The one place where the network changes: from one state to another, whole or not at all.
//!
//! A change is planned, then applied as one transaction of the packet filter and the missing steps of the
//! links, then made durable; only then it is in force. Where any of these fails, what was done before
//! it is taken back and the state before stays in force. A crash leaves the old or the new state: at the next start
//! the durable state is applied, which changes nothing where the kernel has it already.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use common::{
    paths::Paths,
    persist::{self, PersistError},
};

use crate::{
    balance::{self, BalanceError, Balancer},
    conntrack,
    link::{
        Devices, arp,
        netlink::{LinkError, Netlink},
        steps::Step,
    },
    nat,
    nft::{
        Table, diff,
        run::{self, NftError},
    },
    plan::{Plan, plan},
    state::{Setup, State},
    sysctl,
    view::View,
};

/// Version of the state file's shape.
const VERSION: u32 = 1;

/// Why a change is not in force. The state before is.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The packet filter.
    #[error("{0}; the state before stays in force")]
    Filter(#[from] NftError),
    /// Addresses, routes, rules.
    #[error("{0}; the state before stays in force")]
    Links(#[from] LinkError),
    /// Load balancing.
    #[error("{0}; the state before stays in force")]
    Balance(#[from] BalanceError),
    /// The disk.
    #[error("{0}; the state before stays in force")]
    Persist(#[from] PersistError),
}

/// The network as it is in force.
#[derive(Debug)]
pub struct Network {
    file: PathBuf,
    setup: Setup,
    netlink: Netlink,
    balancer: Balancer,
    state: State,
    devices: Devices,
    /// What the kernel has; `None` where it is not known, so that the next change replaces all.
    plan: Option<Arc<Plan>>,
    /// Digest of that plan's table.
    digest: u128,
    /// Seals of the table that the kernel has.
    seals: Vec<String>,
}

impl Network {
    /// Loads the durable state, or begins with the first one. Nothing is applied yet.
    pub fn load(paths: &Paths, setup: Setup, netlink: Netlink) -> Result<Self, PersistError> {
        let file = paths.state("router").join("network");
        let loaded = persist::load(&file, VERSION)?;
        if let Some(fallback) = &loaded.fallback {
            tracing::error!("{fallback}");
        }
        let state = loaded.value.unwrap_or_else(|| setup.first_state());
        Ok(Self {
            file,
            setup,
            netlink,
            balancer: Balancer::new(paths),
            state,
            devices: Devices::default(),
            plan: None,
            digest: 0,
            seals: Vec::new(),
        })
    }

    /// What the boot arguments fix.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The state in force.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The NICs as they were when the state was applied.
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The state in force, laid over these NICs.
    pub fn view(&self) -> View<'_> {
        View::new(&self.setup, &self.state, &self.devices)
    }

    /// What HAProxy does.
    pub const fn balancer(&mut self) -> &mut Balancer {
        &mut self.balancer
    }

    /// Takes rules out of a next state that HAProxy refuses although they look right; those before stay. Tells
    /// which, and why.
    pub async fn vet(&mut self, next: &mut State) -> Vec<String> {
        if next.balance == self.state.balance {
            return Vec::new();
        }
        match self.balancer.vet(&balance::streams(&self.setup, next)).await {
            Ok(refused) => {
                for front in refused.keys() {
                    match self.state.balance.rules.get(front) {
                        Some(before) => drop(next.balance.rules.insert(*front, before.clone())),
                        None => drop(next.balance.rules.remove(front)),
                    }
                }
                refused.iter().map(|(front, reason)| format!("{front}: {reason}")).collect()
            }
            Err(error) => {
                next.balance.clone_from(&self.state.balance);
                vec![error.to_string()]
            }
        }
    }

    /// Brings the kernel to the state in force: at the start, and whenever a NIC has come or gone.
    pub async fn reconcile(&mut self) -> Result<(), ApplyError> {
        let state = self.state.clone();
        self.apply(&state).await.map(drop)
    }

    /// Makes another state the one in force.
    pub async fn change(&mut self, state: State) -> Result<(), ApplyError> {
        let before = self.plan.clone();
        let steps = self.apply(&state).await?;
        if state == self.state {
            return Ok(());
        }
        if let Err(error) = persist::save(&self.file, VERSION, &state) {
            self.netlink.undo(&steps).await;
            self.restore(before).await;
            return Err(error.into());
        }
        self.state = state;
        if let (Some(before), Some(now)) = (before, &self.plan) {
            end_lost(nat::lost(&before.table, &now.table)).await;
        }
        Ok(())
    }

    /// HAProxy first: a rule that is new is served before it can be reached, and nothing else has changed yet where it
    /// fails. Then the filter, then links: an address that is new has its gate before it can be reached.
    async fn apply(&mut self, state: &State) -> Result<Vec<Step>, ApplyError> {
        let devices = self.netlink.devices().await?;
        let next = Arc::new(plan(&self.setup, state, &devices));
        if state.balance == self.state.balance {
            // Whatever becomes of it is no reason to refuse a change of something else.
            self.balancer.follow(&next.balance).await;
        } else {
            self.balancer.apply(&next.balance).await?;
        }
        if let Err(error) = self.filter(&next).await {
            if let Some(before) = self.plan.clone() {
                self.balancer.follow(&before.balance).await;
            }
            return Err(error.into());
        }
        let before = self.plan.replace(Arc::clone(&next));
        if devices != self.devices || before.as_ref().is_none_or(|plan| plan.settings != next.settings) {
            sysctl::apply(&next.settings);
        }
        match self.netlink.apply(&next.links).await {
            Ok(steps) => {
                announce(&steps, &self.setup, &devices);
                // What the steps have changed about NICs counts for what is told to guests.
                self.devices = if steps.is_empty() { devices } else { self.netlink.devices().await? };
                Ok(steps)
            }
            Err(error) => {
                self.restore(before).await;
                Err(error.into())
            }
        }
    }

    /// Brings the kernel's table to the planned one by what differs; where that is not known, or does
    /// not fit what the kernel has, by replacing it whole.
    async fn filter(&mut self, next: &Plan) -> Result<(), NftError> {
        let known = self.plan.as_ref();
        let digest = match known {
            Some(now) => next.table.digest_after(&now.table, self.digest),
            None => next.table.digest(),
        };
        let seal = Table::seal(digest);
        if let Some(now) = known {
            let mut seals = self.seals.clone();
            match run::apply(&diff::changes(&now.table, &next.table, &seal, &mut seals)).await {
                Ok(()) => {
                    (self.seals, self.digest) = (seals, digest);
                    return Ok(());
                }
                Err(NftError::Refused(reason)) => {
                    tracing::warn!(reason, "a change of the packet filter was refused; it is replaced whole");
                }
                Err(error) => return Err(error),
            }
        }
        let present = run::present().await?;
        if self.plan.is_none() && present.seals.last() == Some(&seal) {
            tracing::info!("the packet filter is in force already");
            (self.seals, self.digest) = (present.seals, digest);
            return Ok(());
        }
        run::apply(&diff::replacement(&next.table, &seal, &present.counters)).await?;
        (self.seals, self.digest) = (vec![seal], digest);
        Ok(())
    }

    /// Back to the plan before, after a failure.
    async fn restore(&mut self, before: Option<Arc<Plan>>) {
        let Some(before) = before else { return };
        self.balancer.follow(&before.balance).await;
        match self.filter(&before).await {
            Ok(()) => self.plan = Some(before),
            Err(error) => {
                tracing::error!(%error, "the packet filter before could not be restored");
                self.plan = None;
            }
        }
    }
}

/// Tells neighbours about addresses that are new.
fn announce(steps: &[Step], setup: &Setup, devices: &Devices) {
    for device in devices.0.iter().filter(|d| d.name != setup.control.name()) {
        let new = |step: &Step| match step {
            Step::AddAddress(nic, net) if *nic == device.name => Some(net.addr()),
            _ => None,
        };
        let addresses: Vec<Ipv4Addr> = steps.iter().filter_map(new).collect();
        if !addresses.is_empty() {
            tokio::spawn(arp::announce(device.name.clone(), device.mac, addresses));
        }
    }
}

/// Connections that used what is gone are ended; a failure is logged and no reason to refuse the change.
async fn end_lost(lost: Vec<nat::Lost>) {
    match tokio::task::spawn_blocking(move || conntrack::end(&lost)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(count)) => tracing::info!(count, "connections ended, their translation is gone"),
        Ok(Err(error)) => tracing::warn!(%error, "connections could not be ended"),
    }
}
