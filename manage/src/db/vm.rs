//! VMs: their numbers, names, addresses and passwords, given out once and then kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::command::host::Traffic;
use rusqlite::{Row, Transaction};

use super::{Db, DbError, secret::random_word};
use crate::{
    ids::random_uuid,
    zone::{Segment, Zone},
};

/// What a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Virtual router.
    Router,
    /// Secondary storage VM.
    Ssvm,
    /// Console proxy VM.
    Cpvm,
    /// Guest.
    Guest,
}

impl Kind {
    /// The word in the database and on the screen.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Ssvm => "ssvm",
            Self::Cpvm => "cpvm",
            Self::Guest => "guest",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Router, Self::Ssvm, Self::Cpvm, Self::Guest].into_iter().find(|k| k.text() == text)
    }

    fn name(self, id: i64) -> String {
        match self {
            Self::Router => format!("r-{id}-VM"),
            Self::Ssvm => format!("s-{id}-VM"),
            Self::Cpvm => format!("v-{id}-VM"),
            Self::Guest => format!("i-2-{id}-VM"),
        }
    }
}

/// What in the zone file a VM is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// The network of that name.
    Network(String),
    /// The zone's SSVM of that number, from 1.
    Ssvm(u32),
    /// The zone's CPVM of that number, from 1.
    Cpvm(u32),
    /// The guest of that name.
    Guest(String),
}

impl Owner {
    fn text(&self) -> String {
        match self {
            Self::Network(name) => format!("network/{name}"),
            Self::Ssvm(1) => "ssvm".to_owned(),
            Self::Cpvm(1) => "cpvm".to_owned(),
            Self::Ssvm(number) => format!("ssvm/{number}"),
            Self::Cpvm(number) => format!("cpvm/{number}"),
            Self::Guest(name) => format!("guest/{name}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some(("network", name)) => Some(Self::Network(name.to_owned())),
            Some(("guest", name)) => Some(Self::Guest(name.to_owned())),
            Some(("ssvm", number)) => number.parse().ok().map(Self::Ssvm),
            Some(("cpvm", number)) => number.parse().ok().map(Self::Cpvm),
            None if text == "ssvm" => Some(Self::Ssvm(1)),
            None if text == "cpvm" => Some(Self::Cpvm(1)),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Network(_) => Kind::Router,
            Self::Ssvm(_) => Kind::Ssvm,
            Self::Cpvm(_) => Kind::Cpvm,
            Self::Guest(_) => Kind::Guest,
        }
    }
}

/// Whether a VM shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It shall.
    Running,
    /// The operator stopped it.
    Stopped,
    /// It is one of several, of which fewer are enough now.
    Spare,
    /// The zone file has it no longer.
    Removed,
}

impl Wanted {
    /// The word in the database and on the screen.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Spare => "spare",
            Self::Removed => "removed",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Running, Self::Stopped, Self::Spare, Self::Removed].into_iter().find(|w| w.text() == text)
    }
}

/// A NIC with the addresses given out to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NicRow {
    /// N of `ethN`.
    pub(crate) device: u32,
    /// What it is for.
    pub(crate) traffic: Traffic,
    /// MAC address.
    pub(crate) mac: String,
    /// IPv4 address.
    pub(crate) address: Ipv4Addr,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vm {
    /// Number.
    pub(crate) id: i64,
    /// What it is for.
    pub(crate) owner: Owner,
    /// Instance name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Stable id.
    pub(crate) uuid: String,
    /// Password of its console, eight characters.
    pub(crate) vnc_password: String,
    /// Pass-phrase of its key store.
    pub(crate) keystore_password: String,
    /// Whether it shall run.
    pub(crate) wanted: Wanted,
    /// Host it was started on last.
    pub(crate) host: Option<String>,
    /// The start for which it got a certificate.
    pub(crate) certificate_for: String,
    /// The start for which its documents were applied.
    pub(crate) configured_for: String,
    /// The rules that a router has, as JSON.
    pub(crate) applied: String,
    /// SHA-256 of the guest's password that its router got.
    pub(crate) password_sent: String,
    /// NICs by device number.
    pub(crate) nics: Vec<NicRow>,
}

