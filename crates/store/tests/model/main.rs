//! Goal: the store does what its data model says, whatever happens to it. Method: random histories
//! of commands, restarts, crashes and snapshots run against a plain model in memory; every outcome
//! and event is compared, then reads of every key at every revision, scans both ways in small pages,
//! changes from every revision. A second store applies the same entries one by one without any
//! incident and must come to the same hash.
//!
//! `PROPTEST_CASES` says how many histories.

#![allow(clippy::unwrap_used)]

#[path = "../support/changes.rs"]
mod changes;
#[path = "../support/full_disk.rs"]
mod full_disk;
mod history;
mod model;
mod replicas;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use changes::changes;
use history::{Step, history, limits, range};
use kvorum_store::command::{Answer, Command, KeyRange, Kind, Outcome, RaiseFeatureLevel, Reason, Record};
use kvorum_store::entry::{Entry, LogId, encode_batch_of_level, encode_blank, encode_membership};
use kvorum_store::{
    Limits, ReadError, Received, RevisionEvents, Scan, Slice, SnapshotReceiver, SnapshotSender, Store,
    StoreOptions, verify_state,
};
use model::Model;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

const CASES: u32 = 300;

#[test]
fn the_store_does_what_the_model_does() {
    proptest!(config(CASES), |(steps in history(), limits in limits(), ranges in prop::collection::vec(range(), 3))| {
        let dir = temp_dir();
        let mut run = Run::new(dir.path(), limits);
        for step in &steps {
            run.step(step)?;
        }
        run.apply(3)?;
        run.check(&ranges)?;
        run.compare_with_uneventful(&dir.path().join("uneventful"))?;
        run.close_and_verify()?;
    });
}

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A store, the model, and what both have been told.
struct Run {
    limits: Limits,
    root: PathBuf,
    /// Data directories so far: a crash or a snapshot begins another.
    dirs: usize,
    store: Store,
    model: Model,
    log: Vec<Entry>,
    /// What the model says about each entry.
    outcomes: Vec<Vec<Outcome>>,
    /// Entries that the store has applied.
    applied: usize,
    membership: Option<(LogId, Bytes)>,
    stamp_ms: u64,
}

/// In memory where there is such a file system: most of the time would go into syncing files.
fn temp_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(dir: &Path, limits: Limits) -> Store {
    fs::create_dir_all(dir).unwrap();
    Store::open(dir, StoreOptions { cache_bytes: 8 << 20, limits, ..StoreOptions::default() }).unwrap()
}

impl Run {
    fn new(root: &Path, limits: Limits) -> Self {
        Run {
            limits,
            root: root.to_owned(),
            dirs: 1,
            store: open(&root.join("0"), limits),
            model: Model::new(limits),
            log: Vec::new(),
            outcomes: Vec::new(),
            applied: 0,
            membership: None,
            stamp_ms: 1000,
        }
    }

