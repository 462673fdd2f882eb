//! Goal: what grows the store counts, whichever command does it, and a change of a TTL does not copy the
//! value. Method: many changes of the TTL of a value of 1 MiB, under a quota of 8 MiB.
#![allow(clippy::unwrap_used)]

#[path = "support/changes.rs"]
mod changes;

use bytes::Bytes;
use changes::changes;
use kvorum_store::command::{
    Answer, Command, Compact, CompactStep, KeyRange, Kind, Op, OpKind, Put, RaiseFeatureLevel, Reason,
    SetQuota, SetTtl, SpaceAlarm, Write,
};
use kvorum_store::entry::{Entry, LogId, encode_batch_of_level};
use kvorum_store::{Store, StoreOptions, verify_state};

const MIB: u64 = 1 << 20;

#[test]
fn changes_of_a_ttl_do_not_copy_the_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = new(dir.path(), 2);
    let value = Bytes::from(vec![7; MIB as usize]);
    apply(&store, put("k", &value));
    let first = store.revision();
    apply(&store, Kind::SetQuota(SetQuota { bytes: 8 * MIB }));
    for ttl_ms in 1..=300 {
        let answer = apply(&store, set_ttl(100_000 + ttl_ms));
        assert!(matches!(answer, Answer::Ttl(set) if set.found), "change {ttl_ms}");
    }
    // One in 256 keeps its value.
    assert!(store.logical_bytes() < 3 * MIB, "{} logical bytes", store.logical_bytes());
    for revision in first..=store.revision() {
        let record = store.get(b"k", revision).unwrap().record.unwrap();
        assert_eq!((record.mod_revision, record.value == value), (revision, true));
    }
    let all = KeyRange::prefix(Bytes::new());
    let changes = changes(&store, store.revision() - 3, &all, true, 64 << 20).unwrap();
    assert!(changes.events.iter().all(|it| it.events[0].previous.as_ref().unwrap().value == value));
    // What is compacted away takes no value along that is still needed.
    apply(&store, Kind::Compact(Compact { revision: store.revision() - 5 }));
    while store.compaction_backlog() {
        apply(&store, Kind::CompactStep(CompactStep { changes_max: 7 }));
    }
    for revision in store.compacted()..=store.revision() {
        assert_eq!(store.get(b"k", revision).unwrap().record.unwrap().value, value);
    }
    assert!(store.logical_bytes() < MIB + 2000, "{} logical bytes", store.logical_bytes());
    store.flush().unwrap();
    drop(store);
    assert_eq!(verify_state(dir.path()).unwrap(), vec![]);
}

#[test]
fn a_change_of_a_ttl_is_refused_where_there_is_no_room() {
    for level in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let store = new(dir.path(), level);
        apply(&store, put("k", &Bytes::from_static(b"value")));
        apply(&store, set_ttl(60_000));
        for (full, roomy) in [
            (Kind::SetQuota(SetQuota { bytes: 1 }), Kind::SetQuota(SetQuota { bytes: 0 })),
            (
                Kind::SpaceAlarm(SpaceAlarm { node_id: 7, raised: true }),
                Kind::SpaceAlarm(SpaceAlarm { node_id: 7, raised: false }),
            ),
        ] {
            apply(&store, full);
            for ttl_ms in [1, 0] {
                let before = store.logical_bytes();
                let at_the_door = store.refuse_growth(&set_ttl(ttl_ms));
                let answer = apply(&store, set_ttl(ttl_ms));
                // An older release would carry it out.
                assert_eq!(at_the_door.is_some(), level == 2);
                assert_eq!(store.logical_bytes() == before, level == 2);
                match answer {
                    Answer::Refused(refused) => assert_eq!((level, refused.reason()), (2, Reason::NoSpace)),
                    answer => assert!(level == 1 && matches!(answer, Answer::Ttl(_)), "{answer:?}"),
                }
            }
            apply(&store, roomy);
            assert!(matches!(apply(&store, set_ttl(60_000)), Answer::Ttl(_)));
        }
    }
}

fn new(dir: &std::path::Path, level: u32) -> Store {
    let store = Store::open(dir, StoreOptions { cache_bytes: 16 << 20, ..Default::default() }).unwrap();
    if level > 1 {
        apply_of_level(
            &store,
            level,
            Kind::RaiseFeatureLevel(RaiseFeatureLevel { level, ..Default::default() }),
        );
    }
    store
}

fn apply(store: &Store, kind: Kind) -> Answer {
    apply_of_level(store, store.feature_level(), kind)
}

fn apply_of_level(store: &Store, level: u32, kind: Kind) -> Answer {
    let index = store.applied().map_or(0, |id| id.index + 1);
    let command = Command::from(kind).encoded();
    let payload = encode_batch_of_level(level, index, [command].iter());
    let run = store.apply(&[Entry { log_id: LogId { term: 1, index }, payload }]).unwrap();
    run.outcomes[0][0].answer.clone().unwrap()
}

fn put(key: &'static str, value: &Bytes) -> Kind {
    let put = Put { key: key.into(), value: value.clone(), ttl_ms: 0 };
    Kind::Write(Write { ops: vec![Op { kind: Some(OpKind::Put(put)) }], ..Write::default() })
}

fn set_ttl(ttl_ms: u64) -> Kind {
    Kind::SetTtl(SetTtl { key: "k".into(), ttl_ms })
}
