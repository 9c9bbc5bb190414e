//! Figures: several runs of one thing, printed as one line each.

pub mod boot;
pub mod image;

/// Where a figure was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On this machine.
    Host,
    /// Inside a VM, or of one.
    Vm,
}

/// Something measured at least five times, where it varies at all.
#[derive(Debug)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// What was measured, one value a run.
    pub ours: Vec<f64>,
    /// Unit of the values.
    pub unit: &'static str,
    /// The highest median that passes, where one is set.
    pub at_most: Option<f64>,
    /// Where it was taken.
    pub place: Where,
}

impl Figure {
    /// The middle value.
    pub fn median(&self) -> f64 {
        let mut sorted = self.ours.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        }
    }

    /// Prints the line.
    pub fn print(&self) {
        let (low, high) =
            self.ours.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let passed = self.at_most.is_none_or(|limit| self.median() <= limit);
        println!(
            "figure={} ours={:.2} peer=- ratio=- unit={} floor='{}' n={} min={low:.2} max={high:.2} where={} pass={}",
            self.name,
            self.median(),
            self.unit,
            self.at_most.map(|limit| format!("<={limit}")).unwrap_or_default(),
            self.ours.len(),
            if self.place == Where::Vm { "vm" } else { "host" },
            if passed { "yes" } else { "no" },
        );
    }
}
