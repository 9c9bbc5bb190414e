use proptest::prelude::*;

use super::{
    plan::{RULES, Tracking, plan},
    table::{Ruleset, changes, replacement, seal},
    *,
};

fn rule(service: Service, nets: &[&str], groups: &[&str]) -> Rule {
    Rule {
        service,
        nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
        groups: groups.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn port(number: u8, groups: &[&str]) -> Port {
    Port {
        bridge: "br0".to_owned(),
        mac: format!("02:00:00:00:00:{number:02x}"),
        addresses: BTreeSet::from([IpAddr::from([10, 2, 0, number])]),
        groups: groups.iter().map(|name| (*name).to_owned()).collect(),
        router: Ipv4Addr::new(10, 2, 0, 2),
        standing: false,
    }
}

fn policy() -> Policy {
    let http = Some(Ports { first: 80, last: 80 });
    let web = Group {
        ingress: vec![
            rule(Service::Tcp(http), &[], &[]),
            rule(Service::Icmp(Some(8), Some(0)), &["10.0.0.0/8", "10.1.0.0/16"], &[]),
        ],
        egress: vec![],
        members: BTreeSet::from([[10, 2, 0, 10].into(), "2001:db8::10".parse().unwrap()]),
    };
    let db = Group {
        ingress: vec![rule(Service::All, &[], &["web"])],
        egress: vec![rule(Service::Udp(None), &["0.0.0.0/0", "2001:db8::/32"], &[])],
        members: BTreeSet::new(),
    };
    Policy {
        groups: BTreeMap::from([("web".to_owned(), web), ("db".to_owned(), db)]),
        ports: (1..=4)
            .map(|n| {
                (
                    format!("vm{n}-0"),
                    port(n, [&["web"][..], &["db", "web"], &["db"], &[]][usize::from(n - 1)]),
                )
            })
            .collect(),
    }
}

fn all(policy: &Policy) -> Ruleset {
    plan(policy, |_| true, Tracking::Bridge)
}

fn rules<'a>(ruleset: &'a Ruleset, chain: &str) -> &'a [String] {
    &ruleset[RULES].chains[chain].rules
}

#[test]
fn rules_become_conditions_that_name_them() {
    let ruleset = all(&policy());
    assert_eq!(
        rules(&ruleset, "ingress/web"),
        [
            "ether type ip tcp dport 80 accept comment \"web ingress 1\"",
            "ether type ip6 tcp dport 80 accept comment \"web ingress 1\"",
            // Of networks that overlap the larger one.
            "ip saddr { 10.0.0.0/8 } icmp type 8 icmp code 0 accept comment \"web ingress 2\"",
        ]
    );
    assert_eq!(
        rules(&ruleset, "ingress/db"),
        [
            "ip saddr @web/4 accept comment \"db ingress 1\"",
            "ip6 saddr @web/6 accept comment \"db ingress 1\"",
        ]
    );
    assert_eq!(
        rules(&ruleset, "egress/db"),
        [
            "ether type ip meta l4proto udp accept comment \"db egress 1\"",
            "ip6 daddr { 2001:db8::/32 } meta l4proto udp accept comment \"db egress 1\"",
        ]
    );
    // The same groups, the same chain; where one of them has rules for what leaves, nothing else leaves.
    assert_eq!(rules(&ruleset, "in/db/web"), ["jump ingress/db", "jump ingress/web"]);
    assert_eq!(rules(&ruleset, "out/db"), ["jump egress/db", "drop"]);
    let egress = &ruleset[RULES].sets["egress"].elements;
    assert_eq!(egress.iter().collect::<Vec<_>>(), ["\"vm2-0\" : jump out/db", "\"vm3-0\" : jump out/db"]);
    assert!(!ruleset[RULES].sets["ingress"].elements.iter().any(|element| element.contains("vm4-0")));
}

#[test]
fn a_new_guest_is_a_few_elements_and_a_new_member_one() {
    let before = policy();
    let mut after = before.clone();
    after.ports.insert("vm9-0".to_owned(), port(9, &["web"]));
    let text = changes(&all(&before), &all(&after));
    assert!(!text.contains("flush") && !text.contains("delete"), "{text}");
    let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with("add element")).collect();
    assert!(rules.iter().all(|line| line.contains("adverts/vm9-0")), "{text}");

    let mut after = before.clone();
    after.groups.get_mut("web").unwrap().members.insert([10, 2, 0, 77].into());
    assert_eq!(changes(&all(&before), &all(&after)), "add element bridge trivium web/4 { 10.2.0.77 }\n");
}

#[test]
fn a_changed_rule_rewrites_its_group_alone() {
    let before = policy();
    let mut after = before.clone();
    after.groups.get_mut("db").unwrap().egress.push(rule(Service::Tcp(None), &[], &[]));
    let text = changes(&all(&before), &all(&after));
    assert!(text.lines().all(|line| line.contains("bridge trivium egress/db")), "{text}");
    assert_eq!(text.lines().next(), Some("flush chain bridge trivium egress/db"));
}

#[test]
fn who_does_not_run_has_no_rules_and_nobody_means_no_table() {
    let policy = policy();
    assert_eq!(plan(&policy, |_| false, Tracking::Mark), Ruleset::new());
    let one = plan(&policy, |tap| tap == "vm3-0", Tracking::Mark);
    assert_eq!(one[RULES].sets["taps"].elements.len(), 1);
    assert!(!one[RULES].chains.contains_key("ingress/web") && one[RULES].sets.contains_key("web/4"));
    assert_eq!(
        changes(&one, &Ruleset::new()),
        "delete table bridge trivium\ndelete table inet trivium_replies\n"
    );
    assert!(changes(&Ruleset::new(), &one).starts_with("add table bridge trivium\n"));
}

