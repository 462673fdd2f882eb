//! The apply worker: the one that writes to the store.
//!
//! Runs of committed entries come through a bounded queue; each becomes one write batch. It waits
//! until the log holds a run durably before it applies it: store and log are separate, and a crash
//! must never leave the store ahead of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvorum_store::entry::{Entry, PayloadKind};
use kvorum_store::fatal::stop_process;
use kvorum_store::log::Log;
use kvorum_store::threads::{Next, Running, Threads, Worker};
use kvorum_store::{Applying, Attempt, Store, command::Outcome};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::clock::ClusterClock;
use crate::metrics::Metrics;
use crate::observer::{AppliedRun, Observer};
use crate::watch::WatchHub;

/// Runs that may wait: openraft sends the next only when the last is applied.
const QUEUE_RUNS_MAX: usize = 4;

/// A run of entries on its way to the store.
struct Run {
    entries: Vec<Entry>,
    /// For each of them, whether somebody waits for its outcome.
    awaited: Vec<bool>,
    done: oneshot::Sender<Vec<Vec<Outcome>>>,
}

/// A handle to the worker, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct Applier {
    runs: mpsc::Sender<Run>,
    applied: watch::Receiver<u64>,
    work: Arc<Work>,
    log: Log,
    running: Arc<dyn Running>,
}

/// What the worker has to do, for whoever watches over it. What it was given counts, and not what it has taken up: a
/// thread that stands still takes up nothing.
#[derive(Debug, Default)]
struct Work {
    /// Runs that the worker was given, and those of them that it is done with.
    given: AtomicU64,
    ended: AtomicU64,
    /// The index of the last entry that it was given.
    last: AtomicU64,
}

/// How many runs the worker has ended while it has another to apply, and how much CPU time it has used. One run may
/// take long, a delete of a million keys for example; a worker that neither ends a run nor uses any CPU hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtWork {
    ended: u64,
    /// None where it is not known; then only the end of a run counts.
    cpu_time: Option<Duration>,
}

#[cfg(test)]
impl AtWork {
    pub(super) fn new(ended: u64, cpu_ns: u64) -> AtWork {
        AtWork { ended, cpu_time: Some(Duration::from_nanos(cpu_ns)) }
    }
}

/// What the worker works with.
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
    /// Told of every run too, where there is one.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Applier {
    /// Starts the worker.
    pub fn start(threads: &dyn Threads, parts: Parts) -> std::io::Result<Applier> {
        let (runs, queue) = mpsc::channel(QUEUE_RUNS_MAX);
        let (publish, applied) = watch::channel(next_index(&parts.store));
        let (work, log) = (Arc::new(Work::default()), parts.log.clone());
        let (applying, begun) = (Applying::default(), None);
        let worker = ApplyWorker { parts, queue, publish, work: work.clone(), run: None, applying, begun };
        let running = Arc::from(threads.start("apply", Box::new(worker))?);
        Ok(Applier { runs, applied, work, log, running })
    }

    /// Applies a run and answers each entry's outcomes, without records where nobody waits for them.
    pub async fn apply(&self, entries: Vec<Entry>, awaited: Vec<bool>) -> std::io::Result<Vec<Vec<Outcome>>> {
        let (done, outcomes) = oneshot::channel();
        let gone = || std::io::Error::other("the apply worker has ended");
        // No wait lies between the count and the run.
        let room = self.runs.reserve().await.map_err(|_| gone())?;
        if let Some(last) = entries.last() {
            self.work.last.store(last.log_id.index, Ordering::Release);
        }
        self.work.given.fetch_add(1, Ordering::Release);
        room.send(Run { entries, awaited, done });
        outcomes.await.map_err(|_| gone())
    }

    /// How far it is, where it has a run to apply that the log holds: the wait for the log is no part of that.
    pub fn at_work(&self) -> Option<AtWork> {
        let (ended, given) =
            (self.work.ended.load(Ordering::Acquire), self.work.given.load(Ordering::Acquire));
        let held = self.log.durable_index() >= Some(self.work.last.load(Ordering::Acquire));
        (ended < given && held).then(|| AtWork { ended, cpu_time: self.running.cpu_time() })
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

/// The worker: takes a run, waits until the log holds it, applies it.
struct ApplyWorker {
    parts: Parts,
    queue: mpsc::Receiver<Run>,
    publish: watch::Sender<u64>,
    work: Arc<Work>,
    /// The run that waits for the log, or for room on the disk.
    run: Option<Run>,
    /// How far it is applied.
    applying: Applying,
    /// Since when it is being applied.
    begun: Option<Instant>,
}

impl Worker for ApplyWorker {
    fn step(&mut self, waker: &Waker) -> Next {
        let run = match self.run.take() {
            Some(run) => run,
            None => match self.queue.poll_recv(&mut Context::from_waker(waker)) {
                Poll::Pending => return Next::Woken,
                Poll::Ready(None) => return Next::Ended,
                Poll::Ready(Some(run)) => run,
            },
        };
        let last = run.entries.last().map(|last| last.log_id.index);
        if last.is_some_and(|last| self.parts.log.poll_durable(last, waker).is_pending()) {
            self.run = Some(run);
            return Next::Woken;
        }
        // An empty run says that a snapshot was installed: only the position is new.
        let next = if last.is_some() { self.apply(run) } else { self.follow_snapshot(run) };
        self.publish.send_replace(next_index(&self.parts.store));
        next
    }
}

impl ApplyWorker {
    /// Applies a run, or a part of it where the disk is full.
    fn apply(&mut self, run: Run) -> Next {
        let Parts { store, clock, hub, metrics, observer, .. } = &self.parts;
        let begun = *self.begun.get_or_insert_with(|| {
            self.applying = Applying::awaited(run.awaited.clone());
            Instant::now()
        });
        let applied = match store.try_apply(&run.entries, &mut self.applying) {
            Ok(Attempt::Done(applied)) => applied,
            Ok(Attempt::Full { wait }) => {
                self.run = Some(run);
                return Next::After(wait);
            }
            // The store can't go on from a state of which it does not know what it holds.
            Err(error) => stop_process("apply log entries", &error),
        };
        self.begun = None;
        self.work.ended.fetch_add(1, Ordering::Release);
        let Run { entries, done, .. } = run;
        metrics.applied(begun.elapsed(), entries.len());
        clock.applied(stamped_term(&entries), store.cluster_time_ms());
        hub.publish(applied.events, store.revision());
        hub.rights(store.auth_as_of());
        if let Some(observer) = observer {
            let (outcomes, commands_before) = (&applied.outcomes, applied.commands_before);
            observer.applied(&AppliedRun { entries: &entries, outcomes, commands_before, store });
        }
        // Nobody waits for a run that is applied again after a restart.
        let _ = done.send(applied.outcomes);
        Next::Again
    }

    fn follow_snapshot(&self, Run { done, .. }: Run) -> Next {
        let Parts { store, clock, hub, observer, .. } = &self.parts;
        clock.applied(None, store.cluster_time_ms());
        hub.reset(store.revision());
        hub.rights(store.auth_as_of());
        if let Some(observer) = observer {
            observer.applied(&AppliedRun { entries: &[], outcomes: &[], commands_before: 0, store });
        }
        self.work.ended.fetch_add(1, Ordering::Release);
        let _ = done.send(Vec::new());
        Next::Again
    }
}
