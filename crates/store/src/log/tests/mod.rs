//! Tests of the log as a whole, on real files.

mod damage;
mod model;
mod torn;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};

use super::queue::{Batch, Written};
use super::shared::Shared;
use super::view::View;
use super::{Done, Log, LogError, LogOptions, LogState, Vote, recovery, segment, verify};
use crate::entry::{Entry, LogId};
use crate::machine::Machine;

const IDENTITY: u64 = 0x1dea;
/// Small, so that a short test fills several.
const SEGMENT_BYTES: u64 = 16 * 1024;

fn options() -> LogOptions {
    // Caches of a few entries, so that most reads go to the disk.
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        cache_bytes: 2048,
        queue_bytes: 16 * 1024,
        ..LogOptions::default()
    }
}

fn open(dir: &Path) -> Log {
    try_open(dir).unwrap()
}

fn try_open(dir: &Path) -> Result<Log, LogError> {
    Log::open(dir, IDENTITY, options())
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

/// An entry whose payload follows from its id; every fourth one has long runs of zeros.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let byte = |at: usize| ((at * 31) as u64 + index * 7 + term * 3 + 1) as u8;
    let sparse = index.is_multiple_of(4);
    let payload: Vec<_> = (0..bytes).map(|at| if sparse && at > 20 { 0 } else { byte(at) }).collect();
    Entry { log_id: id(term, index), payload: payload.into() }
}

fn entries(term: u64, from: u64, count: u64, bytes: usize) -> Vec<Entry> {
    (from..from + count).map(|index| entry(term, index, bytes)).collect()
}

/// Makes a change and waits until it is durable.
fn synced(change: impl FnOnce(Done)) {
    let (send, receive) = mpsc::channel();
    change(Box::new(move || _ = send.send(())));
    receive.recv().unwrap();
}

fn all(log: &Log) -> Vec<Entry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

/// The segments' files, oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join(super::DIR))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| segment::number(path.file_name().unwrap().to_str().unwrap()).is_some())
        .collect();
    files.sort();
    files
}

/// Copies a log to another data directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join(super::DIR)).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(super::DIR).join(file.file_name().unwrap())).unwrap();
    }
}

/// Goal: the plain life of a log. Method: each kind of change, a reopen, reads of all sorts.
#[test]
fn a_log_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(log.state(), LogState::default());
    let vote = Vote { term: 3, node_id: 9, committed: true };
    synced(|done| log.save_vote(vote, done));
    let written = entries(1, 0, 100, 300);
    synced(|done| log.append(written.clone(), done));
    assert_eq!((log.state().durable, log.durable_index()), (Some(id(1, 99)), Some(99)));
    log.set_committed(id(1, 50));
    synced(|done| log.truncate_after(Some(id(1, 79)), done));
    synced(|done| log.append(vec![entry(2, 80, 5000)], done));
    synced(|done| log.purge(id(1, 9), done));
    let state = log.state();
    drop(log);

    let log = open(dir.path());
    assert_eq!(log.state(), state);
    assert_eq!(
        (state.purged, state.last, state.committed),
        (Some(id(1, 9)), Some(id(2, 80)), Some(id(1, 50)))
    );
    assert_eq!(state.vote, Some(vote));
    let mut expected = written[10..80].to_vec();
    expected.push(entry(2, 80, 5000));
    assert_eq!(all(&log), expected);
    assert_eq!(log.read(80..81, 0).unwrap(), expected[70..]);
    assert_eq!(log.read(20..90, 900).unwrap(), expected[10..13]);
    assert_eq!((log.term_of(80), log.term_of(9), log.term_of(8)), (Some(2), Some(1), None));
}

/// Goal: callbacks come in the order of the changes, whatever they are. Method: many changes at
/// once, each callback leaving its number.
#[test]
fn callbacks_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (send, receive) = mpsc::channel();
    let mut number = 0;
    let mut done = || {
        let (send, this) = (send.clone(), number);
        number += 1;
        Box::new(move || _ = send.send(this)) as Done
    };
    for round in 0..50 {
        let next = log.state().last.map_or(0, |last| last.index + 1);
        log.append(entries(round, next, 3, 200), done());
        log.append(Vec::new(), done());
        log.save_vote(Vote { term: round, node_id: 1, committed: false }, done());
        log.truncate_after(Some(id(round, next + 1)), done());
        log.purge(id(round, next), done());
    }
    drop(log);
    assert_eq!(receive.try_iter().collect::<Vec<_>>(), (0..250).collect::<Vec<_>>());
}

/// Goal: purging frees files, and a log behind an installed snapshot goes on after it. Method: count
/// files before and after, reopen in between.
#[test]
fn purging_frees_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for from in (0..200).step_by(10) {
        synced(|done| log.append(entries(1, from, 10, 1000), done));
    }
    assert!(files(dir.path()).len() > 10 && log.bytes() > 200_000);
    let (near, far) = (log.bytes_between(190, 200), log.bytes_between(0, 200));
    assert!(near > 0 && near < 30_000 && far > 200_000, "{near} {far}");
    synced(|done| log.purge(id(1, 198), done));
    drop(log);
    assert_eq!(files(dir.path()).len(), 1);
    let log = open(dir.path());
    assert!(log.bytes() < 20_000);
    assert_eq!(all(&log), [entry(1, 199, 1000)]);
    synced(|done| log.purge(id(5, 1000), done));
    assert_eq!(all(&log), []);
    synced(|done| log.append(entries(6, 1001, 2, 10), done));
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.state().purged, Some(id(5, 1000)));
    assert_eq!(all(&log), entries(6, 1001, 2, 10));
}