    fn dir(&self) -> PathBuf {
        self.root.join((self.dirs - 1).to_string())
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Batch(ms, drafts) => {
                self.stamp_ms = self.stamp_ms.saturating_add_signed(*ms);
                let mut commands: Vec<Kind> = Vec::new();
                let mut outcomes = Vec::new();
                for draft in drafts {
                    let command = draft.command(&self.model);
                    outcomes.extend(self.model.batch(self.stamp_ms, std::slice::from_ref(&command)));
                    commands.push(command);
                }
                let encoded: Vec<Bytes> =
                    commands.into_iter().map(|kind| Command::from(kind).encoded()).collect();
                let payload = encode_batch_of_level(self.model.level, self.stamp_ms, encoded.iter());
                self.append(payload, outcomes);
            }
            Step::RaiseLevel(level) => {
                let level = self.model.level.max(*level);
                let raise = Kind::RaiseFeatureLevel(RaiseFeatureLevel { level, release: String::new() });
                let outcomes = self.model.batch(self.stamp_ms, std::slice::from_ref(&raise));
                let command = Command::from(raise).encoded();
                self.append(encode_batch_of_level(level, self.stamp_ms, [command].iter()), outcomes);
            }
            Step::Blank => self.append(encode_blank(), Vec::new()),
            Step::Membership(byte) => {
                self.append(encode_membership(&[*byte]), Vec::new());
                self.membership = self.log.last().map(|e| (e.log_id, Bytes::copy_from_slice(&[*byte])));
            }
            Step::Apply(run_max) => self.apply(*run_max)?,
            Step::Flush => {
                let flushed = self.store.flush().unwrap();
                prop_assert_eq!(flushed, self.store.applied());
            }
            Step::Restart => {
                self.apply(2)?;
                self.restart(self.dir());
            }
            Step::Crash => self.crash()?,
            Step::Snapshot => self.snapshot()?,
        }
        Ok(())
    }

    fn append(&mut self, payload: Bytes, outcomes: Vec<Outcome>) {
        let index = self.log.len() as u64;
        self.log.push(Entry { log_id: LogId { term: 1 + index / 7, index }, payload });
        self.outcomes.push(outcomes);
    }

    /// Applies what the store has not, and compares what becomes of it.
    fn apply(&mut self, run_max: usize) -> TestCaseResult {
        while self.applied < self.log.len() {
            let end = self.log.len().min(self.applied + run_max);
            let before = self.store.revision();
            let run = self.store.apply(&self.log[self.applied..end]).unwrap();
            let expected = &self.outcomes[self.applied..end];
            prop_assert_eq!(run.outcomes.len(), expected.len());
            for (outcomes, expected) in run.outcomes.iter().zip(expected) {
                prop_assert_eq!(&outcomes.iter().map(without_duplicate_key).collect::<Vec<_>>(), expected);
            }
            let after = self.store.revision();
            let events: Vec<RevisionEvents> = run.events.iter().map(|events| (**events).clone()).collect();
            let expected: Vec<RevisionEvents> =
                self.model.events.range(before + 1..after + 1).map(|(_, events)| events.clone()).collect();
            prop_assert_eq!(events, expected);
            self.applied = end;
        }
        Ok(())
    }

    fn restart(&mut self, dir: PathBuf) {
        // The old one is closed first: RocksDB locks its directory.
        self.store = open(&self.root.join("placeholder"), self.limits);
        self.store = open(&dir, self.limits);
    }

    /// Goes on with a copy of the files as they are on disk now.
    fn crash(&mut self) -> TestCaseResult {
        let from = fs::read_dir(self.dir()).unwrap().map(|item| item.unwrap().path());
        let from = from.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("state-"));
        let from = from.max().unwrap();
        self.dirs += 1;
        let to = self.dir().join("state-1");
        fs::create_dir_all(&to).unwrap();
        copy_at_rest(&from, &to);
        let flushed = self.store.flushed().unwrap();
        self.store = open(&self.dir(), self.limits);
        prop_assert_eq!(self.store.applied(), flushed);
        self.applied = flushed.map_or(0, |id| id.index as usize + 1);
        Ok(())
    }

    fn snapshot(&mut self) -> TestCaseResult {
        let checkpoint = Arc::new(self.store.checkpoint().unwrap());
        prop_assert_eq!(checkpoint.applied(), self.store.applied());
        prop_assert_eq!(checkpoint.membership().cloned(), self.store.membership());
        self.dirs += 1;
        let other = open(&self.dir(), self.limits);
        let handle = other.clone();
        let mut receiver = Some(SnapshotReceiver::new(&self.dir()).unwrap());
        for chunk in SnapshotSender::new(checkpoint) {
            let before = receiver.take().unwrap();
            match before.chunk(chunk.unwrap()).unwrap() {
                Received::More(more) => receiver = Some(more),
                Received::Whole(whole) => other.install(whole).unwrap(),
            }
        }
        prop_assert_eq!(handle.applied(), self.store.applied());
        prop_assert_eq!(handle.installed(), self.store.applied());
        prop_assert_eq!(handle.hash(0).unwrap(), self.store.hash(0).unwrap());
        self.store = other;
        Ok(())
    }

    fn check(&self, ranges: &[KeyRange]) -> TestCaseResult {
        let (store, model) = (&self.store, &self.model);
        prop_assert_eq!(store.revision(), model.revision());
        prop_assert_eq!(store.compacted(), model.compacted);
        prop_assert_eq!(store.cluster_time_ms(), model.time_ms);
        prop_assert_eq!(store.keys(), model.now().len() as u64);
        prop_assert_eq!(store.logical_bytes(), model.logical_bytes);
        prop_assert_eq!(store.quota_bytes(), model.quota);
        prop_assert_eq!(store.space_alarms(), model.alarms.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(store.corrupt_alarms(), model.corrupt.iter().copied().collect::<Vec<_>>());
        let auth = store.auth();
        prop_assert_eq!(auth.revision(), model.auth_revision);
        prop_assert!(auth.roles().map(|(name, _)| name).eq(&model.roles));
        prop_assert_eq!(store.membership(), self.membership.clone());
        prop_assert_eq!(store.applied(), self.log.last().map(|entry| entry.log_id));
        prop_assert!(store.compaction_backlog() || !model.backlog());
        self.check_due()?;
        for revision in model.compacted.max(1)..=model.revision() {
            self.check_reads(revision, ranges)?;
            for range in ranges {
                self.check_changes(revision, range)?;
            }
        }
        self.check_out_of_range()
    }

    fn check_due(&self) -> TestCaseResult {
        let mut expected: Vec<&Record> =
            self.model.now().values().filter(|record| record.deadline_ms != 0).collect();
        prop_assert_eq!(self.store.has_deadlines(), !expected.is_empty());
        expected.sort_by_key(|record| (record.deadline_ms, record.key.clone()));
        let until = self.model.time_ms + 20;
        expected.retain(|record| record.deadline_ms <= until);
        for max in [1, 3, 100] {
            let due = self.store.due(until, max).unwrap();
            let due: Vec<_> = due.into_iter().map(|due| (due.key, due.mod_revision)).collect();
            let expected = expected.iter().take(max).map(|r| (r.key.clone(), r.mod_revision));
            prop_assert_eq!(due, expected.collect::<Vec<_>>());
        }
        Ok(())
    }

    fn check_reads(&self, revision: u64, ranges: &[KeyRange]) -> TestCaseResult {
        let map = &self.model.maps[revision as usize];
        let all_keys = self.model.events.values().flat_map(|r| r.events.iter().map(|e| &e.record.key));
        for key in all_keys.collect::<std::collections::BTreeSet<_>>() {
            let get = self.store.get(key, revision).unwrap();
            prop_assert_eq!(get.revision, self.model.revision());
            prop_assert_eq!(get.record.as_ref(), map.get(key));
        }
        for (range, keys_max) in ranges.iter().zip(1..) {
            for reverse in [false, true] {
                let mut expected: Vec<Record> =
                    map.values().filter(|record| range.contains(&record.key)).cloned().collect();
                if reverse {
                    expected.reverse();
                }
                let scan = Scan {
                    range: range.clone(),
                    revision,
                    reverse,
                    keys_max,
                    bytes_max: 700,
                    ..Scan::default()
                };
                prop_assert_eq!(scan_all(&self.store, scan), expected);
            }
        }
        Ok(())
    }

    fn check_changes(&self, from: u64, range: &KeyRange) -> TestCaseResult {
        for previous in [false, true] {
            let mut expected: Vec<RevisionEvents> = Vec::new();
            for (revision, all) in self.model.events.range(from..) {
                let mut events: Vec<_> =
                    all.events.iter().filter(|event| range.contains(&event.record.key)).cloned().collect();
                if !previous || *revision == self.model.compacted {
                    events.iter_mut().for_each(|event| event.previous = None);
                }
                if !events.is_empty() {
                    expected.push(RevisionEvents { revision: *revision, events, is_cut: false });
                }
            }
            let (mut next, mut found) = (from, Vec::new());
            while next <= self.model.revision() {
                let changes = changes(&self.store, next, range, previous, 200).unwrap();
                prop_assert!(changes.next > next);
                found.extend(changes.events.iter().map(|events| (**events).clone()));
                next = changes.next;
            }
            prop_assert_eq!(next, self.model.revision() + 1);
            prop_assert_eq!(found, expected);
        }
        Ok(())
    }

    fn check_out_of_range(&self) -> TestCaseResult {
        let all = KeyRange::prefix(Bytes::new());
        let (current, compacted) = (self.model.revision(), self.model.compacted);
        let future = self.store.get(b"a", current + 1);
        let is_future = matches!(future, Err(ReadError::Future { current: at, .. }) if at == current);
        prop_assert!(is_future);
        prop_assert_eq!(changes(&self.store, current + 1, &all, true, 1).unwrap().next, current + 1);
        let is_compacted =
            |past| matches!(past, Err(ReadError::Compacted { compacted: at, .. }) if at == compacted);
        if compacted > 1 {
            let past = self.store.get(b"a", compacted - 1).map(|_| ());
            prop_assert!(is_compacted(past));
            let past = changes(&self.store, compacted - 1, &all, false, 1).map(|_| ());
            prop_assert!(is_compacted(past));
        }
        Ok(())
    }

    fn compare_with_uneventful(&self, dir: &Path) -> TestCaseResult {
        // Its work is cut up differently, which must not be seen.
        let Limits { batch_bytes_max, held_bytes_max, recent_bytes_max, recent_value_bytes_max, .. } =
            Limits::default();
        let limits = Limits {
            batch_bytes_max,
            held_bytes_max,
            recent_bytes_max,
            recent_value_bytes_max,
            ..self.limits
        };
        let other = open(dir, limits);
        for entry in &self.log {
            other.apply(std::slice::from_ref(entry)).unwrap();
        }
        for revision in self.model.compacted.max(1)..=self.model.revision() {
            prop_assert_eq!(other.hash(revision).unwrap(), self.store.hash(revision).unwrap());
            self.compare_slices(&other, revision)?;
        }
        prop_assert_eq!(other.logical_bytes(), self.store.logical_bytes());
        Ok(())
    }

    /// Slice by slice, as this store cuts them.
    fn compare_slices(&self, other: &Store, revision: u64) -> TestCaseResult {
        let (mut after, mut keys) = (None, 0);
        loop {
            let own = Slice { revision, after, through: None, keys_max: 2, bytes_max: 300 };
            let found = self.store.digest(&own).unwrap();
            let (keys_max, bytes_max) = (usize::MAX, usize::MAX);
            let same = Slice { through: found.next.clone(), keys_max, bytes_max, ..own };
            let there = other.digest(&same).unwrap();
            prop_assert_eq!((there.hash, there.keys, &there.next), (found.hash, found.keys, &None));
            keys += found.keys;
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(keys, self.model.maps[revision as usize].len() as u64);
        Ok(())
    }

    fn close_and_verify(self) -> TestCaseResult {
        let dir = self.dir();
        drop(self.store);
        prop_assert_eq!(verify_state(&dir).unwrap(), vec![]);
        Ok(())
    }
}

fn without_duplicate_key(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let Some(Answer::Refused(refused)) = &mut outcome.answer
        && refused.reason == Reason::DuplicateKey as i32
    {
        assert!(!refused.key.is_empty());
        refused.key.clear();
    }
    outcome
}

fn scan_all(store: &Store, mut scan: Scan) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let page = store.scan_page(&scan).unwrap();
        assert_eq!(page.revision, scan.revision);
        assert!(page.records.len() <= scan.keys_max);
        records.extend(page.records);
        scan.after = page.next;
        if scan.after.is_none() {
            return records;
        }
    }
}

/// Copies a directory that RocksDB may be compacting in: again, until nothing changed meanwhile.
fn copy_at_rest(from: &Path, to: &Path) {
    let list = || {
        let mut files: Vec<(PathBuf, u64)> = fs::read_dir(from)
            .unwrap()
            .filter_map(|item| item.ok().and_then(|item| Some((item.path(), item.metadata().ok()?.len()))))
            .collect();
        files.sort();
        files
    };
    loop {
        let before = list();
        fs::remove_dir_all(to).unwrap();
        fs::create_dir(to).unwrap();
        let copied =
            before.iter().all(|(path, _)| fs::copy(path, to.join(path.file_name().unwrap())).is_ok());
        if copied && list() == before {
            return;
        }
    }
}
