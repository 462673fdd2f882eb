//! Goal: log, data directory and ballast reach disk and threads by the [`Machine`] that they are given, and by
//! nothing else; and what the log acknowledges outlasts the power, whenever it goes.
//!
//! Method: a disk in memory at a path that no real disk has, and workers that take a step when a test says so.
//! Hundreds of lives of a log, each cut short between any two steps, with what was not synced lost or torn.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod by_hand;
mod memory;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvorum_store::data_dir::{DataDir, DataDirError};
use kvorum_store::entry::{Entry, LogId};
use kvorum_store::log::{Done, Log, LogOptions, Vote};
use kvorum_store::space::{Space, SpaceOptions};
use kvorum_store::threads::Next;
use kvorum_store::{Limits, Machine, fatal};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::by_hand::ByHand;
use self::memory::Memory;

/// A place that is on no real disk.
const DIR: &str = "/kvorum-test-no-such-directory/data";
const NODE_ID: u64 = 0x1dea;
/// The writer is started after the worker beside it.
const WRITER: usize = 1;
const DISK_BYTES: u64 = 1 << 20;

fn machine(disk: &Arc<Memory>, hand: &Arc<ByHand>) -> Machine {
    Machine { files: disk.clone(), threads: hand.clone() }
}

fn options(machine: Machine) -> LogOptions {
    let limits = Limits { frame_bytes_max: 2000, ..Limits::default() };
    LogOptions { segment_bytes: 8192, cache_bytes: 1000, machine, limits, ..LogOptions::default() }
}

fn open(disk: &Arc<Memory>, hand: &Arc<ByHand>) -> Log {
    Log::open(Path::new(DIR), NODE_ID, options(machine(disk, hand))).unwrap()
}

fn made(sync_takes: Duration) -> (Arc<Memory>, Arc<ByHand>) {
    let (disk, hand) = (Memory::new(DISK_BYTES, sync_takes), ByHand::new());
    let data_dir = DataDir::open_on(&machine(&disk, &hand), Path::new(DIR)).unwrap();
    data_dir.create_identity(NODE_ID).unwrap();
    (disk, hand)
}

fn entry(index: u64) -> Entry {
    let bytes = 1 + (index * 37 % 700) as usize;
    let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + index * 7 + 1) as u8).collect();
    Entry { log_id: LogId { term: 1, index }, payload: payload.into() }
}

fn vote(term: u64) -> Vote {
    Vote { term, node_id: 7, committed: false }
}

/// Goal: nothing goes past the machine. Method: the life of a data directory that no real disk has.
#[test]
fn a_machine_is_all_that_log_and_data_directory_need() {
    let (disk, hand) = made(Duration::ZERO);
    let machine = machine(&disk, &hand);
    let data_dir = DataDir::open_on(&machine, Path::new(DIR)).unwrap();
    let second = DataDir::open_on(&machine, Path::new(DIR));
    assert!(matches!(second, Err(DataDirError::Locked { .. })), "{second:?}");
    assert_eq!(data_dir.identity().unwrap().node_id, NODE_ID);

    let space = SpaceOptions { reserve_bytes: 1, ballast_bytes: 4096 };
    let space = Space::open_on(&machine, Path::new(DIR), space).unwrap();
    let free_bytes = space.check(|_| 0).unwrap().free_bytes;
    assert_eq!(space.check(|_| 0).unwrap().free_bytes, free_bytes - 4096, "the ballast is there");

    let log = open(&disk, &hand);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let done = || {
        let acknowledged = acknowledged.clone();
        Box::new(move || _ = acknowledged.fetch_add(1, Ordering::Relaxed)) as Done
    };
    for index in 0..100 {
        log.append(vec![entry(index)], done());
        hand.settle();
    }
    log.save_vote(vote(3), done());
    log.purge(LogId { term: 1, index: 49 }, done());
    hand.settle();
    assert_eq!(acknowledged.load(Ordering::Relaxed), 102);
    assert!(log.read_cached(50..100, usize::MAX).is_none(), "the cache is smaller than that");
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), (50..100).map(entry).collect::<Vec<_>>());
    drop(log);
    let log = open(&disk, &hand);
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), (50..100).map(entry).collect::<Vec<_>>());
    assert_eq!(log.state().vote, Some(vote(3)));
    assert!(!Path::new(DIR).parent().unwrap().exists());
}

