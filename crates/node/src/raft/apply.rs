//! The apply thread: the one thread that writes to the store.
//!
//! Runs of committed entries come through a bounded queue; each becomes one write batch. It waits
//! until the log holds a run durably before it applies it: store and log are separate, and a crash
//! must never leave the store ahead of the log.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;

use kvorum_store::entry::{Entry, PayloadKind};
use kvorum_store::fatal::stop_process;
use kvorum_store::log::Log;
use kvorum_store::{Store, command::Outcome};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::clock::ClusterClock;
use crate::metrics::Metrics;
use crate::watch::WatchHub;

/// Runs that may wait: openraft sends the next only when the last is applied.
const QUEUE_RUNS_MAX: usize = 4;

/// A run of entries on its way to the apply thread.
struct Run {
    entries: Vec<Entry>,
    done: oneshot::Sender<Vec<Vec<Outcome>>>,
}

/// A handle to the apply thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct Applier {
    runs: SyncSender<Run>,
    applied: watch::Receiver<u64>,
    work: Arc<Work>,
}

/// What the thread is at, for whoever watches over it.
#[derive(Debug, Default)]
struct Work {
    /// Runs that the store was given, and those of them that it has applied.
    begun: AtomicU64,
    ended: AtomicU64,
    /// The CPU time of the thread, as the kernel tells it. Absent where there is no /proc.
    cpu_time: OnceLock<Option<File>>,
}

/// A run that the store is applying, and how much CPU time the thread has used. One run may take long, a
/// delete of a million keys for example; a thread that neither ends a run nor uses any CPU hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtWork {
    run: u64,
    cpu_ns: u64,
}

#[cfg(test)]
impl AtWork {
    pub(super) fn new(run: u64, cpu_ns: u64) -> AtWork {
        AtWork { run, cpu_ns }
    }
}

impl Work {
    fn now(&self) -> Option<AtWork> {
        let (ended, begun) = (self.ended.load(Ordering::Acquire), self.begun.load(Ordering::Acquire));
        (ended < begun).then(|| AtWork { run: begun, cpu_ns: self.cpu_ns() })
    }

    /// 0 where the kernel does not say; then only the end of a run counts.
    fn cpu_ns(&self) -> u64 {
        let mut text = [0; 64];
        let file = self.cpu_time.get().and_then(Option::as_ref);
        let bytes = file.and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..bytes]);
        text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
    }
}

/// What the apply thread works with.
pub struct Parts {
    /// Where runs are applied.
    pub store: Store,
    /// What has to hold them first.
    pub log: Log,
    /// Told of every stamp.
    pub clock: Arc<ClusterClock>,
    /// Told of every change.
    pub hub: Arc<WatchHub>,
    /// Told of every run.
    pub metrics: Arc<Metrics>,
}

impl Applier {
    /// Starts the thread.
    pub fn start(parts: Parts) -> std::io::Result<Applier> {
        let (runs, queue) = mpsc::sync_channel(QUEUE_RUNS_MAX);
        let (publish, applied) = watch::channel(next_index(&parts.store));
        let work = Arc::new(Work::default());
        let on_thread = work.clone();
        thread::Builder::new()
            .name("apply".into())
            .spawn(move || apply_runs(&parts, &queue, &publish, &on_thread))?;
        Ok(Applier { runs, applied, work })
    }

    /// Applies a run and answers each entry's outcomes.
    pub async fn apply(&self, entries: Vec<Entry>) -> std::io::Result<Vec<Vec<Outcome>>> {
        let (done, outcomes) = oneshot::channel();
        let gone = |_| std::io::Error::other("the apply thread has ended");
        self.runs.send(Run { entries, done }).map_err(|_| gone(()))?;
        outcomes.await.map_err(|_| gone(()))
    }

    /// What the store is applying. Its wait for the log is no part of that.
    pub fn at_work(&self) -> Option<AtWork> {
        self.work.now()
    }

    /// Changes with the index after the last applied entry.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }
}

/// The term of the last entry that has a stamp.
fn stamped_term(entries: &[Entry]) -> Option<u64> {
    let has_stamp = |entry: &&Entry| PayloadKind::of(&entry.payload) == Ok(PayloadKind::Batch);
    entries.iter().rev().find(has_stamp).map(|entry| entry.log_id.term)
}

fn next_index(store: &Store) -> u64 {
    store.applied().map_or(0, |id| id.index + 1)
}

fn apply_runs(parts: &Parts, queue: &Receiver<Run>, publish: &watch::Sender<u64>, work: &Work) {
    work.cpu_time.get_or_init(|| File::open("/proc/thread-self/schedstat").ok());
    while let Ok(Run { entries, done }) = queue.recv() {
        // An empty run says that a snapshot was installed: only the position is new.
        if let Some(last) = entries.last() {
            parts.log.wait_durable(last.log_id.index);
            work.begun.fetch_add(1, Ordering::Release);
            let begun = Instant::now();
            let run = match parts.store.apply(&entries) {
                Ok(run) => run,
                // The store can't go on from a state of which it does not know what it holds.
                Err(error) => stop_process("apply log entries", &error),
            };
            work.ended.fetch_add(1, Ordering::Release);
            parts.metrics.applied(begun.elapsed(), entries.len());
            parts.clock.applied(stamped_term(&entries), parts.store.cluster_time_ms());
            parts.hub.publish(run.events, parts.store.revision());
            // Nobody waits for a run that is applied again after a restart.
            let _ = done.send(run.outcomes);
        } else {
            parts.clock.applied(None, parts.store.cluster_time_ms());
            parts.hub.reset(parts.store.revision());
            let _ = done.send(Vec::new());
        }
        publish.send_replace(next_index(&parts.store));
    }
}
