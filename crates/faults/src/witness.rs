//! What the machine itself keeps waiting: others use its disk and its processor, too.
//!
//! A latency that a test judges is the product's and the machine's together. The witness does what a put
//! cannot do without, one append and its sync, beside the nodes and at fixed times; what it waited is not
//! the nodes' doing, as long as they keep nobody's disk busy.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Context as _, Failure, Result};

/// Between two appends; one that is late is made up for, and counts from when it was due.
const PERIOD: Duration = Duration::from_millis(10);
/// As much as an entry of the log.
const BYTES: [u8; 512] = [b'w'; 512];
/// Its file; it grows by 50 KiB a second while the test runs.
const FILE: &str = "witness";

/// A thread that appends and syncs until it is asked what it saw, or dropped.
#[derive(Debug)]
pub struct Witness {
    stop: Stop,
    thread: JoinHandle<io::Result<Duration>>,
}

/// Has the thread end when it is dropped: a test that fails asks for nothing any more.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Witness {
    /// Begins in this directory, which is on the disk of the nodes.
    ///
    /// # Errors
    ///
    /// The file or the thread cannot be made.
    pub fn start(directory: &Path) -> Result<Witness> {
        let path = directory.join(FILE);
        let file = File::create(&path).context(format_args!("make {}", path.display()))?;
        let stop = Stop(Arc::default());
        let stopped = Arc::clone(&stop.0);
        let thread = thread::Builder::new().name("witness".to_owned()).spawn(move || watch(file, &stopped));
        Ok(Witness { stop, thread: thread.context("start the witness")? })
    }

    /// Ends it, and answers the longest that one append waited.
    ///
    /// # Errors
    ///
    /// An append failed.
    pub fn finish(self) -> Result<Duration> {
        drop(self.stop);
        let longest = self.thread.join().map_err(|_| Failure::new("the witness panicked"))?;
        longest.context("append as the witness")
    }
}

fn watch(mut file: File, stopped: &AtomicBool) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut due = Instant::now();
    while !stopped.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        file.write_all(&BYTES)?;
        file.sync_data()?;
        longest = longest.max(due.elapsed());
        due += PERIOD;
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;

    /// Goal: nobody appends for a test that has failed. Method: what the thread holds is let go once the witness is
    /// dropped, as it is when a test returns early.
    #[test]
    fn it_ends_when_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let witness = Witness::start(directory.path()).unwrap();
        let held: Weak<AtomicBool> = Arc::downgrade(&witness.stop.0);
        assert!(held.strong_count() == 2);
        let thread = witness.thread.thread().id();
        drop(witness);
        let begun = Instant::now();
        while held.strong_count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{thread:?} goes on");
            thread::sleep(PERIOD);
        }
    }
}