/// Goal: nothing is acknowledged before the time that a sync takes has passed. Method: a disk that says so,
/// step by step.
#[test]
fn a_sync_takes_the_time_that_the_disk_says() {
    let takes = Duration::from_millis(7);
    let (disk, hand) = made(takes);
    let log = open(&disk, &hand);
    hand.settle();
    log.append(vec![entry(0)], Box::new(|| ()));
    let mut context = Context::from_waker(Waker::noop());
    let mut durable = std::pin::pin!(log.durable(0));
    assert_eq!(hand.step(WRITER), Some(Next::After(takes)));
    assert_eq!((log.durable_index(), durable.as_mut().poll(&mut context)), (None, Poll::Pending));
    assert_eq!(hand.step(WRITER), Some(Next::Again));
    assert_eq!((log.durable_index(), durable.as_mut().poll(&mut context)), (Some(0), Poll::Ready(())));
}

/// Goal: on a full disk the log waits, and goes on by itself when there is room. Method: a disk that is enlarged.
#[test]
fn a_full_disk_makes_the_log_wait() {
    let (disk, hand) = made(Duration::ZERO);
    let log = open(&disk, &hand);
    disk.set_total_bytes(0);
    (0..100).for_each(|index| log.append(vec![entry(index)], Box::new(|| ())));
    // A worker that waits for room has always a next step: so many of them, not as many as are due.
    for _ in 0..200 {
        hand.workers().iter().enumerate().for_each(|(number, _)| _ = hand.step(number));
    }
    let pending = log.pending().unwrap();
    assert!(pending.for_room && log.durable_index().is_some_and(|index| index < 99), "{pending:?}");
    disk.set_total_bytes(DISK_BYTES);
    hand.settle();
    assert_eq!((log.pending(), log.durable_index()), (None, Some(99)));
}

/// Goal: a sync that fails ends the node, and acknowledges nothing. Method: a broken disk, and an end that this
/// process outlives.
#[test]
fn a_failed_sync_ends_the_node() {
    assert!(fatal::end_by(|why| std::panic::panic_any(why.to_owned())), "it is set once");
    assert!(!fatal::end_by(|_| std::process::abort()));
    let (disk, hand) = made(Duration::ZERO);
    let log = open(&disk, &hand);
    hand.settle();
    let acknowledged = Arc::new(Mutex::new(false));
    let seen = acknowledged.clone();
    log.append(vec![entry(0)], Box::new(move || *seen.lock().unwrap() = true));
    disk.fail();
    let ended = catch_unwind(AssertUnwindSafe(|| hand.settle())).unwrap_err();
    let why = ended.downcast_ref::<String>().unwrap();
    assert!(why.contains("cannot write log segment") && why.contains("the disk is broken"), "{why}");
    assert!(!*acknowledged.lock().unwrap() && log.durable_index().is_none());
    // What was in the midst of its step cannot be stepped, nor joined, any more.
    std::mem::forget(log);
}

/// What a log has acknowledged, and what it was told.
#[derive(Default)]
struct Told {
    entries: u64,
    term: u64,
    purged: u64,
    acknowledged_entries: Arc<AtomicU64>,
    acknowledged_term: Arc<AtomicU64>,
}

impl Told {
    /// Tells the log random things while its workers take random steps, so many in all.
    fn live(&mut self, log: &Log, hand: &ByHand, random: &mut StdRng, steps: Range<u32>) {
        for _ in 0..random.random_range(steps) {
            if random.random_bool(0.3) {
                self.tell(log, random);
            } else {
                hand.step(random.random_range(0..hand.workers().len()));
            }
        }
    }

