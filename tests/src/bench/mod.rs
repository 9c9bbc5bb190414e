//! Figures: several runs of one thing, printed as one line each.

pub mod boot;
pub mod channel;
pub mod cpvm;
pub mod image;
pub mod redundancy;
pub mod router;
pub mod ssvm;
pub mod vpn;

/// Where a figure was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On this machine.
    Host,
    /// Inside a VM, or of one.
    Vm,
}

/// What a median must hold to pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Floor {
    /// The highest value.
    AtMost(f64),
    /// The lowest ratio to the peer.
    RatioAtLeast(f64),
    /// The highest ratio to the peer.
    RatioAtMost(f64),
}

/// Something measured at least five times, where it varies at all.
#[derive(Debug)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// What was measured, one value a run.
    pub ours: Vec<f64>,
    /// The same of somebody else, measured in turns with ours.
    pub peer: Option<(&'static str, Vec<f64>)>,
    /// Unit of the values.
    pub unit: &'static str,
    /// What passes, where something is set.
    pub floor: Option<Floor>,
    /// Where it was taken.
    pub place: Where,
}

/// The middle value.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

impl Figure {
    /// A figure of this machine without peer.
    pub fn host(name: impl Into<String>, unit: &'static str, ours: Vec<f64>, floor: Option<Floor>) -> Self {
        Self { name: name.into(), ours, peer: None, unit, floor, place: Where::Host }
    }

    /// The same with a peer.
    #[must_use]
    pub fn against(mut self, name: &'static str, values: Vec<f64>) -> Self {
        self.peer = Some((name, values));
        self
    }

    /// Prints the line.
    pub fn print(&self) {
        let bounds = |values: &[f64]| {
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)))
        };
        let (ours, (low, high)) = (median(&self.ours), bounds(&self.ours));
        let peer = self.peer.as_ref().map(|(name, values)| (*name, median(values)));
        let ratio = peer.map(|(_, value)| ours / value);
        let (floor, passed) = match self.floor {
            None => (String::new(), true),
            Some(Floor::AtMost(limit)) => (format!("<={limit}"), ours <= limit),
            Some(Floor::RatioAtMost(limit)) => {
                (format!("ratio<={limit}"), ratio.is_some_and(|ratio| ratio <= limit))
            }
            Some(Floor::RatioAtLeast(limit)) => {
                (format!("ratio>={limit}"), ratio.is_some_and(|ratio| ratio >= limit))
            }
        };
        println!(
            "figure={} ours={ours:.2} peer={} ratio={} unit={} floor='{floor}' n={} min={low:.2} max={high:.2} \
             where={} pass={}",
            self.name,
            peer.map_or_else(|| "-".to_owned(), |(name, value)| format!("{name}:{value:.2}")),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            self.unit,
            self.ours.len(),
            if self.place == Where::Vm { "vm" } else { "host" },
            if passed { "yes" } else { "no" },
        );
    }
}

/// A part of a subject: its name and what measures it.
pub(crate) type Part = (&'static str, fn());

/// Measures and prints the parts that are named, everything where none is.
fn run_parts(all: &[Part], parts: &[String]) -> Result<(), String> {
    if let Some(part) = parts.iter().find(|part| all.iter().all(|(name, _)| part != name)) {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        return Err(format!("no part '{part}'; there are: {}", names.join(" ")));
    }
    for (name, measure) in all {
        if parts.is_empty() || parts.iter().any(|part| part == name) {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            println!("# {name}; load of the machine {}", load.trim());
            // A thread of its own: it may move into a namespace, where it all ends with its lab.
            std::thread::spawn(*measure).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
    Ok(())
}

/// Processor seconds of a process and of its children that have ended.
pub(crate) fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("figures of a process");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: f64 = fields[11..15].iter().map(|n| n.parse::<f64>().expect("a figure")).sum();
    ticks / 100.0
}
