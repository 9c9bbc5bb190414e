//! The one place where the network changes: from one state to another, whole or not at all.
//!
//! A change is planned, then applied as one transaction of the packet filter and the missing steps of the
//! links, then made durable; only then it is in force. Where any of these fails, what was done before
//! it is taken back and the state before stays in force. A crash leaves the old or the new state: at the next start
//! the durable state is applied, which changes nothing where the kernel has it already.

use std::{iter, net::IpAddr, sync::Arc};

use common::{
    paths::Paths,
    persist::{Journal, PersistError},
};

use crate::{
    balance::{self, BalanceError, Balancer},
    conntrack,
    link::{
        self, Devices, Links, announce,
        netlink::{LinkError, Netlink},
        steps::Step,
    },
    nat,
    nft::{
        Table, diff,
        run::{self, Changes, NftError},
    },
    plan::table,
    redundancy::{self, Role, keeper::Keeper},
    scope::{Scope, WHOLE},
    state::{Edits, Setup, State},
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
    journal: Journal,
    setup: Setup,
    netlink: Netlink,
    changes: Changes,
    balancer: Balancer,
    state: State,
    devices: Devices,
    /// What the kernel's table was planned for; `None` where it is not known, so that the next change replaces all.
    filter: Option<Filter>,
}

/// The packet filter as the kernel has it.
#[derive(Debug, Clone)]
struct Filter {
    state: State,
    devices: Devices,
    /// Digest of the table.
    digest: u128,
    /// Seals of the table that the kernel has.
    seals: Vec<String>,
}

