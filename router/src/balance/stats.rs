//! What the balancer has counted, over all its workers: the running one, those that still finish
//! connections, and those that are gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The row of a rule itself, beside those of its servers.
pub const FRONTEND: &str = "FRONTEND";
/// The row of a rule's servers together.
const BACKEND: &str = "BACKEND";

/// One row of a worker's table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Name of the rule, `203_0_113_10-80`.
    pub pool: String,
    /// [`FRONTEND`], or a server.
    pub name: String,
    /// Connections now.
    pub current: u64,
    /// What was counted.
    pub count: Count,
    /// `UP`, `DOWN 1/2`, `MAINT`, `no check`, `OPEN` …
    pub status: String,
}

impl Row {
    /// Whether it is a server that takes connections.
    pub fn is_up(&self) -> bool {
        self.is_server() && (self.status.starts_with("UP") || self.status == "no check")
    }

    /// Whether it is a server.
    pub fn is_server(&self) -> bool {
        self.name != FRONTEND
    }

    /// Whether it is a server that takes no connections because it was told so.
    pub fn is_put_aside(&self) -> bool {
        self.is_server() && self.status.starts_with("MAINT")
    }
}

/// What was counted since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Connections, or requests where HTTP is understood.
    pub total: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.received += other.received;
        self.sent += other.sent;
    }
}

/// Reads a worker's table: comma separated, its columns named by the first line.
pub fn rows(table: &str) -> Vec<Row> {
    let mut lines = table.lines().filter(|line| !line.trim().is_empty());
    let head = lines.next().unwrap_or_default();
    let names: Vec<&str> = head.trim_start_matches("# ").split(',').collect();
    let column = |name: &str| names.iter().position(|n| *n == name).unwrap_or(usize::MAX);
    let [pool, name, current, total, received, sent, status] =
        ["pxname", "svname", "scur", "stot", "bin", "bout", "status"].map(column);
    let row = |line: &str| {
        let fields = fields(line);
        let text = |n: usize| fields.get(n).cloned().unwrap_or_default();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok()).unwrap_or(0);
        Row {
            pool: text(pool),
            name: text(name),
            current: number(current),
            count: Count { total: number(total), received: number(received), sent: number(sent) },
            status: text(status),
        }
    };
    lines.map(row).filter(|row| row.name != BACKEND && !row.pool.is_empty()).collect()
}

fn fields(line: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(String::new()),
            c => all.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    all
}

/// Connections that a worker has now, those of pages with statistics left out.
pub fn busy(rows: &[Row]) -> u64 {
    rows.iter().filter(|row| !row.is_server()).map(|row| row.current).sum()
}

/// What was counted, by rule and row.
pub type Counts = BTreeMap<String, Count>;

/// The name under which a row is counted.
pub fn key(pool: &str, name: &str) -> String {
    format!("{pool}/{name}")
}

/// What is known of workers beside the running one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// What workers that are gone have counted.
    pub retired: Counts,
    /// What the others had counted when they were last asked, by process.
    pub seen: BTreeMap<u32, Counts>,
}

impl Tally {
    /// What a worker says now.
    pub fn see(&mut self, pid: u32, rows: &[Row]) {
        self.seen.insert(pid, rows.iter().map(|row| (key(&row.pool, &row.name), row.count)).collect());
    }

    /// A worker is gone: what it said last is its last word.
    pub fn retire(&mut self, pid: u32) {
        for (key, count) in self.seen.remove(&pid).unwrap_or_default() {
            self.retired.entry(key).or_default().add(count);
        }
    }

    /// Forgets rules that are no more.
    pub fn keep(&mut self, pools: &[String]) {
        let known = |key: &String| {
            pools.iter().any(|pool| key.strip_prefix(pool.as_str()).is_some_and(|r| r.starts_with('/')))
        };
        self.retired.retain(|key, _| known(key));
    }

    /// What was counted in all.
    pub fn total(&self, pool: &str, name: &str) -> Count {
        let key = key(pool, name);
        let mut all = self.retired.get(&key).copied().unwrap_or_default();
        for counts in self.seen.values() {
            all.add(counts.get(&key).copied().unwrap_or_default());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,x,status,last_chk\n\
        a-80,FRONTEND,,,2,3,9,10,100,200,,OPEN,\n\
        a-80,10.1.1.20:80,0,0,2,0,,7,70,80,,UP 1/3,\"a, b\"\n\
        a-80,10.1.1.21:80,0,0,0,0,,3,30,40,,MAINT,\n\
        a-80,BACKEND,0,0,2,0,,10,100,200,,UP,\n\n";

    #[test]
    fn a_table_is_read_by_its_names() {
        let rows = rows(TABLE);
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[0].current, rows[0].count.sent), (2, 200));
        assert!(rows[1].is_up() && !rows[0].is_up());
        assert!(rows[2].is_put_aside());
        assert_eq!(busy(&rows), 2);
        assert_eq!(super::rows("").len(), 0);
    }

    #[test]
    fn counts_live_on_when_workers_go() {
        let mut tally = Tally::default();
        tally.see(1, &rows(TABLE));
        tally.see(2, &rows(TABLE));
        assert_eq!(tally.total("a-80", FRONTEND).total, 20);
        tally.retire(1);
        tally.retire(1);
        assert_eq!(tally.total("a-80", FRONTEND), Count { total: 20, received: 200, sent: 400 });
        tally.keep(&["a-8".to_owned()]);
        assert_eq!(tally.total("a-80", FRONTEND).total, 10);
    }
}
