//! What all runs together have come to.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::marks::MARKS;
use crate::run::Outcome;

/// What all runs together have come to.
#[derive(Default)]
pub struct Summary {
    runs: u64,
    /// Those that failed, by their seeds or files.
    pub failed: Vec<String>,
    simulated: Duration,
    /// Processor time of all runs.
    cpu_seconds: f64,
    faults: BTreeMap<String, u64>,
    marks: BTreeMap<String, u64>,
    answered: u64,
    refused: u64,
    ttls: u64,
}

impl Summary {
    /// Takes in a run of this name; `replay` is the command that runs it again.
    pub fn take(&mut self, name: &str, outcome: Result<Outcome, String>, replay: &str) {
        self.runs += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => return self.fail(name, &why, &[], replay),
        };
        self.simulated += Duration::from_micros(outcome.micros);
        self.cpu_seconds += outcome.cpu_seconds;
        add(&mut self.faults, outcome.faults);
        add(&mut self.marks, outcome.marks);
        self.answered += outcome.answered;
        self.refused += outcome.failed;
        self.ttls += outcome.ttls;
        if let Some(violation) = outcome.violation {
            self.fail(name, &violation, &outcome.lines, replay);
        }
    }

    fn fail(&mut self, name: &str, why: &str, lines: &[String], replay: &str) {
        self.failed.push(name.to_owned());
        lines.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!("{name}, commit {}: {why}", commit());
        eprintln!("again: {replay}");
    }

    /// Processor time of all runs, in whole seconds.
    pub fn core_seconds(&self) -> u64 {
        self.cpu_seconds as u64
    }

    /// How far it is, after so long.
    pub fn line(&self, real: Duration) -> String {
        let (simulated, worked) = (self.simulated.as_secs_f64(), self.cpu_seconds.max(0.001));
        let faults: u64 = self.faults.values().sum();
        format!(
            "{} runs in {:.0} s, {} failed {:?}: {simulated:.0} s simulated in {worked:.0} s of processor time, {:.1} times as fast as \
             real time, {faults} faults ({:.0} an hour of a core), {} answers, {} calls failed, {} TTLs ended",
            self.runs,
            real.as_secs_f64(),
            self.failed.len(),
            self.failed,
            simulated / worked,
            faults as f64 / worked * 3600.0,
            self.answered,
            self.refused,
            self.ttls
        )
    }

    /// What was done to the clusters, and what they came to.
    pub fn tell(&self) {
        eprintln!("faults: {:?}", self.faults);
        eprintln!("reached: {:?}", self.marks);
        let missing = self.missing();
        if !missing.is_empty() {
            eprintln!("not reached: {missing:?}");
        }
    }

    /// What no run has reached.
    pub fn missing(&self) -> Vec<&'static str> {
        let reached = |name: &str| self.marks.get(name).is_some_and(|count| *count > 0);
        MARKS.iter().map(|(name, _)| *name).filter(|name| !reached(name)).collect()
    }
}

fn add(all: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (name, count) in more {
        *all.entry(name).or_default() += count;
    }
}

/// What is checked out, where that can be told.
fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let known = output.ok().filter(|output| output.status.success());
    known.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