#[test]
fn a_replacement_clears_what_it_does_not_have() {
    let text = replacement(&Ruleset::new(), &["bridge trivium"]);
    assert_eq!(text, "add table bridge trivium\ndelete table bridge trivium\n");
}

#[test]
fn the_seal_tells_rulesets_apart() {
    let mut other = policy();
    other.groups.get_mut("web").unwrap().members.clear();
    assert_eq!(seal(&all(&policy())), seal(&all(&policy())));
    assert_ne!(seal(&all(&policy())), seal(&all(&other)));
}

/// A kernel as far as transactions go: applies their lines, and refuses what the real one would.
#[derive(Default, PartialEq, Debug)]
struct Kernel {
    sets: BTreeMap<String, BTreeSet<String>>,
    chains: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    fn run(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (verb, what) = (words[0], words[1]);
            let name = words.get(4).map(|name| (*name).to_owned()).unwrap_or_default();
            let rest = words[5.min(words.len())..].join(" ");
            let inner = rest.trim_start_matches("{ ").trim_end_matches(" }").to_owned();
            match (verb, what) {
                ("add", "table") => {}
                ("delete", "table") => *self = Self::default(),
                ("add", "set" | "map") => {
                    assert!(self.sets.insert(name, BTreeSet::new()).is_none(), "{line}")
                }
                ("add", "chain") => assert!(self.chains.insert(name, Vec::new()).is_none(), "{line}"),
                ("add", "rule") => {
                    let target = rest.split("jump ").nth(1).map(str::to_owned);
                    assert!(target.is_none_or(|name| self.chains.contains_key(&name)), "{line}");
                    for set in rest.split(' ').filter_map(|word| word.strip_prefix('@')) {
                        assert!(set.starts_with("th,") || self.sets.contains_key(set), "{line}");
                    }
                    self.chains.get_mut(&name).expect(line).push(rest);
                }
                ("add", "element") => {
                    let list = inner.split(", ").map(str::to_owned);
                    for element in list {
                        let target = element.split("jump ").nth(1).map(str::to_owned);
                        assert!(target.is_none_or(|name| self.chains.contains_key(&name)), "{line}");
                        assert!(self.sets.get_mut(&name).expect(line).insert(element), "{line}");
                    }
                }
                ("delete", "element") => {
                    for element in inner.split(", ") {
                        assert!(self.sets.get_mut(&name).expect(line).remove(element), "{line}");
                    }
                }
                ("flush", "chain") => self.chains.get_mut(&name).expect(line).clear(),
                ("delete", "chain") => {
                    let jump = format!("jump {name}");
                    let used = self.chains.values().flatten().chain(self.sets.values().flatten());
                    assert!(!used.clone().any(|text| text.ends_with(&jump)), "{line}");
                    self.chains.remove(&name).expect(line);
                }
                ("delete", "set" | "map") => {
                    let at = format!("@{name}");
                    let used =
                        self.chains.values().flatten().any(|rule| rule.split(' ').any(|word| word == at));
                    assert!(!used, "{line}");
                    self.sets.remove(&name).expect(line);
                }
                _ => panic!("{line}"),
            }
        }
    }
}

fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        Just(Service::All),
        (1_u16..99).prop_map(|first| Service::Tcp(Some(Ports { first, last: first + 3 }))),
        Just(Service::Udp(None)),
        any::<Option<u8>>().prop_map(|kind| Service::Icmp(kind, None)),
        any::<u8>().prop_map(|kind| Service::Icmpv6(Some(kind), Some(0))),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("c".to_owned())]
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let net = prop_oneof![Just("10.0.0.0/8"), Just("10.9.0.0/16"), Just("::/0"), Just("2001:db8::/48")];
    let nets = prop::collection::vec(net.prop_map(|net| net.parse().unwrap()), 0..3);
    let rule = (service(), nets, prop::collection::vec(name(), 0..2))
        .prop_map(|(service, nets, groups)| Rule { service, nets, groups });
    prop::collection::vec(rule, 0..3)
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let members = prop::collection::btree_set((1_u8..9).prop_map(|n| IpAddr::from([10, 2, 0, n])), 0..4);
    let group = (some_rules(), some_rules(), members).prop_map(|(ingress, egress, members)| Group {
        ingress,
        egress,
        members,
    });
    let ports = prop::collection::btree_map(
        (1_u8..6).prop_map(|n| format!("vm{n}-0")),
        (1_u8..6, prop::collection::btree_set(name(), 0..3))
            .prop_map(|(n, groups)| Port { groups, ..port(n, &[]) }),
        0..5,
    );
    (prop::collection::btree_map(name(), group, 0..4), ports)
        .prop_map(|(groups, ports)| Policy { groups, ports })
}

proptest! {
    /// From any policy to any other one: the transaction is one that the kernel takes, it leaves what a table made anew
    /// would have, and the same policy again changes nothing.
    #[test]
    fn a_change_ends_where_a_fresh_table_begins(old in some_policy(), new in some_policy()) {
        let (old, new) = (all(&old), all(&new));
        let mut kernel = Kernel::default();
        kernel.run(&changes(&Ruleset::new(), &old));
        kernel.run(&changes(&old, &new));
        let mut fresh = Kernel::default();
        fresh.run(&changes(&Ruleset::new(), &new));
        prop_assert_eq!(kernel, fresh);
        prop_assert_eq!(changes(&new, &new), "");
    }

    #[test]
    fn a_policy_survives_its_file(policy in some_policy()) {
        let text = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    }
}
