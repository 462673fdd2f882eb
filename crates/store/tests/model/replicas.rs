//! Goal: what a log does depends on the log and the state alone. Method: one random log, with small
//! limits, on three stores: one applies each entry by itself and writes a batch for each command; one has
//! runs of random length, and a disk that is full now and then; the third besides writes batches of a random size, and crashes within runs,
//! between two commands of an entry, and so that all since its last flush is lost. All outcomes, events,
//! hashes and figures must be the same, and the model's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kvorum_store::command::{Command, DueKey, Kind, Outcome, RaiseFeatureLevel};
use kvorum_store::entry::{Batch, Entry, LogId, Payload, encode_batch_of_level};
use kvorum_store::{Applying, Attempt, Limits, Machine, RevisionEvents, Store, StoreOptions, verify_state};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::full_disk::FullNowAndThen;
use crate::history::{Draft, batch, limits, work};
use crate::model::Model;
use crate::{config, copy_at_rest, temp_dir, without_duplicate_key};

const CASES: u32 = 60;

/// What the third store goes through, run by run.
#[derive(Debug, Clone, Copy)]
enum Incident {
    None,
    Flush,
    /// It stops before a command of the run's last entry, and keeps what it has written by then. On
    /// other levels nothing stops it there, and it loses what it has not flushed.
    Stop(usize),
    /// It loses what it has not flushed.
    Lose,
}

fn runs() -> impl Strategy<Value = Vec<(usize, Incident)>> {
    let incident = prop_oneof![
        4 => Just(Incident::None),
        1 => Just(Incident::Flush),
        3 => (0..6_usize).prop_map(Incident::Stop),
        1 => Just(Incident::Lose),
    ];
    vec((1..8_usize, incident), 40)
}

#[test]
fn replicas_do_the_same() {
    let full = any::<u64>().prop_filter("it has room at times", |pattern| *pattern != u64::MAX);
    let inputs = (1..4_u32, vec(batch(), 1..40), limits(), runs(), runs(), work(), work(), full);
    proptest!(config(CASES), |((level, batches, limits, b_runs, c_runs, b_work, c_work, full) in inputs)| {
        let dir = temp_dir();
        let (log, model, outcomes) = make_log(level, &batches, limits);
        let quiet = |(run, _)| (run, Incident::None);
        let single = Limits { batch_bytes_max: 1, ..limits };
        let whole = Machine::system();
        let a = Replica::new(dir.path().join("a/0"), level, single, whole.clone());
        let a = replay(a, &dir.path().join("a"), &log, &[(1, Incident::None)])?;
        let b_runs: Vec<_> = b_runs.into_iter().map(quiet).collect();
        let b_limits = with_work(limits, b_work);
        let b = Replica::new(dir.path().join("b/0"), level, b_limits, FullNowAndThen::machine(full));
        let b = replay(b, &dir.path().join("b"), &log, &b_runs)?;
        let c = Replica::new(dir.path().join("c/0"), level, with_work(limits, c_work), whole);
        let c = replay(c, &dir.path().join("c"), &log, &c_runs)?;
        prop_assert_eq!(&a.events, &model.events);
        prop_assert_eq!(&b.events, &a.events);
        for (number, expected) in outcomes.iter().enumerate() {
            let plain: Vec<_> = a.outcomes[&number].iter().map(without_duplicate_key).collect();
            prop_assert_eq!(&plain, expected);
            prop_assert_eq!(&b.outcomes[&number], &a.outcomes[&number]);
            if let Some(heard) = c.outcomes.get(&number) {
                let skipped = c.unheard.get(&number).map_or(0, |at| heard.len().min(*at));
                prop_assert_eq!(&heard[skipped..], &a.outcomes[&number][skipped..]);
            }
        }
        for (revision, events) in &c.events {
            prop_assert_eq!(Some(events), a.events.get(revision));
        }
        let expected = Seen::of(&a.store);
        prop_assert_eq!((expected.revision, expected.logical_bytes), (model.revision(), model.logical_bytes));
        prop_assert_eq!(&Seen::of(&b.store), &expected);
        prop_assert_eq!(&Seen::of(&c.store), &expected);
        for Replica { dir, store, .. } in [a, b, c] {
            drop(store);
            prop_assert_eq!(verify_state(&dir).unwrap(), vec![]);
        }
    });
}

