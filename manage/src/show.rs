//! Tables for people.

use crate::{
    api::{Event, GroupStatus, IN_SERVICE, Status, VmStatus},
    db::{Template, TemplateState},
};

/// Lines with columns as wide as their widest word.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|w| w.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let words: Vec<String> =
            row.iter().zip(&widths).map(|(word, width)| format!("{word:<width$}")).collect();
        text.push_str(words.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// All VMs.
pub(crate) fn vms(vms: &[VmStatus]) -> String {
    let mut rows = vec![row(["VM", "KIND", "STATE", "FOR", "HOST", "ADDRESSES"])];
    for vm in vms {
        let mut state = vm.doing.clone().unwrap_or_else(|| vm.state.clone());
        if vm.agent == Some(false) && vm.state == "running" && vm.doing.is_none() {
            state = "agent not up".to_owned();
        }
        let addresses: Vec<_> = vm
            .nics
            .iter()
            .map(|n| format!("{}={} ({})", n.device, n.address, n.traffic.to_lowercase()))
            .collect();
        let host = vm.host.as_deref().unwrap_or("-");
        let owner = if vm.owner.is_empty() { "-" } else { &vm.owner };
        rows.push(row([&vm.name, &vm.kind, &state, owner, host, &addresses.join(" ")]));
    }
    let mut text = table(&rows);
    for vm in vms {
        if let Some(error) = &vm.error {
            text.push_str(&format!("{}: {error}\n", vm.name));
        }
    }
    text
}

/// Templates.
pub(crate) fn templates(templates: &[Template]) -> String {
    let mut rows = vec![row(["ID", "TEMPLATE", "STORE", "STATE", "SIZE", "ON DISK", "PATH OR REASON"])];
    for template in templates {
        let state = match template.state {
            TemplateState::Downloading => format!("{} %", template.percent),
            TemplateState::Ready => "ready".to_owned(),
            TemplateState::Failed => "failed".to_owned(),
        };
        let last = template.error.as_ref().or(template.path.as_ref());
        rows.push(vec![
            template.id.to_string(),
            template.name.clone(),
            template.store.clone(),
            state,
            template.size.to_string(),
            template.physical_size.to_string(),
            last.cloned().unwrap_or_default(),
        ]);
    }
    table(&rows)
}

/// All security groups.
pub(crate) fn groups(groups: &[GroupStatus]) -> String {
    let mut rows = vec![row(["GROUP", "INGRESS", "EGRESS", "MEMBERS"])];
    for group in groups {
        let names: Vec<&str> = group.members.iter().map(|member| member.name.as_str()).collect();
        let rules = |list: &[String], none: &str| match list.len() {
            0 => none.to_owned(),
            1 => "1 rule".to_owned(),
            count => format!("{count} rules"),
        };
        let (ingress, egress) = (rules(&group.ingress, "nothing"), rules(&group.egress, "everything"));
        rows.push(row([&group.name, &ingress, &egress, &names.join(" ")]));
    }
    table(&rows)
}

/// One security group.
pub(crate) fn group(group: &GroupStatus) -> String {
    let mut text = format!("security group {}\n", group.name);
    for (word, list, none) in
        [("ingress", &group.ingress, "nothing"), ("egress", &group.egress, "everything")]
    {
        if list.is_empty() {
            text.push_str(&format!("{word}: {none}\n"));
        }
        for rule in list {
            text.push_str(&format!("{word}: {rule}\n"));
        }
    }
    for member in &group.members {
        let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
        text.push_str(&format!("member: {} ({})\n", member.name, addresses.join(", ")));
    }
    text
}

/// One event.
pub(crate) fn event(event: &Event) -> String {
    let seconds = event.at.rem_euclid(86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02} {}: {}", event.subject, event.text)
}

/// Everything.
pub(crate) fn status(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!("zone {}: {ready}\n\n", status.zone);
    if let Some(trouble) = &status.trouble {
        text.push_str(&format!("{trouble}\n\n"));
    }
    let mut rows = vec![row(["HOST", "ADDRESS", "STATE"])];
    for host in &status.hosts {
        let mut state = match host.last_ping {
            Some(seconds) => format!("up, last ping {seconds} s ago"),
            None => "not connected".to_owned(),
        };
        if host.standing != IN_SERVICE {
            state = format!("{state}; {}", host.standing);
        }
        rows.push(row([&host.name, &host.address, &state]));
    }
    text.push_str(&table(&rows));
    text.push('\n');
    text.push_str(&vms(&status.vms));
    if !status.stores.is_empty() {
        let mut rows = vec![row(["STORE", "KIND", "STATE"])];
        for store in &status.stores {
            rows.push(row([&store.name, &store.kind, store.error.as_deref().unwrap_or("ok")]));
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    if !status.templates.is_empty() {
        text.push('\n');
        text.push_str(&templates(&status.templates));
    }
    text.push('\n');
    let first = status.events.len().saturating_sub(10);
    for last in &status.events[first..] {
        text.push_str(&event(last));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        assert_eq!(table(&[row(["A", "B"]), row(["long", "x"])]), "A     B\nlong  x\n");
    }

    #[test]
    fn an_event_has_its_time_of_day() {
        let shown =
            event(&Event { id: 1, at: 86_400 + 3661, subject: "r-1-VM".into(), text: "is up".into() });
        assert_eq!(shown, "01:01:01 r-1-VM: is up");
    }
}
