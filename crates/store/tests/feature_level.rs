//! Goal: a cluster's feature level is replicated state that only rises, and whoever does not know it
//! takes nothing of it. Method: entries of several levels, restarts, and a store that knows less.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_store::command::{Answer, Command, Done, Kind, Put, RaiseFeatureLevel, Reason, Write};
use kvorum_store::command::{Op, OpKind};
use kvorum_store::entry::{Entry, LogId, encode_batch_of_level};
use kvorum_store::feature::FEATURE_LEVEL_MAX;
use kvorum_store::{
    OpenError, ReceiveError, Received, SnapshotReceiver, SnapshotSender, Store, StoreError, StoreOptions,
};

#[test]
fn the_level_rises_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), FEATURE_LEVEL_MAX).unwrap();
    assert_eq!(store.feature_level(), 1);
    // An entry of the present level can't raise it: a release that does not know the next one would
    // read that entry, and not the command.
    let run = store.apply(&[entry(0, 1, raise(2))]).unwrap();
    assert_eq!(refusal(&run.outcomes[0][0].answer), Some(Reason::Unknown));
    assert_eq!(store.feature_level(), 1);
    let run = store.apply(&[entry(1, 2, raise(2)), entry(2, 2, put()), entry(3, 2, raise(1))]).unwrap();
    assert_eq!(run.outcomes[0][0].answer, Some(Answer::Done(Done {})));
    assert_eq!((store.feature_level(), store.keys()), (2, 1));
    store.flush().unwrap();
    drop(store);
    let store = open(dir.path(), FEATURE_LEVEL_MAX).unwrap();
    assert_eq!(store.feature_level(), 2);
    store.found_from(b"membership", &[7; 32]).unwrap();
    assert_eq!(store.feature_level(), 2);
}

#[test]
fn a_level_that_is_not_known_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let held_down = open(dir.path(), 1).unwrap();
    let stopped = held_down.apply(&[entry(0, 1, put()), entry(1, 2, raise(2))]).unwrap_err();
    assert!(matches!(stopped, StoreError::FeatureLevel { level: 2, known: 1, .. }), "{stopped}");
    assert!(stopped.to_string().contains("feature level 2, which 7.8.9 knows"), "{stopped}");
    assert_eq!(held_down.applied(), None, "nothing of a run is applied that leads to an unknown level");
    drop(held_down);

    let store = open(dir.path(), 2).unwrap();
    store.apply(&[entry(0, 1, put()), entry(1, 2, raise(2))]).unwrap();
    store.flush().unwrap();
    let refused = receive(&store, 1, |_| {}).unwrap_err();
    assert!(matches!(refused, ReceiveError::FeatureLevel { level: 2, known: 1 }), "{refused}");
    // A sender that says nothing of levels does not get past that either.
    let refused = receive(&store, 1, |level| *level = 0).unwrap_err();
    assert!(matches!(refused, ReceiveError::FeatureLevel { level: 2, known: 1 }), "{refused}");
    receive(&store, 2, |_| {}).unwrap();
    drop(store);

    let refused = open(dir.path(), 1).err().unwrap();
    assert!(matches!(refused, OpenError::FeatureLevel { level: 2, known: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("which 7.8.9 knows"), "{refused}");
    assert_eq!(open(dir.path(), 2).unwrap().keys(), 1);
}

/// Sends the store's state to a receiver that knows levels up to `known`.
fn receive(store: &Store, known: u32, change: impl Fn(&mut u32)) -> Result<(), ReceiveError> {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Arc::new(store.checkpoint().unwrap());
    let mut receiver = SnapshotReceiver::new(dir.path())?.with_feature_level_max(known);
    for chunk in SnapshotSender::new(checkpoint) {
        let mut chunk = chunk.unwrap();
        if let kvorum_store::Chunk::Begin(begin) = &mut chunk {
            change(&mut begin.feature_level);
        }
        match receiver.chunk(chunk)? {
            Received::More(more) => receiver = more,
            Received::Whole(_) => return Ok(()),
        }
    }
    unreachable!("a snapshot ends")
}

fn open(dir: &Path, feature_level_max: u32) -> Result<Store, OpenError> {
    Store::open(dir, StoreOptions { cache_bytes: 16 << 20, feature_level_max, ..Default::default() })
}

fn raise(level: u32) -> Kind {
    Kind::RaiseFeatureLevel(RaiseFeatureLevel { level, release: "7.8.9".into() })
}

fn put() -> Kind {
    let put = Put { key: "key".into(), value: "value".into(), ..Put::default() };
    Kind::Write(Write { ops: vec![Op { kind: Some(OpKind::Put(put)) }], ..Write::default() })
}

fn entry(index: u64, level: u32, kind: Kind) -> Entry {
    let command: Bytes = Command::from(kind).encoded();
    Entry { log_id: LogId { term: 1, index }, payload: encode_batch_of_level(level, index, [command].iter()) }
}

fn refusal(answer: &Option<Answer>) -> Option<Reason> {
    match answer {
        Some(Answer::Refused(refused)) => Some(refused.reason()),
        _ => None,
    }
}
