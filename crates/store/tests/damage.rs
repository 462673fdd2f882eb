//! Goal: a store whose files were damaged says so, naming the file, or answers right; it never
//! answers wrong. Method: bytes are flipped at random places of every kind of file, hundreds of
//! times; each time the store is opened and everything is read in every way there is.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/changes.rs"]
mod changes;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use changes::{Changes, changes};
use kvorum_store::command::{Command, KeyRange, Kind, Op, OpKind, Put, Record, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{OpenError, ReadError, Scan, Store, StoreError, StoreOptions, verify_state};

const REVISIONS: u64 = 600;
const FLIPS: usize = 600;

/// All that can be read of a store.
#[derive(Debug, PartialEq)]
struct Answers {
    revision: u64,
    applied: Option<LogId>,
    hashes: Vec<u64>,
    records: Vec<Option<Record>>,
    scans: Vec<Vec<Record>>,
    changes: Vec<Changes>,
}

#[test]
fn damaged_files_are_named_and_never_believed() {
    let dir = temp_dir();
    let sound = dir.path().join("sound");
    make(&sound);
    let expected = read_all(&sound).unwrap();
    let files = state_files(&sound);
    assert!(files.iter().any(|file| file.ends_with("CURRENT")) && files.len() > 5, "{files:?}");

    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let (mut refused, mut answered) = (0, 0);
    for flip in 0..FLIPS {
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let file = &files[flip % files.len()];
        let damaged = dir.path().join("damaged");
        copy(&sound, &damaged);
        let path = damaged.join(file);
        let mut content = fs::read(&path).unwrap();
        let at = random(content.len() as u64) as usize;
        content[at] ^= 1 << random(8);
        fs::write(&path, &content).unwrap();

        let what = format!("byte {at} of {}", file.display());
        match read_all(&damaged) {
            Ok(answers) => {
                assert!(answers == expected, "wrong answers after {what} was flipped");
                answered += 1;
            }
            Err(error) => {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(error.to_string().contains(&name), "{what}: {error}");
                assert!(is_damage(&error), "{what}: {error:?}");
                refused += 1;
                let findings = verify_state(&damaged).unwrap();
                let names = |finding: &kvorum_store::Finding| finding.to_string().contains(&name);
                // RocksDB looks up without a filter that it cannot read. Only an iterator that opens the table
                // reads all its filters first and fails, and which tables are open already is chance.
                let of_filter = error.to_string().contains("block_type = Filter");
                assert!(
                    of_filter || findings.iter().any(names),
                    "{what} gave {error}, but verify found {findings:?}"
                );
            }
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{FLIPS} flips: {refused} refused by name, {answered} without effect");
    assert!(refused > FLIPS / 3, "only {refused} of {FLIPS} were noticed");
}

fn is_damage(error: &ReadError) -> bool {
    matches!(error, ReadError::Store(StoreError::Damage { .. }))
}

/// A store with some of everything, in several table files.
fn make(dir: &Path) {
    let store = open(dir).unwrap();
    for index in 0..REVISIONS {
        let key = Bytes::from(format!("key-{:03}", index % 200));
        let kind = match index % 13 {
            12 => OpKind::Delete(KeyRange::key(key)),
            _ => {
                let value = Bytes::from(format!("value {index} ").repeat(10));
                OpKind::Put(Put { key, value, ttl_ms: (index % 5) * 1000 })
            }
        };
        let write = Write { ops: vec![Op { kind: Some(kind) }], ..Write::default() };
        let command = Command::from(Kind::Write(write)).encoded();
        let payload = encode_batch(index, [command].iter());
        store.apply(&[Entry { log_id: LogId { term: 1, index }, payload }]).unwrap();
        if index % 250 == 249 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
}

/// In memory where there is such a file system: most of the time would go into syncing files.
fn temp_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(dir: &Path) -> Result<Store, OpenError> {
    fs::create_dir_all(dir).unwrap();
    Store::open(dir, StoreOptions { cache_bytes: 8 << 20, ..StoreOptions::default() })
}

fn read_all(dir: &Path) -> Result<Answers, ReadError> {
    let store = open(dir).map_err(|error| match error {
        OpenError::Store(error) => ReadError::Store(error),
        error => panic!("{error}"),
    })?;
    let mut answers = Answers {
        revision: store.revision(),
        applied: store.applied(),
        hashes: Vec::new(),
        records: Vec::new(),
        scans: Vec::new(),
        changes: Vec::new(),
    };
    let revisions = [REVISIONS / 3, REVISIONS / 2, 0];
    let all = KeyRange::prefix(Bytes::new());
    for revision in revisions {
        answers.hashes.push(store.hash(revision)?);
        for number in 0..200 {
            answers.records.push(store.get(format!("key-{number:03}").as_bytes(), revision)?.record);
        }
        let scan = Scan {
            range: all.clone(),
            revision,
            reverse: true,
            keys_max: 1000,
            bytes_max: 1 << 20,
            ..Scan::default()
        };
        answers.scans.push(store.scan_page(&scan)?.records);
    }
    answers.changes.push(changes(&store, 1, &all, true, 1 << 30)?);
    Ok(answers)
}

fn state_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("state-1"))
        .unwrap()
        .map(|item| Path::new("state-1").join(item.unwrap().file_name()))
        .filter(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            name.ends_with(".sst") || name.starts_with("MANIFEST") || name == "CURRENT"
        })
        .collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("state-1")).unwrap();
    for item in fs::read_dir(from.join("state-1")).unwrap() {
        let path = item.unwrap().path();
        fs::copy(&path, to.join("state-1").join(path.file_name().unwrap())).unwrap();
    }
}
