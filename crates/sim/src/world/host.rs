//! A host: a machine with a clock of its own, and the process that runs on it.

use std::path::PathBuf;
use std::time::Duration;

use super::clock::Micros;
use super::runtime::{HostRuntime, Idle};
use super::threads::HostThreads;

/// A clock that keeps true time.
pub const TRUE_PPM: u64 = 1_000_000;

/// A process and its threads.
#[derive(Debug)]
pub struct Process {
    pub(super) runtime: HostRuntime,
    pub(super) threads: HostThreads,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Its data directory.
    pub dir: PathBuf,
    /// What runs on it.
    pub(super) process: Option<Process>,
    /// How fast its clock runs: in so many of a million true microseconds, a million pass.
    pub clock_ppm: u64,
    /// It does nothing until then.
    pub(super) stands_until: Micros,
    /// Time that has passed on its clock, and that its process has not seen; in millionths of microseconds.
    owed: u64,
}

impl Host {
    pub(super) fn new(dir: PathBuf, clock_ppm: u64) -> Host {
        Host { dir, process: None, clock_ppm, stands_until: 0, owed: 0 }
    }

    /// A process begins, and with it the clock that it has.
    pub(super) fn begin(&mut self, process: Process) {
        (self.process, self.owed) = (Some(process), 0);
    }

    /// Whether a process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Who waits for its process to have nothing more to do.
    pub(super) fn idle(&self) -> Option<Idle> {
        self.process.as_ref().map(|process| process.runtime.idle())
    }

    /// Whether it stands still.
    pub fn stands(&self, now: Micros) -> bool {
        now < self.stands_until
    }

    /// Lets true time pass. A process that stands still finds it passed when it goes on.
    pub(super) fn run(&mut self, passes: Micros, now: Micros) {
        self.owed += passes * self.clock_ppm;
        if now < self.stands_until {
            return;
        }
        let passed = Duration::from_micros(self.owed / TRUE_PPM);
        self.owed %= TRUE_PPM;
        if let Some(process) = &self.process {
            process.runtime.run(passed);
        }
    }
}
