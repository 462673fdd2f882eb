//! Goal: whatever is damaged in the files of a snapshot before they are sent, where the checksums that go
//! with them cannot tell, is noticed before the snapshot can take the place of a state: all that reading
//! every row by itself finds, reading it once and in order finds too.
//!
//! Method: bits are flipped at random places of a checkpoint's table files; it is sent and received, and
//! the same damage is looked for by `verify_state`.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvorum_store::command::{Command, KeyRange, Kind, Op, OpKind, Put, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{
    ReceiveError, Received, SnapshotReceiver, SnapshotSender, Store, StoreOptions, verify_state,
};

/// Enough for several filters in a file.
const KEYS: u64 = 20_000;
const OPS: u64 = 500;
const FLIPS: u64 = 60;

#[test]
fn damage_from_before_the_sending_is_noticed() {
    let dir = temp_dir();
    let (sound, target) = (dir.path().join("sound"), dir.path().join("target"));
    fs::create_dir_all(&target).unwrap();
    let store = make(&sound, KEYS, 16);
    transfer(&store, &target, |_| {}).unwrap();

    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut refused, mut without_effect) = (0, 0);
    for flip in 0..FLIPS {
        let (which, place, bit) = (random(1 << 30), random(1 << 30), random(8));
        let copy = dir.path().join("copy");
        let mut what = String::new();
        let received = transfer(&store, &target, |files| {
            let mut tables: Vec<_> = fs::read_dir(files).unwrap().map(|item| item.unwrap().path()).collect();
            tables.retain(|path| path.extension().is_some_and(|extension| extension == "sst"));
            tables.sort();
            let path = &tables[(which % tables.len() as u64) as usize];
            let mut content = fs::read(path).unwrap();
            // Every other one in the last tenth: indexes and filters are behind the rows.
            let length = content.len() as u64;
            let from = if flip % 2 == 0 { 0 } else { length - length / 10 };
            let at = from + place % (length - from);
            content[at as usize] ^= 1 << bit;
            what = format!("bit {bit} of byte {at} of {} in {}", length, path.display());
            // The file is a link to the store's own.
            fs::remove_file(path).unwrap();
            fs::write(path, content).unwrap();
            fs::create_dir_all(copy.join("state-1")).unwrap();
            for item in fs::read_dir(files).unwrap() {
                let path = item.unwrap().path();
                fs::copy(&path, copy.join("state-1").join(path.file_name().unwrap())).unwrap();
            }
        });
        let findings = verify_state(&copy).unwrap();
        match received {
            Ok(()) => {
                assert!(findings.is_empty(), "{what} was taken, and verify finds {findings:?}");
                without_effect += 1;
            }
            Err(error) => {
                assert!(matches!(error, ReceiveError::Unsound(_)), "{what}: {error:?}");
                refused += 1;
            }
        }
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{what} left something behind");
        fs::remove_dir_all(&copy).unwrap();
    }
    println!("{FLIPS} flips: {refused} refused, {without_effect} without effect");
    assert!(refused > FLIPS * 3 / 4, "only {refused} of {FLIPS} were noticed");
}

/// How fast it is: for figures, with `--ignored --nocapture`.
#[test]
#[ignore = "takes a minute, and means something in a release build only"]
fn rows_per_second() {
    let keys = std::env::var("TRANSFER_KEYS").map_or(300_000, |keys| keys.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::create_dir_all(&target).unwrap();
    let store = make(&dir.path().join("store"), keys, 256);
    let bytes = store.stats().disk_bytes;
    let begun = Instant::now();
    transfer(&store, &target, |_| {}).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{keys} keys of 256 bytes, {} MiB: sent, received and verified in {seconds:.2} s, {:.0} keys/s",
        bytes >> 20,
        keys as f64 / seconds
    );
    let begun = Instant::now();
    assert_eq!(verify_state(&dir.path().join("store")).unwrap(), []);
    let seconds = begun.elapsed().as_secs_f64();
    println!("read with two look-ups a row as well: {seconds:.2} s, {:.0} keys/s", keys as f64 / seconds);
}

/// Sends a checkpoint of the store, after `change` was made to its files, and receives it.
fn transfer(store: &Store, target: &Path, change: impl FnOnce(&Path)) -> Result<(), ReceiveError> {
    let checkpoint = store.checkpoint().unwrap();
    change(checkpoint.path());
    let mut receiver = SnapshotReceiver::new(target).unwrap();
    for chunk in SnapshotSender::new(Arc::new(checkpoint)) {
        match receiver.chunk(chunk.unwrap())? {
            Received::More(more) => receiver = more,
            Received::Whole(_) => return Ok(()),
        }
    }
    panic!("a snapshot has an end");
}

/// A store with keys, some of them deleted again, some with a deadline and some changed, in several files.
fn make(dir: &Path, keys: u64, value_bytes: usize) -> Store {
    fs::create_dir_all(dir).unwrap();
    let store = Store::open(dir, StoreOptions { cache_bytes: 8 << 20, ..StoreOptions::default() }).unwrap();
    let mut index = 0;
    let mut apply = |ops: Vec<Op>| {
        let command = Command::from(Kind::Write(Write { ops, ..Write::default() })).encoded();
        let payload = encode_batch(index, [command].iter());
        store.apply(&[Entry { log_id: LogId { term: 1, index }, payload }]).unwrap();
        index += 1;
    };
    let key = |number: u64| Bytes::from(format!("key-{number:09}"));
    let mut seed = 1_u64;
    for from in (0..keys).step_by(OPS as usize) {
        let put = |number: u64| {
            // Nothing that compression makes small.
            let value: Vec<u8> = (0..value_bytes)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            let ttl_ms = if number.is_multiple_of(7) { 60_000 } else { 0 };
            Op { kind: Some(OpKind::Put(Put { key: key(number), value: value.into(), ttl_ms })) }
        };
        apply((from..keys.min(from + OPS)).map(put).collect());
    }
    store.flush().unwrap();
    for number in (0..keys).step_by(keys as usize / 20) {
        apply(vec![Op { kind: Some(OpKind::Delete(KeyRange::key(key(number)))) }]);
        let put = Put { key: key(number + 1), value: Bytes::from_static(b"changed"), ttl_ms: 0 };
        apply(vec![Op { kind: Some(OpKind::Put(put)) }]);
    }
    store.flush().unwrap();
    store
}

/// In memory where there is such a file system: most of the time would go into syncing files.
fn temp_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
