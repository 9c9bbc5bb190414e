//! The lines that the zone's checks print: a step, its time, a tick or the error.

use std::time::Instant;

/// Why a step failed, in words for the one who ran it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Counts steps and prints them as they end.
#[derive(Debug)]
pub struct Report {
    start: Instant,
    passed: u32,
    failed: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self { start: Instant::now(), passed: 0, failed: 0 }
    }
}

impl Report {
    /// Runs one step and prints how it went. What it returns on success is its value and a few
    /// words on what was seen.
    pub fn step<T>(&mut self, name: &str, run: impl FnOnce() -> Result<(T, String), Failure>) -> Option<T> {
        let begin = Instant::now();
        let result = run();
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok((value, seen)) => {
                self.passed += 1;
                println!("✓ {seconds:6.1}s  {name}{}{seen}", if seen.is_empty() { "" } else { ": " });
                Some(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("✗ {seconds:6.1}s  {name}: {error}");
                None
            }
        }
    }

    /// A step whose only value is what was seen.
    pub fn check(&mut self, name: &str, run: impl FnOnce() -> Result<String, Failure>) -> bool {
        self.step(name, || run().map(|seen| ((), seen))).is_some()
    }

    /// Prints the closing line and says whether all went well (and anything ran at all).
    pub fn close(&self) -> bool {
        println!(
            "{} passed, {} failed in {:.0} s",
            self.passed,
            self.failed,
            self.start.elapsed().as_secs_f64()
        );
        self.failed == 0 && self.passed > 0
    }
}
