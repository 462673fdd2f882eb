//! Goal: a read never answers with an older revision than a read that had ended before it began, also
//! while a write is between being in the database and being made known.
//! Method: one thread writes without a pause; others read the key that is being written, which shows a
//! write as early as can be, and one that stays as it is, which needs no look at the present. They share
//! the newest revision that any of them was answered.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use kvorum_store::command::{Command, Kind, Op, OpKind, Put, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{Scan, Store, StoreOptions};

const WRITES: u64 = 20_000;
const READERS: usize = 2;

#[test]
fn revisions_of_reads_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::open(dir.path(), StoreOptions { cache_bytes: 16 << 20, ..Default::default() }).unwrap();
    store.apply(&[put(0, "still")]).unwrap();
    let newest = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    check(&newest, || store.get(b"moving", 0).unwrap().revision);
                    check(&newest, || store.get(b"still", 0).unwrap().revision);
                    check(&newest, || store.scan_page(&Scan::default()).unwrap().revision);
                    check(&newest, || store.get(b"still", 0).unwrap().revision);
                    check(&newest, || store.revision());
                }
            });
        }
        for index in 1..WRITES {
            store.apply(&[put(index, "moving")]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Goal: a key that is in memory is read without the disk, and one that is not is not waited for. Method:
/// keys enough for many blocks, looked at before and after the store was opened anew.
#[test]
fn what_is_in_memory_needs_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { cache_bytes: 16 << 20, ..Default::default() };
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let run: Vec<Entry> = (0..5_000).map(|index| put(index, format!("key/{index:06}"))).collect();
    store.apply(&run).unwrap();
    let key = b"key/004000";
    let written = store.get(key, 0).unwrap();
    assert_eq!(store.get_cached(key).unwrap().as_ref(), Some(&written), "it was just written");
    store.flush().unwrap();
    drop(store);

    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.get_cached(key).unwrap(), None, "nobody has read its block");
    assert_eq!(store.get(key, 0).unwrap(), written);
    assert_eq!(store.get_cached(key).unwrap(), Some(written));
}

fn check(newest: &AtomicU64, read: impl FnOnce() -> u64) {
    let before = newest.load(Ordering::SeqCst);
    let revision = read();
    assert!(revision >= before, "a read at revision {before} was followed by one at {revision}");
    newest.fetch_max(revision, Ordering::SeqCst);
}

fn put(index: u64, key: impl Into<Bytes>) -> Entry {
    let put = Put { key: key.into(), value: index.to_string().into(), ..Put::default() };
    let ops = vec![Op { kind: Some(OpKind::Put(put)) }];
    let command: Command = Kind::Write(Write { ops, ..Write::default() }).into();
    let payload = encode_batch(index, [command.encoded()].iter());
    Entry { log_id: LogId { term: 1, index }, payload }
}
