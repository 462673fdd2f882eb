//! Goal: what a range delete may take with it does not depend on what else was applied in one run with
//! it. Method: four values of 1 MiB and a delete that asks for them, in one run and in runs of their own.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use kvorum_store::command::{Answer, Command, KeyRange, Kind, Op, OpKind, Outcome, Put, Reason, Write};
use kvorum_store::entry::{Entry, LogId, encode_batch};
use kvorum_store::{Store, StoreOptions};

const VALUE_BYTES: usize = 1 << 20;

#[test]
fn a_range_delete_is_refused_whatever_is_in_its_run() {
    let puts = ["a/1", "a/2", "a/3", "a/4"]
        .map(|key| OpKind::Put(Put { key: key.into(), value: Bytes::from(vec![7; VALUE_BYTES]), ttl_ms: 0 }));
    let delete = OpKind::Delete(KeyRange::prefix("a/"));
    let log: Vec<Entry> = (0..).zip(puts.into_iter().chain([delete])).map(entry).collect();
    for run in 1..=log.len() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { cache_bytes: 16 << 20, ..Default::default() };
        let store = Store::open(dir.path(), options).unwrap();
        let mut outcomes: Vec<Outcome> = Vec::new();
        for run in log.chunks(run) {
            outcomes.extend(store.apply(run).unwrap().outcomes.into_iter().flatten());
        }
        let Some(Answer::Refused(refused)) = &outcomes[4].answer else {
            panic!("in runs of {run} the delete was carried out");
        };
        assert_eq!((refused.reason(), refused.actual), (Reason::TooLarge, 3 << 20), "runs of {run}");
        assert_eq!((store.revision(), store.keys()), (5, 4), "runs of {run}");
    }
}

fn entry((index, kind): (u64, OpKind)) -> Entry {
    let ops = vec![Op { kind: Some(kind) }];
    let write = Write { ops, return_previous: true, ..Write::default() };
    let command = Command::from(Kind::Write(write)).encoded();
    Entry { log_id: LogId { term: 1, index }, payload: encode_batch(index, [command].iter()) }
}
