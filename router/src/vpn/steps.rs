//! From what charon has to what it is to have, in single steps that leave alone what is as it should be.

use std::collections::{BTreeMap, BTreeSet};

use super::{vici::Message, wanted::Wanted};

/// What begins the names of all that is ours.
const OURS: [&str; 2] = ["site-", "remote-"];

/// What charon has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Names of connections.
    pub connections: BTreeSet<String>,
    /// Names of connections that have something established, or on its way.
    pub alive: BTreeSet<String>,
    /// Names of pools of addresses.
    pub pools: BTreeSet<String>,
    /// Secrets by identity; `None` where it is not known what they are.
    pub secrets: BTreeMap<String, Option<Message>>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A secret comes, or another one takes its place.
    LoadSecret(String),
    /// A connection goes: nothing begins by it any more.
    UnloadConnection(String),
    /// What is established by it ends.
    End(String),
    /// A connection comes.
    LoadConnection(String),
    /// A secret goes.
    UnloadSecret(String),
    /// Addresses for clients come.
    LoadPool(String),
    /// They go.
    UnloadPool(String),
}

/// The steps, in an order in which nobody meets another's secret or an old connection.
pub fn steps(present: &Present, wanted: &Wanted) -> Vec<Step> {
    let is_ours = |name: &&String| OURS.iter().any(|ours| name.starts_with(ours));
    let gone = |name: &&String| !wanted.connections.contains_key(*name);
    let mut steps = Vec::new();
    for name in present.connections.iter().filter(is_ours).filter(gone) {
        steps.push(Step::UnloadConnection(name.clone()));
    }
    let mut ending: BTreeSet<&String> = present.alive.iter().filter(is_ours).filter(gone).collect();
    for (id, secret) in &wanted.secrets {
        let known = present.secrets.get(id);
        if known.and_then(Option::as_ref) == Some(secret) {
            continue;
        }
        steps.push(Step::LoadSecret(id.clone()));
        let data = |secret: &Message| secret.str("data").map(str::to_owned);
        if known.and_then(Option::as_ref).is_some_and(|known| data(known) != data(secret)) {
            // Who knew the old secret only is not to stay.
            let of = |name: &&String| wanted.connections.get(*name).is_some_and(|c| c.secret == *id);
            ending.extend(present.alive.iter().filter(of));
        }
    }
    steps.extend(ending.into_iter().cloned().map(Step::End));
    let pools = wanted.pools.keys().filter(|name| !present.pools.contains(*name));
    steps.extend(pools.cloned().map(Step::LoadPool));
    let new = wanted.connections.keys().filter(|name| !present.connections.contains(*name));
    steps.extend(new.cloned().map(Step::LoadConnection));
    let stale = present.secrets.keys().filter(is_ours).filter(|id| !wanted.secrets.contains_key(*id));
    steps.extend(stale.cloned().map(Step::UnloadSecret));
    let pools = present.pools.iter().filter(is_ours).filter(|name| !wanted.pools.contains_key(*name));
    steps.extend(pools.cloned().map(Step::UnloadPool));
    steps
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::vpn::wanted::{Begins, Connection};

    fn wanted(sites: &[(u8, u8)]) -> Wanted {
        let mut wanted = Wanted::default();
        for (site, secret) in sites {
            let id = format!("site-{site}");
            let connection = Connection {
                peer: Some(Ipv4Addr::new(198, 51, 100, *site)),
                config: Message::default(),
                children: vec!["net".into()],
                secret: id.clone(),
                begins: Begins::AtOnce,
            };
            wanted.connections.insert(format!("{id}-x"), connection);
            wanted.secrets.insert(id, Message::default().text("data", [*secret]));
        }
        wanted
    }

    /// What charon has after steps.
    fn after(mut present: Present, wanted: &Wanted, steps: &[Step]) -> Present {
        for step in steps {
            match step {
                Step::LoadSecret(id) => {
                    drop(present.secrets.insert(id.clone(), Some(wanted.secrets[id].clone())));
                }
                Step::UnloadSecret(id) => drop(present.secrets.remove(id)),
                Step::LoadConnection(name) => drop(present.connections.insert(name.clone())),
                Step::UnloadConnection(name) => drop(present.connections.remove(name)),
                Step::End(name) => drop(present.alive.remove(name)),
                Step::LoadPool(name) => drop(present.pools.insert(name.clone())),
                Step::UnloadPool(name) => drop(present.pools.remove(name)),
            }
        }
        present
    }

    fn in_force(wanted: &Wanted) -> Present {
        let present = after(Present::default(), wanted, &steps(&Present::default(), wanted));
        Present { alive: present.connections.clone(), ..present }
    }

    #[test]
    fn one_more_site_touches_no_other() {
        let present = in_force(&wanted(&[(1, 1), (2, 2)]));
        let next = wanted(&[(1, 1), (2, 2), (3, 3)]);
        let expected = [Step::LoadSecret("site-3".into()), Step::LoadConnection("site-3-x".into())];
        assert_eq!(steps(&present, &next), expected);
    }

    #[test]
    fn another_secret_ends_its_own_connection_alone() {
        let present = in_force(&wanted(&[(1, 1), (2, 2)]));
        let expected = [Step::LoadSecret("site-2".into()), Step::End("site-2-x".into())];
        assert_eq!(steps(&present, &wanted(&[(1, 1), (2, 9)])), expected);
    }

    #[test]
    fn a_core_that_starts_ends_nothing_and_leaves_what_others_have_made() {
        let next = wanted(&[(1, 1)]);
        let mut present = in_force(&next);
        present.secrets.values_mut().for_each(|secret| *secret = None);
        present.connections.insert("lab".into());
        assert_eq!(steps(&present, &next), [Step::LoadSecret("site-1".into())]);
    }

    proptest! {
        #[test]
        fn any_history_ends_in_what_is_wanted(
            a in prop::collection::btree_map(0_u8..5, 0_u8..3, 0..5),
            b in prop::collection::btree_map(0_u8..5, 0_u8..3, 0..5),
        ) {
            let list = |sites: &BTreeMap<u8, u8>| sites.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
            let (old, new) = (wanted(&list(&a)), wanted(&list(&b)));
            let present = in_force(&old);
            let done = after(present.clone(), &new, &steps(&present, &new));
            prop_assert!(done.connections.iter().eq(new.connections.keys()));
            prop_assert!(done.secrets.keys().eq(new.secrets.keys()));
            for (id, secret) in &new.secrets {
                prop_assert_eq!(done.secrets[id].as_ref(), Some(secret));
                let same = old.secrets.get(id) == Some(secret);
                prop_assert_eq!(done.alive.contains(&format!("{id}-x")), same);
            }
            prop_assert!(steps(&done, &new).is_empty());
        }
    }
}