impl Network {
    /// Loads the durable state, or begins with the first one. Nothing is applied yet.
    pub fn load(
        paths: &Paths,
        setup: Setup,
        netlink: Netlink,
        changes: Changes,
    ) -> Result<Self, PersistError> {
        let file = paths.state("router").join("network");
        let (journal, loaded) = Journal::load(&file, VERSION, State::edit)?;
        if let Some(fallback) = &loaded.fallback {
            tracing::error!("{fallback}");
        }
        let state = loaded.value.unwrap_or_else(|| setup.first_state());
        let (balancer, devices) = (Balancer::new(paths), Devices::default());
        Ok(Self { journal, setup, netlink, changes, balancer, state, devices, filter: None })
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

    /// Says which of a pair this router is; [`Network::reconcile`] brings the kernel to it.
    pub const fn set_role(&mut self, role: Role) {
        if let Some(pair) = &mut self.setup.pair {
            pair.role = role;
        }
    }

    /// Takes over what this router is by now: an earlier core may have left it in force.
    pub async fn adopt_role(&mut self, keeper: &mut Keeper) -> Result<(), ApplyError> {
        if self.setup.pair.is_some() {
            let devices = self.netlink.devices().await?;
            let election = redundancy::plan::plan(&View::new(&self.setup, &self.state, &devices), &devices);
            self.set_role(keeper.role(election.as_ref(), &self.netlink).await?);
        }
        Ok(())
    }

    /// The line to the kernel.
    pub const fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Tells all neighbours once more where the addresses are that the other one of a pair may have claimed.
    pub fn announce_again(&self) {
        let view = self.view();
        let outer = view.outer().map(|nic| {
            let four = nic.addresses.iter().map(|net| IpAddr::V4(net.addr()));
            (&nic.name, four.chain(nic.six.iter().map(|net| IpAddr::V6(net.addr()))).collect())
        });
        let guests = view.guests.values().map(|nic| {
            let six = nic.six.iter().filter(|six| six.own.is_some());
            let six = six.flat_map(|six| [six.known.addr(), six.link_local]).map(IpAddr::V6);
            let four = nic.shared.map(|net| IpAddr::V4(net.addr()));
            (&nic.name, four.into_iter().chain(six).collect::<Vec<_>>())
        });
        for (name, addresses) in outer.chain(guests) {
            if let Some(device) = self.devices.get(name).filter(|_| !addresses.is_empty()) {
                tokio::spawn(announce::announce(name.clone(), device.mac, addresses));
            }
        }
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
                let rules = &mut Arc::make_mut(&mut next.balance).rules;
                for front in refused.keys() {
                    match self.state.balance.rules.get(front) {
                        Some(before) => drop(rules.insert(*front, before.clone())),
                        None => drop(rules.remove(front)),
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
        let (edits, before) = (Edits::between(&self.state, &state), self.filter.clone());
        let applied = self.apply(&state).await?;
        if edits.is_empty() {
            return Ok(());
        }
        // Before it is durable: a crash in between leaves the state before, with which they may begin anew.
        if !applied.lost.is_empty() {
            end_lost(applied.lost).await;
        }
        let whole = iter::once_with(|| Edits::between(&State::default(), &state));
        if let Err(error) = self.journal.save(&edits, whole) {
            self.netlink.undo(&applied.steps).await;
            self.restore(before).await;
            return Err(error.into());
        }
        self.state = state;
        Ok(())
    }

    /// HAProxy first: a rule that is new is served before it can be reached, and nothing else has changed yet where it
    /// fails. Then the filter, then links: an address that is new has its gate before it can be reached.
    async fn apply(&mut self, state: &State) -> Result<Applied, ApplyError> {
        let devices = self.netlink.devices().await?;
        let before = self.filter.clone();
        if state.balance != self.state.balance {
            self.balancer.apply(&balance::streams(&self.setup, state)).await?;
        } else if before.as_ref().is_none_or(|filter| balance::may_differ(&filter.state, state)) {
            // Whatever becomes of it is no reason to refuse a change of something else.
            self.balancer.follow(&balance::streams(&self.setup, state)).await;
        }
        let lost = match self.bring(state, &devices).await {
            Ok(lost) => lost,
            Err(error) => {
                self.balancer.follow(&balance::streams(&self.setup, &self.state)).await;
                return Err(error.into());
            }
        };
        let view = View::new(&self.setup, state, &devices);
        let (links, settings) = (link::plan::plan(&view, &devices), sysctl::nics(&view));
        let known = before.as_ref().filter(|filter| filter.devices == devices);
        if known.is_none_or(|filter| settings != sysctl::nics(&filter.view(&self.setup))) {
            sysctl::apply(&settings);
        }
        match self.netlink.apply(&links).await {
            Ok(steps) => {
                announce(&steps, &links, &self.setup, &devices);
                // What the steps have changed about NICs counts for what is told to guests.
                self.devices = if steps.is_empty() { devices } else { self.netlink.devices().await? };
                Ok(Applied { steps, lost })
            }
            Err(error) => {
                self.restore(before).await;
                Err(error.into())
            }
        }
    }

    /// Brings the kernel's table to the one planned for a state by what differs; where that is not known, or does
    /// not fit what the kernel has, by replacing it whole. Tells which translations have gone.
    async fn bring(&mut self, state: &State, devices: &Devices) -> Result<Vec<nat::Lost>, NftError> {
        let view = View::new(&self.setup, state, devices);
        if let Some(now) = &self.filter {
            let scope = match now.devices == *devices {
                true => Scope::of(&Edits::between(&now.state, state), &now.state, state),
                false => WHOLE.clone(),
            };
            let (old, new) = (table(&now.view(&self.setup).within(&scope)), table(&view.within(&scope)));
            let digest = new.digest_after(&old, now.digest);
            let mut seals = now.seals.clone();
            match self.changes.apply(&diff::changes(&old, &new, &Table::seal(digest), &mut seals)).await {
                Ok(()) => {
                    self.filter =
                        Some(Filter { state: state.clone(), devices: devices.clone(), digest, seals });
                    return Ok(nat::lost(&old, &new));
                }
                Err(NftError::Refused(reason)) => {
                    tracing::warn!(reason, "a change of the packet filter was refused; it is replaced whole");
                }
                Err(error) => return Err(error),
            }
        }
        let new = table(&View::new(&self.setup, state, devices));
        let digest = new.digest();
        let (seal, present) = (Table::seal(digest), run::present().await?);
        let mut lost = Vec::new();
        let seals = if self.filter.is_none() && present.seals.last() == Some(&seal) {
            tracing::info!("the packet filter is in force already");
            present.seals
        } else {
            self.changes.apply(&diff::replacement(&new, &seal, &present.counters)).await?;
            if let Some(now) = &self.filter {
                lost = nat::lost(&table(&now.view(&self.setup)), &new);
            }
            vec![seal]
        };
        self.filter = Some(Filter { state: state.clone(), devices: devices.clone(), digest, seals });
        Ok(lost)
    }

    /// Back to the filter before, after a failure.
    async fn restore(&mut self, before: Option<Filter>) {
        let Some(before) = before else { return };
        self.balancer.follow(&balance::streams(&self.setup, &before.state)).await;
        if let Err(error) = self.bring(&before.state, &before.devices).await {
            tracing::error!(%error, "the packet filter before could not be restored");
            self.filter = None;
        }
    }
}

impl Filter {
    /// What it was planned for.
    fn view<'a>(&'a self, setup: &'a Setup) -> View<'a> {
        View::new(setup, &self.state, &self.devices)
    }
}

/// What was done to apply a state.
struct Applied {
    /// To the links.
    steps: Vec<Step>,
    /// Translations that have gone by it.
    lost: Vec<nat::Lost>,
}

/// Tells neighbours about addresses that are new, or whose NIC has come up.
fn announce(steps: &[Step], links: &Links, setup: &Setup, devices: &Devices) {
    for device in devices.0.iter().filter(|d| d.name != setup.control.name()) {
        let new = |step: &Step| match step {
            Step::AddAddress(nic, net) if *nic == device.name => Some(net.addr()),
            _ => None,
        };
        let mut addresses: Vec<IpAddr> = steps.iter().filter_map(new).collect();
        let plan = links.nics.get(&device.name);
        if setup.pair.is_some() && steps.contains(&Step::Up(device.name.clone())) {
            let four = plan.iter().flat_map(|nic| &nic.addresses).map(|net| IpAddr::V4(net.addr()));
            let six = plan.iter().flat_map(|nic| &nic.six).map(|net| IpAddr::V6(net.addr()));
            addresses = four.chain(six).collect();
        }
        if plan.is_none_or(|nic| nic.down) {
            // Nobody is to be told.
            continue;
        }
        if !addresses.is_empty() {
            tokio::spawn(announce::announce(device.name.clone(), device.mac, addresses));
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
