//! Simulated time.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Microseconds since the run began.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;
/// A millisecond.
pub const MILLISECOND: Micros = 1_000;

/// The true time of the world, which no host sees: each has a clock of its own.
#[derive(Debug)]
pub struct Clock {
    now: AtomicU64,
    /// The last answer of [`Clock::moment`].
    moment: AtomicU64,
    /// Where `system.c` reads the time.
    system: Option<File>,
}

impl Clock {
    /// Stands at the beginning. The file is the one that `system.c` reads, if it is in use.
    pub fn new(system: Option<File>) -> Clock {
        Clock { now: AtomicU64::new(0), moment: AtomicU64::new(0), system }
    }

    /// What time it is.
    pub fn now(&self) -> Micros {
        self.now.load(Ordering::Relaxed)
    }

    /// Moves on.
    pub(super) fn advance_to(&self, now: Micros) {
        self.now.store(now, Ordering::Relaxed);
        if let Some(file) = &self.system {
            file.write_all_at(&(now * 1000).to_ne_bytes(), 0).expect("memory takes eight bytes");
        }
    }

    /// A time that no other call is answered: what happens in the same window has an order too.
    pub fn moment(&self) -> Duration {
        let earliest = self.now() * 1000;
        let moment = earliest.max(self.moment.load(Ordering::Relaxed) + 1);
        self.moment.store(moment, Ordering::Relaxed);
        Duration::from_nanos(moment)
    }
}
