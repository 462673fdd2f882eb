//! Goal: a new history keeps what is there, and nothing of the old one can be asked for any more.
//! Method: some changes, a new history, more changes, a restart.
#![allow(clippy::unwrap_used)]

#[path = "support/changes.rs"]
mod changes;

use bytes::Bytes;
use changes::changes;
use kvorum_store::command::{Command, KeyRange, Kind, NewHistory, Op, OpKind, Put, SpaceAlarm, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{ReadError, Store, StoreOptions};

const RAISE: u64 = 1_000_000_000;

#[test]
fn a_new_history_begins_far_above_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = || StoreOptions { cache_bytes: 16 << 20, ..Default::default() };
    let store = Store::open(dir.path(), options()).unwrap();
    let alarm = Kind::SpaceAlarm(SpaceAlarm { node_id: 7, raised: true });
    let begin = Kind::NewHistory(NewHistory { revisions: RAISE });
    store.apply(&[entry(0, put("a")), entry(1, put("b")), entry(2, alarm)]).unwrap();
    let old = store.revision();
    store.apply(&[entry(3, begin), entry(4, put("c"))]).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!((store.revision(), store.compacted()), (old + RAISE + 1, old + RAISE));
    assert_eq!(store.space_alarms(), Vec::<u64>::new());
    for key in ["a", "b", "c"] {
        assert!(store.get(key.as_bytes(), 0).unwrap().record.is_some(), "{key}");
    }
    assert!(matches!(store.get(b"a", old), Err(ReadError::Compacted { .. })));
    let all = KeyRange { start: Bytes::new(), end: Bytes::new(), unbounded: true };
    assert!(matches!(changes(&store, old + 1, &all, false, 1 << 20), Err(ReadError::Compacted { .. })));
    let changes = changes(&store, old + RAISE, &all, false, 1 << 20).unwrap();
    assert_eq!(changes.events.iter().map(|it| it.revision).collect::<Vec<_>>(), [old + RAISE + 1]);
}

fn put(key: &'static str) -> Kind {
    let put = Put { key: key.into(), value: "value".into(), ..Put::default() };
    Kind::Write(Write { ops: vec![Op { kind: Some(OpKind::Put(put)) }], ..Write::default() })
}

fn entry(index: u64, kind: Kind) -> Entry {
    let command: Command = kind.into();
    let payload = encode_batch(index, [command.encoded()].iter());
    Entry { log_id: LogId { term: 1, index }, payload }
}