/// Goal: readers see whole entries at any moment, whatever goes on beside them. Method: one thread
/// appends, truncates and purges, others read and compare with what an entry's id says.
#[test]
fn readers_run_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (log, stop) = (&log, &stop);
            scope.spawn(move || {
                let mut seed = reader;
                while !stop.load(Ordering::Relaxed) {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let last = log.state().last.map_or(0, |last| last.index);
                    let from = last.saturating_sub(seed >> 57);
                    let read = log.read(from..from + 20, 10_000).unwrap();
                    for (at, found) in read.iter().enumerate() {
                        let LogId { term, index } = found.log_id;
                        assert_eq!(*found, entry(term, index, 700));
                        assert_eq!(index, read[0].log_id.index + at as u64);
                    }
                }
            });
        }
        for term in 0..300 {
            let next = log.state().last.map_or(0, |last| last.index + 1);
            log.append(entries(term, next, 5, 700), Box::new(|| ()));
            if term % 3 == 0 {
                log.truncate_after(Some(id(term, next + 2)), Box::new(|| ()));
            }
            if term % 10 == 9 {
                let upto = next - 20;
                log.purge(id(log.term_of(upto).unwrap(), upto), Box::new(|| ()));
            }
            while log.durable_index().is_none_or(|index| index < next) {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What the writer would take now.
fn take_batch(shared: &Shared) -> Batch {
    match shared.poll_batch(Waker::noop()) {
        Poll::Ready(Some(batch)) => batch,
        _ => panic!("there is nothing to take"),
    }
}

/// Goal: an entry counts as durable only if it is the one on disk. Method: the writer's part played
/// by hand, with a truncation and new entries queued while the old ones are being written.
#[test]
fn what_was_truncated_meanwhile_is_not_durable() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let recovered =
        recovery::recover(&*Machine::system().files, &dir.path().join(super::DIR), IDENTITY).unwrap();
    let mut on_disk = recovered.view.clone();
    let shared = Shared::new(recovered, &options());
    let mut write = |count: u64, term| {
        let batch = take_batch(&shared);
        let from = on_disk.next_index();
        (from..from + count).for_each(|index| on_disk.append(id(term, index)).unwrap());
        (batch, on_disk.clone())
    };
    let complete = |(batch, on_disk): (Batch, View)| shared.complete(&batch, &Written::default(), &on_disk);

    shared.append(entries(1, 0, 10, 10), Box::new(|| ())).unwrap();
    let first = write(10, 1);
    shared.truncate_after(Some(id(1, 5)), Box::new(|| ())).unwrap();
    shared.append(entries(2, 6, 2, 10), Box::new(|| ())).unwrap();
    complete(first);
    assert_eq!((shared.state().durable, shared.durable_next()), (Some(id(1, 5)), 6));
    assert_eq!(shared.state().last, Some(id(2, 7)));

    let batch = take_batch(&shared);
    on_disk.truncate_after(Some(id(1, 5))).unwrap();
    (6..8).for_each(|index| on_disk.append(id(2, index)).unwrap());
    complete((batch, on_disk));
    assert_eq!((shared.state().durable, shared.durable_next()), (Some(id(2, 7)), 8));
}

/// Goal: a full queue holds up nobody's thread: an append goes through at once, and whoever asks for room
/// is woken when the writer has taken something. Method: a queue without a writer, looked at by hand.
#[test]
fn a_full_queue_makes_nobody_wait_but_who_asks_for_room() {
    let recovered = recovery::Recovered::default();
    let shared = Arc::new(Shared::new(recovered, &options()));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    assert_eq!((shared.pending(), shared.poll_room(&mut context)), (None, Poll::Ready(())));

    shared.append(entries(1, 0, 20, 1000), Box::new(|| ())).unwrap();
    assert!(shared.poll_room(&mut context).is_pending() && shared.poll_room(&mut context).is_pending());
    shared.append(entries(1, 20, 20, 1000), Box::new(|| ())).unwrap();
    assert_eq!((shared.pending(), woken.0.load(Ordering::SeqCst)), (Some(0), 0));

    // Both fit into one frame; they are pending until that is complete.
    let batch = take_batch(&shared);
    assert_eq!((woken.0.load(Ordering::SeqCst), shared.poll_room(&mut context)), (1, Poll::Ready(())));
    assert_eq!((batch.ops.len(), shared.pending()), (2, Some(0)));
    let mut on_disk = View::default();
    (0..40).for_each(|index| on_disk.append(id(1, index)).unwrap());
    shared.complete(&batch, &Written::default(), &on_disk);
    assert_eq!(shared.pending(), None);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