/// The limits that make an outcome from one, those of the work from the other.
fn with_work(limits: Limits, work: Limits) -> Limits {
    let Limits { batch_bytes_max, held_bytes_max, recent_bytes_max, recent_value_bytes_max, .. } = work;
    Limits { batch_bytes_max, held_bytes_max, recent_bytes_max, recent_value_bytes_max, ..limits }
}

fn make_log(
    level: u32,
    batches: &[(i64, Vec<Draft>)],
    limits: Limits,
) -> (Vec<Entry>, Model, Vec<Vec<Outcome>>) {
    let mut model = Model::new(limits);
    let (mut log, mut outcomes, mut stamp_ms) = (Vec::new(), Vec::new(), 1000_u64);
    if level > 1 {
        let raise = Kind::RaiseFeatureLevel(RaiseFeatureLevel { level, release: String::new() });
        outcomes.push(model.batch(stamp_ms, std::slice::from_ref(&raise)));
        let command = Command::from(raise).encoded();
        let payload = encode_batch_of_level(level, stamp_ms, [command].iter());
        log.push(Entry { log_id: LogId { term: 1, index: 0 }, payload });
    }
    for (index, (ms, drafts)) in (log.len() as u64..).zip(batches) {
        stamp_ms = stamp_ms.saturating_add_signed(*ms);
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        for draft in drafts {
            let kind = draft.command(&model);
            answers.extend(model.batch(stamp_ms, std::slice::from_ref(&kind)));
            commands.push(Command::from(kind).encoded());
        }
        let payload = encode_batch_of_level(level, stamp_ms, commands.iter());
        log.push(Entry { log_id: LogId { term: 1, index }, payload });
        outcomes.push(answers);
    }
    (log, model, outcomes)
}

/// A store that has applied all of a log, and what it said.
struct Replica {
    dir: PathBuf,
    level: u32,
    limits: Limits,
    machine: Machine,
    store: Store,
    outcomes: BTreeMap<usize, Vec<Outcome>>,
    /// How many of an entry's commands may have been applied before a crash: what became of them then
    /// nobody has heard.
    unheard: BTreeMap<usize, usize>,
    events: BTreeMap<u64, RevisionEvents>,
}

/// Applies the log in runs of these lengths, over and over.
fn replay(
    mut replica: Replica,
    root: &Path,
    log: &[Entry],
    runs: &[(usize, Incident)],
) -> Result<Replica, TestCaseError> {
    let level = replica.level;
    let mut rounds = 0;
    let mut runs = runs.iter().cycle();
    while replica.applied() < log.len() {
        // Crashes must come to an end.
        rounds += 1;
        let (run, incident) = runs.next().copied().unwrap();
        let incident = if rounds > 2 * log.len() { Incident::None } else { incident };
        let from = replica.applied();
        let end = log.len().min(from + run);
        match incident {
            Incident::None => replica.apply(&log[from..end])?,
            Incident::Flush => {
                replica.apply(&log[from..end])?;
                replica.store.flush().unwrap();
            }
            Incident::Stop(at) if level == 1 => replica.stop(&log[from..end], at)?,
            Incident::Stop(_) | Incident::Lose => {
                replica.apply(&log[from..end])?;
                replica.lose(root.join(rounds.to_string()));
            }
        }
    }
    Ok(replica)
}

impl Replica {
    fn new(dir: PathBuf, level: u32, limits: Limits, machine: Machine) -> Replica {
        let store = open(&dir, level, limits, &machine);
        let (outcomes, unheard, events) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Replica { dir, level, limits, machine, store, outcomes, unheard, events }
    }

    /// How many entries are applied.
    fn applied(&self) -> usize {
        self.store.applied().map_or(0, |id| id.index as usize + 1)
    }