    /// Tells the log one thing more.
    fn tell(&mut self, log: &Log, random: &mut StdRng) {
        let raise = |to: &Arc<AtomicU64>, value: u64| -> Done {
            let to = to.clone();
            Box::new(move || _ = to.fetch_max(value, Ordering::Relaxed))
        };
        match random.random_range(0..10) {
            0 => {
                self.term += 1;
                log.save_vote(vote(self.term), raise(&self.acknowledged_term, self.term));
            }
            1 if self.acknowledged_entries.load(Ordering::Relaxed) > self.purged + 40 => {
                self.purged += 20;
                log.purge(LogId { term: 1, index: self.purged - 1 }, Box::new(|| ()));
            }
            _ => {
                let count = random.random_range(1..4);
                let entries = (self.entries..self.entries + count).map(entry).collect();
                self.entries += count;
                log.append(entries, raise(&self.acknowledged_entries, self.entries));
            }
        }
    }
}

/// Goal: what was acknowledged outlasts the power, and the log goes on from there. Method: a log is told random
/// things while its workers take random steps; then the power goes; many times with the same disk.
#[test]
fn what_was_acknowledged_outlasts_the_power() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let sync_takes = Duration::from_micros(seed % 2);
        let (disk, mut hand) = made(sync_takes);
        let mut told = Told::default();
        for life in 0..8 {
            let log = open(&disk, &hand);
            told.live(&log, &hand, &mut random, 0..150);
            hand.kill();
            drop(log);
            disk.lose_power(&mut random);
            hand = ByHand::new();

            let log = open(&disk, &hand);
            let state = log.state();
            let next = state.last.map_or(0, |last| last.index + 1);
            let (entries, term) = (
                told.acknowledged_entries.load(Ordering::Relaxed),
                told.acknowledged_term.load(Ordering::Relaxed),
            );
            let case = format!("seed {seed}, life {life}");
            assert!((entries..=told.entries).contains(&next), "{case}: {next} of {entries} acknowledged");
            let found_term = state.vote.map_or(0, |vote| vote.term);
            assert!((term..=told.term).contains(&found_term), "{case}: term {found_term} after {term}");
            let first = state.purged.map_or(0, |purged| purged.index + 1);
            let read = log.read(0..u64::MAX, usize::MAX).unwrap();
            assert_eq!(read, (first..next).map(entry).collect::<Vec<_>>(), "{case}");
            told.entries = next;
            told.term = found_term;
            told.purged = first.max(told.purged);
            hand.kill();
            drop(log);
            hand = ByHand::new();
        }
    }
}

/// Goal: what a log shows when it is opened outlasts the power, also where the process before was killed between a
/// write and its sync: a member says at once that it holds it. Method: random lives, killed with the machine
/// running on, and a log that is opened and then loses the power.
#[test]
fn what_a_log_opens_with_outlasts_the_power() {
    let mut unsynced = 0;
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (disk, hand) = made(Duration::from_micros(1));
        let mut told = Told::default();
        let log = open(&disk, &hand);
        told.live(&log, &hand, &mut random, 1..80);
        hand.kill();
        drop(log);

        let hand = ByHand::new();
        let log = open(&disk, &hand);
        let shown = log.state();
        let next = shown.last.map_or(0, |last| last.index + 1);
        unsynced += u64::from(next > told.acknowledged_entries.load(Ordering::Relaxed));
        hand.kill();
        drop(log);
        disk.lose_power(&mut random);

        let log = open(&disk, &ByHand::new());
        let state = log.state();
        assert_eq!((state.last, state.vote), (shown.last, shown.vote), "seed {seed}");
        std::mem::forget(log);
    }
    assert!(unsynced > 10, "only {unsynced} of the processes were killed between a write and its sync");
}