impl Vm {
    /// The address of its NIC for that traffic.
    pub(crate) fn address(&self, traffic: Traffic) -> Option<Ipv4Addr> {
        self.nics.iter().find(|n| n.traffic == traffic).map(|n| n.address)
    }

    /// Name in the zone file for a guest, else the instance name.
    pub(crate) fn display(&self) -> &str {
        match &self.owner {
            Owner::Guest(name) => name,
            _ => &self.name,
        }
    }
}

fn traffic_text(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Control => "control",
        Traffic::Management => "management",
        Traffic::Public => "public",
        Traffic::Guest => "guest",
        Traffic::Storage => "storage",
    }
}

fn read_traffic(text: &str) -> Option<Traffic> {
    [Traffic::Control, Traffic::Management, Traffic::Public, Traffic::Guest, Traffic::Storage]
        .into_iter()
        .find(|t| traffic_text(*t) == text)
}

impl Db {
    /// Makes the list of VMs that of the zone: new ones get number, addresses and passwords, old
    /// ones keep theirs, those that the zone has no longer are marked as removed.
    pub(crate) fn take_zone(&self, zone: &Zone) -> Result<(), DbError> {
        let mut owners = Vec::new();
        owners.extend(zone.networks.iter().map(|n| Owner::Network(n.name.clone())));
        if zone.system.ssvm {
            owners.extend((1..=zone.system.ssvm_max).map(Owner::Ssvm));
        }
        if zone.system.cpvm {
            owners.extend((1..=zone.system.cpvm_max).map(Owner::Cpvm));
        }
        owners.extend(zone.guests.iter().map(|g| Owner::Guest(g.name.clone())));

        let mut connection = self.get();
        let transaction = connection.transaction()?;
        transaction.execute(
            "UPDATE vm SET wanted = 'removed' WHERE owner NOT IN (SELECT value FROM json_each(?1))",
            [serde_json::json!(owners.iter().map(Owner::text).collect::<Vec<_>>()).to_string()],
        )?;
        for owner in owners {
            let kind = owner.kind();
            // The others of several are started when there is enough to do.
            let first = match owner {
                Owner::Ssvm(2..) | Owner::Cpvm(2..) => Wanted::Spare,
                _ => Wanted::Running,
            };
            transaction.execute(
                "INSERT INTO vm (owner, name, kind, uuid, vnc_password, keystore_password, wanted)
                 VALUES (?1, ?2, ?3, ?2, ?4, ?5, ?6)
                 ON CONFLICT (owner) DO UPDATE SET wanted = iif(wanted = 'removed', ?6, wanted)",
                (owner.text(), random_uuid(), kind.text(), random_word(8), random_word(16), first.text()),
            )?;
            let id: i64 =
                transaction
                    .query_row("SELECT id FROM vm WHERE owner = ?1", [owner.text()], |row| row.get(0))?;
            transaction.execute("UPDATE vm SET name = ?2 WHERE id = ?1", (id, kind.name(id)))?;
            nics(&transaction, zone, &owner, id)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// All VMs by number, those removed too.
    pub(crate) fn vms(&self) -> Result<Vec<Vm>, DbError> {
        let connection = self.get();
        let mut nics: BTreeMap<i64, Vec<NicRow>> = BTreeMap::new();
        let mut statement = connection
            .prepare_cached("SELECT vm, device, traffic, mac, address FROM nic ORDER BY vm, device")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            nics.entry(row.get(0)?).or_default().push(nic(row)?);
        }
        let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM vm ORDER BY id"))?;
        let rows =
            statement.query_map((), |row| Ok(read(row, nics.remove(&row.get(0)?).unwrap_or_default())))?;
        rows.map(|row| row?).collect()
    }

    /// The VM that an operator names: by its instance name or, for a guest, its own.
    pub(crate) fn vm(&self, name: &str) -> Result<Option<Vm>, DbError> {
        let connection = self.get();
        let sql = format!("SELECT {COLUMNS} FROM vm WHERE name = ?1 OR owner = ?2 ORDER BY id");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query((name, Owner::Guest(name.to_owned()).text()))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let sql = "SELECT vm, device, traffic, mac, address FROM nic WHERE vm = ?1 ORDER BY device";
        let mut statement = connection.prepare_cached(sql)?;
        let mut found = statement.query([row.get::<_, i64>(0)?])?;
        let mut nics = Vec::new();
        while let Some(row) = found.next()? {
            nics.push(nic(row)?);
        }
        read(row, nics).map(Some)
    }

    /// Sets whether a VM shall run.
    pub(crate) fn want(&self, id: i64, wanted: Wanted) -> Result<(), DbError> {
        self.get().execute("UPDATE vm SET wanted = ?2 WHERE id = ?1", (id, wanted.text()))?;
        Ok(())
    }

    /// Remembers the host on which a VM is started.
    pub(crate) fn place(&self, id: i64, host: &str) -> Result<(), DbError> {
        self.get().execute("UPDATE vm SET host = ?2 WHERE id = ?1", (id, host))?;
        Ok(())
    }

    /// Remembers for which start of the VM it got its certificate.
    pub(crate) fn certified(&self, id: i64, start_id: &str) -> Result<(), DbError> {
        self.get().execute("UPDATE vm SET certificate_for = ?2 WHERE id = ?1", (id, start_id))?;
        Ok(())
    }

    /// Remembers what a router was told, and which guests' passwords it got.
    pub(crate) fn configured(
        &self,
        id: i64,
        start_id: &str,
        applied: &str,
        passwords: &[(i64, String)],
    ) -> Result<(), DbError> {
        let mut connection = self.get();
        let transaction = connection.transaction()?;
        transaction.execute(
            "UPDATE vm SET configured_for = ?2, applied = ?3 WHERE id = ?1",
            (id, start_id, applied),
        )?;
        for (guest, hash) in passwords {
            transaction.execute("UPDATE vm SET password_sent = ?2 WHERE id = ?1", (guest, hash))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// The columns of a VM, in the order of [`read`].
const COLUMNS: &str =
    "id, owner, name, kind, uuid, vnc_password, keystore_password, wanted, host, certificate_for,
                       configured_for, applied, password_sent";

fn bad(what: &'static str, value: &str) -> DbError {
    DbError::Value { what, value: value.to_owned() }
}

/// A NIC, from the columns vm, device, traffic, mac, address.
fn nic(row: &Row<'_>) -> Result<NicRow, DbError> {
    let (traffic, address): (String, String) = (row.get(2)?, row.get(4)?);
    Ok(NicRow {
        device: row.get(1)?,
        traffic: read_traffic(&traffic).ok_or_else(|| bad("nic.traffic", &traffic))?,
        mac: row.get(3)?,
        address: address.parse().map_err(|_| bad("nic.address", &address))?,
    })
}

fn read(row: &Row<'_>, nics: Vec<NicRow>) -> Result<Vm, DbError> {
    let text = |index: usize| -> Result<String, DbError> { Ok(row.get(index)?) };
    let id: i64 = row.get(0)?;
    let (owner, kind, wanted) = (text(1)?, text(3)?, text(7)?);
    Ok(Vm {
        id,
        owner: Owner::read(&owner).ok_or_else(|| bad("vm.owner", &owner))?,
        name: text(2)?,
        kind: Kind::read(&kind).ok_or_else(|| bad("vm.kind", &kind))?,
        uuid: text(4)?,
        vnc_password: text(5)?,
        keystore_password: text(6)?,
        wanted: Wanted::read(&wanted).ok_or_else(|| bad("vm.wanted", &wanted))?,
        host: row.get(8)?,
        certificate_for: text(9)?,
        configured_for: text(10)?,
        applied: text(11)?,
        password_sent: text(12)?,
        nics,
    })
}

/// Gives a VM its NICs, in the order of the contract (router contract 1.5, console proxy 1.2,
/// secondary storage 1.2). A NIC that exists keeps its MAC, and its address where that may stay.
fn nics(transaction: &Transaction<'_>, zone: &Zone, owner: &Owner, id: i64) -> Result<(), DbError> {
    let control = control_address(id).ok_or_else(|| DbError::Exhausted("169.254.0.0/16".to_owned()))?;
    match owner {
        Owner::Network(name) => {
            let Some(network) = zone.network(name) else { return Ok(()) };
            fixed(transaction, id, 0, Traffic::Guest, &format!("guest/{name}"), network.router(), None)?;
            fixed(transaction, id, 1, Traffic::Control, "control", control, None)?;
            if network.is_guarded() {
                // It has no public NIC, or has it no longer.
                transaction.execute("DELETE FROM nic WHERE vm = ?1 AND device = 2", [id])?;
                return Ok(());
            }
            match network.source_nat {
                Some(address) => fixed(transaction, id, 2, Traffic::Public, "public", address, None),
                None => from_range(transaction, zone, id, 2, Traffic::Public, &zone.public),
            }
        }
        Owner::Ssvm(_) | Owner::Cpvm(_) => {
            fixed(transaction, id, 0, Traffic::Control, "control", control, None)?;
            from_range(transaction, zone, id, 1, Traffic::Management, &zone.management.segment)?;
            from_range(transaction, zone, id, 2, Traffic::Public, &zone.public)
        }
        Owner::Guest(name) => {
            let Some(guest) = zone.guests.iter().find(|g| g.name == *name) else { return Ok(()) };
            let segment = format!("guest/{}", guest.network);
            fixed(transaction, id, 0, Traffic::Guest, &segment, guest.address, guest.mac.clone())
        }
    }
}

/// The control address of a VM: 169.254.1.0 and its number, so that no two can meet.
fn control_address(id: i64) -> Option<Ipv4Addr> {
    let number = u32::try_from(id).ok().filter(|n| *n < 0xfe00)?;
    Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(169, 254, 1, 0)) + number))
}

/// MAC address: `0e:00` and the address on the control network, else one of our own made from
/// the numbers of VM and NIC.
fn mac(id: i64, device: u32, traffic: Traffic, address: Ipv4Addr) -> String {
    let [a, b, c, d] = if traffic == Traffic::Control { address.octets() } else { (id as u32).to_be_bytes() };
    let (first, second) = if traffic == Traffic::Control { (0x0e, 0) } else { (0x1e, device as u8) };
    format!("{first:02x}:{second:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn fixed(
    transaction: &Transaction<'_>,
    id: i64,
    device: u32,
    traffic: Traffic,
    segment: &str,
    address: Ipv4Addr,
    wanted_mac: Option<String>,
) -> Result<(), DbError> {
    let mac = wanted_mac.unwrap_or_else(|| mac(id, device, traffic, address));
    transaction.execute(
        "INSERT INTO nic (vm, device, traffic, segment, mac, address) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (vm, device) DO UPDATE SET segment = excluded.segment, mac = excluded.mac,
         address = excluded.address",
        (id, device, traffic_text(traffic), segment, mac, address.to_string()),
    )?;
    Ok(())
}

fn from_range(
    transaction: &Transaction<'_>,
    zone: &Zone,
    id: i64,
    device: u32,
    traffic: Traffic,
    segment: &Segment,
) -> Result<(), DbError> {
    let name = traffic_text(traffic);
    let mut statement = transaction.prepare("SELECT vm, device, address FROM nic WHERE segment = ?1")?;
    let mut taken = BTreeSet::new();
    let mut own = None;
    let mut rows = statement.query([name])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(2)?;
        let address: Ipv4Addr =
            text.parse().map_err(|_| DbError::Value { what: "nic.address", value: text })?;
        if (row.get::<_, i64>(0)?, row.get::<_, u32>(1)?) == (id, device) {
            own = Some(address);
        } else {
            taken.insert(address);
        }
    }
    taken.insert(segment.gateway);
    taken.insert(zone.management.address);
    taken.extend(zone.hosts.iter().map(|h| h.address));
    taken.extend(zone.named_public().into_keys());
    let free = |address: &Ipv4Addr| {
        (segment.range.0..=segment.range.1).contains(address)
            && *address != segment.net.network()
            && *address != segment.net.broadcast()
            && !taken.contains(address)
    };
    let (first, last) = (u32::from(segment.range.0), u32::from(segment.range.1));
    let address = own
        .filter(free)
        .or_else(|| (first..=last).map(Ipv4Addr::from).find(free))
        .ok_or_else(|| DbError::Exhausted(format!("the {name} range")))?;
    fixed(transaction, id, device, traffic, name, address, None)
}