    fn apply(&mut self, run: &[Entry]) -> TestCaseResult {
        let from = self.applied();
        let mut applying = Applying::default();
        let done = loop {
            if let Attempt::Done(done) = self.store.try_apply(run, &mut applying).unwrap() {
                break done;
            }
        };
        prop_assert_eq!(self.applied(), from + run.len());
        self.outcomes.extend((from..).zip(done.outcomes));
        prop_assert!(done.events.is_sorted_by(|a, b| a.revision < b.revision), "each is told once, in order");
        for events in done.events {
            // Revisions that a crash took are made again, and must be what they were.
            let before = self.events.insert(events.revision, (*events).clone());
            prop_assert!(before.is_none_or(|before| before == *events));
        }
        Ok(())
    }

    /// Applies a run up to a command of its last entry, and starts anew from what it has written by then.
    fn stop(&mut self, run: &[Entry], at: usize) -> TestCaseResult {
        let from = self.applied();
        let mut cut = run.to_vec();
        let last = cut.last_mut().unwrap();
        stop_before(last, at);
        let last = last.log_id.index as usize;
        self.store.apply(&cut).unwrap_err();
        self.reopen(self.dir.clone());
        prop_assert!((from..from + run.len()).contains(&self.applied()));
        // What was written last may have ended inside any entry.
        let at = if self.applied() == last { at } else { usize::MAX };
        let unheard = self.unheard.entry(self.applied()).or_default();
        *unheard = at.max(*unheard);
        Ok(())
    }

    /// Goes on with what is flushed.
    fn lose(&mut self, dir: PathBuf) {
        let state = self.dir.join("state-1");
        let copy = dir.join("state-1");
        fs::create_dir_all(&copy).unwrap();
        copy_at_rest(&state, &copy);
        self.reopen(dir);
    }

    fn reopen(&mut self, dir: PathBuf) {
        // The old one is closed first: RocksDB locks its directory.
        self.store = open(&self.dir.join("placeholder"), self.level, self.limits, &self.machine);
        self.store = open(&dir, self.level, self.limits, &self.machine);
        self.dir = dir;
    }
}

/// Has the entry end before a command, with one that this store stops at.
fn stop_before(entry: &mut Entry, at: usize) {
    let Ok(Payload::Batch(Batch { stamp_ms, mut commands, .. })) = Payload::decode(entry.payload.clone())
    else {
        unreachable!("the log has batches alone")
    };
    commands.truncate(at);
    let raise = RaiseFeatureLevel { level: 2, release: String::new() };
    commands.push(Command::from(Kind::RaiseFeatureLevel(raise)).encoded());
    entry.payload = encode_batch_of_level(2, stamp_ms, commands.iter());
}

/// It knows no level above the log's: on level 1 an entry that raises it can stop the store.
fn open(dir: &Path, level: u32, limits: Limits, machine: &Machine) -> Store {
    fs::create_dir_all(dir).unwrap();
    let options = StoreOptions {
        cache_bytes: 8 << 20,
        feature_level_max: level,
        limits,
        machine: machine.clone(),
        ..Default::default()
    };
    Store::open(dir, options).unwrap()
}

/// All that can be seen of a store.
#[derive(Debug, PartialEq)]
struct Seen {
    applied: Option<LogId>,
    revision: u64,
    compacted: u64,
    compaction_backlog: bool,
    cluster_time_ms: u64,
    keys: u64,
    has_deadlines: bool,
    due: Vec<DueKey>,
    logical_bytes: u64,
    quota_bytes: u64,
    space_alarms: Vec<u64>,
    corrupt_alarms: Vec<u64>,
    auth: (u64, u64),
    /// By revision.
    hashes: Vec<u64>,
}

impl Seen {
    fn of(store: &Store) -> Seen {
        let oldest = store.compacted().max(1);
        Seen {
            applied: store.applied(),
            revision: store.revision(),
            compacted: store.compacted(),
            compaction_backlog: store.compaction_backlog(),
            cluster_time_ms: store.cluster_time_ms(),
            keys: store.keys(),
            has_deadlines: store.has_deadlines(),
            due: store.due(u64::MAX, usize::MAX).unwrap(),
            logical_bytes: store.logical_bytes(),
            quota_bytes: store.quota_bytes(),
            space_alarms: store.space_alarms(),
            corrupt_alarms: store.corrupt_alarms(),
            auth: (store.auth().revision(), store.auth().hash()),
            hashes: (oldest..=store.revision()).map(|at| store.hash(at).unwrap()).collect(),
        }
    }
}
