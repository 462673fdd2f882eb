//! Finds a run in which no time passes any more: some host has always something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::run::cpu_seconds;
use crate::world::clock::Clock;

/// Between two looks, in real time.
const PERIOD: Duration = Duration::from_millis(500);
/// Processor time in which a window passes, however much there is to do in it.
const WINDOW_SECONDS_MAX: f64 = 30.0;

/// Watches a run until it is dropped.
pub struct Watched(Arc<AtomicBool>);

impl Watched {
    /// Begins; `spins` is called when no time has passed for long, from a thread of its own.
    pub fn begin(clock: Arc<Clock>, spins: impl FnOnce() + Send + 'static) -> Watched {
        let is_over = Arc::new(AtomicBool::new(false));
        let watched = Watched(is_over.clone());
        thread::spawn(move || {
            let (mut now, mut since) = (clock.now(), cpu_seconds());
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(PERIOD);
                if clock.now() != now {
                    (now, since) = (clock.now(), cpu_seconds());
                } else if cpu_seconds() - since > WINDOW_SECONDS_MAX {
                    return spins();
                }
            }
        });
        watched
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
