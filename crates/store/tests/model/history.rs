//! Random histories.

use bytes::Bytes;
use kvorum_store::Limits;
use kvorum_store::command::{
    AuthKind, Compact, CompactStep, Condition, CorruptAlarm, KeyRange, Op, OpKind, Put, SetQuota, SetTtl,
    SpaceAlarm, Tick, Write,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// What happens to a store.
#[derive(Debug, Clone)]
pub enum Step {
    /// A batch at so many milliseconds after, or before, the last one.
    Batch(i64, Vec<Draft>),
    Blank,
    Membership(u8),
    /// From here on what is new up to this level is done.
    RaiseLevel(u32),
    /// Everything so far is applied, in runs of at most so many entries.
    Apply(usize),
    Flush,
    /// Closed in good order and opened again.
    Restart,
    /// What was not flushed is gone, and applied again.
    Crash,
    /// Another store installs a snapshot, and takes over.
    Snapshot,
}

/// A command, before what it refers to is known.
#[derive(Debug, Clone)]
pub enum Draft {
    Write {
        conditions: Vec<(Bytes, Expect)>,
        ops: Vec<Op>,
        return_previous: bool,
    },
    SetTtl(SetTtl),
    /// Proposes what is due so many milliseconds from now, which the store has to check; as it was
    /// found so many revisions ago, since when it may have changed.
    ExpireDue(u64, u64),
    /// As a percentage of the current revision; above 100, a future one.
    Compact(u64),
    CompactStep(CompactStep),
    Tick,
    SpaceAlarm(SpaceAlarm),
    CorruptAlarm(CorruptAlarm),
    /// A role is made, or removed.
    Role(&'static str, bool),
    /// In per cent of the present size; 0: none.
    SetQuota(u64),
}

/// What a condition asks for.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    Absent,
    Actual,
    Wrong,
}

/// Few keys, so that they meet; some begin with one another, some need escaping.
const KEYS: [&[u8]; 12] = [
    b"a",
    b"a\0",
    b"a\0\0",
    b"a\0\xff",
    b"ab",
    b"b",
    b"b\x01",
    b"c",
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"long-key-of-some-length",
];

pub fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&KEYS[..]).prop_map(Bytes::from_static)
}

pub fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::key),
        2 => (key(), 0..3_usize).prop_map(|(key, cut)| KeyRange::prefix(key.slice(..cut.min(key.len())))),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange { start, end, unbounded: false }),
        1 => key().prop_map(|start| KeyRange { start, end: Bytes::new(), unbounded: true }),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        any::<u8>().prop_map(|byte| vec![byte].into()),
        any::<u8>().prop_map(|byte| vec![byte; 300].into()),
    ]
}

fn ttl_ms() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 3 => 1..50_u64]
}

fn op() -> impl Strategy<Value = Op> {
    let put =
        (key(), value(), ttl_ms()).prop_map(|(key, value, ttl_ms)| OpKind::Put(Put { key, value, ttl_ms }));
    prop_oneof![3 => put, 1 => range().prop_map(OpKind::Delete)].prop_map(|kind| Op { kind: Some(kind) })
}

fn write() -> impl Strategy<Value = Draft> {
    let expect = prop_oneof![1 => Just(Expect::Absent), 4 => Just(Expect::Actual), 1 => Just(Expect::Wrong)];
    let conditions = prop_oneof![4 => Just(Vec::new()), 1 => vec((key(), expect), 1..3)];
    let ops = prop_oneof![6 => vec(op(), 1), 2 => vec(op(), 0..5)];
    (conditions, ops, any::<bool>()).prop_map(|(conditions, ops, return_previous)| Draft::Write {
        conditions,
        ops,
        return_previous,
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    prop_oneof![
        12 => write(),
        4 => (key(), ttl_ms()).prop_map(|(key, ttl_ms)| Draft::SetTtl(SetTtl { key, ttl_ms })),
        2 => (0..60_u64, 0..3_u64).prop_map(|(ms, ago)| Draft::ExpireDue(ms, ago)),
        1 => (0..110_u64).prop_map(Draft::Compact),
        2 => (0..12_u32).prop_map(|changes_max| Draft::CompactStep(CompactStep { changes_max })),
        1 => Just(Draft::Tick),
        1 => (1..3_u64, prop::bool::weighted(0.3))
            .prop_map(|(node_id, raised)| Draft::SpaceAlarm(SpaceAlarm { node_id, raised })),
        1 => (1..3_u64, any::<bool>())
            .prop_map(|(node_id, raised)| Draft::CorruptAlarm(CorruptAlarm { node_id, raised })),
        1 => (prop::sample::select(&["r", "rr", "s"][..]), any::<bool>())
            .prop_map(|(name, made)| Draft::Role(name, made)),
        1 => prop_oneof![Just(0), 90..200_u64].prop_map(Draft::SetQuota),
    ]
}

/// A batch of commands, so many milliseconds after, or before, the last one.
pub fn batch() -> impl Strategy<Value = (i64, Vec<Draft>)> {
    (-20..40_i64, vec(draft(), 1..6))
}

/// Limits that histories reach, now and then, or those of every node.
pub fn limits() -> impl Strategy<Value = Limits> {
    let sizes = (1..8_usize, 70..1500_u64, 70..1500_u64, 70..1000_u64, 1..8_u32, 1..6_u64);
    let tiny = (sizes, work()).prop_map(|((keys, bytes, all, previous, changes, shared), work)| Limits {
        deleted_keys_max: keys,
        deleted_bytes_max: bytes,
        superseded_bytes_max: all,
        previous_bytes_max: previous,
        step_changes_max: changes,
        shared_values_max: shared,
        ..work
    });
    prop_oneof![3 => tiny, 1 => Just(Limits::default())]
}

/// The limits that no outcome may depend on; the others are every node's.
pub fn work() -> impl Strategy<Value = Limits> {
    let batch = prop_oneof![Just(1), 1..3000_usize, Just(Limits::default().batch_bytes_max)];
    let recent = prop_oneof![Just(0), 200..3000_u64, Just(u64::MAX)];
    let values = prop_oneof![Just(1), Just(4096)];
    let held = prop_oneof![Just(0), 1..300_usize, Just(Limits::default().held_bytes_max)];
    let reads = (1..20_usize, 1..20_usize, 1..5000_usize);
    let all = (batch, recent, values, held, reads);
    all.prop_map(|(batch, recent, value, held, (skipped, looked_at, chunk))| Limits {
        batch_bytes_max: batch,
        held_bytes_max: held,
        recent_bytes_max: recent,
        recent_value_bytes_max: value,
        skipped_keys_max: skipped,
        looked_at_changes_max: looked_at,
        chunk_bytes: chunk,
        ..Limits::default()
    })
}

pub fn history() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        24 => batch().prop_map(|(ms, drafts)| Step::Batch(ms, drafts)),
        1 => Just(Step::Blank),
        1 => any::<u8>().prop_map(Step::Membership),
        1 => (2..4_u32).prop_map(Step::RaiseLevel),
        6 => (1..5_usize).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => Just(Step::Snapshot),
    ];
    vec(step, 1..60)
}

impl Draft {
    /// The command, for a store that looks like the model.
    pub fn command(&self, model: &crate::model::Model) -> kvorum_store::command::Kind {
        use kvorum_store::command::{DueKey, ExpireDue, Kind};
        match self {
            Draft::Write { conditions, ops, return_previous } => {
                let condition = |(key, expect): &(Bytes, Expect)| {
                    let actual = model.now().get(key).map_or(0, |record| record.mod_revision);
                    let mod_revision = match expect {
                        Expect::Absent => 0,
                        Expect::Actual => actual,
                        Expect::Wrong => actual + 1,
                    };
                    Condition { key: key.clone(), mod_revision }
                };
                let conditions = conditions.iter().map(condition).collect();
                Kind::Write(Write { conditions, ops: ops.clone(), return_previous: *return_previous })
            }
            Draft::SetTtl(set) => Kind::SetTtl(set.clone()),
            Draft::ExpireDue(ms, ago) => {
                let found_at = model.revision().saturating_sub(*ago).max(1);
                let due = model.maps[found_at as usize]
                    .values()
                    .filter(|record| record.deadline_ms != 0 && record.deadline_ms <= model.time_ms + ms);
                let key = |r: &kvorum_store::command::Record| DueKey {
                    key: r.key.clone(),
                    mod_revision: r.mod_revision,
                };
                Kind::ExpireDue(ExpireDue { keys: due.map(key).collect() })
            }
            Draft::Compact(percent) => Kind::Compact(Compact { revision: model.revision() * percent / 100 }),
            Draft::CompactStep(step) => Kind::CompactStep(step.clone()),
            Draft::Tick => Kind::Tick(Tick {}),
            Draft::SpaceAlarm(alarm) => Kind::SpaceAlarm(alarm.clone()),
            Draft::CorruptAlarm(alarm) => Kind::CorruptAlarm(alarm.clone()),
            Draft::Role(name, true) => Kind::Auth(AuthKind::RoleAdd((*name).into()).into()),
            Draft::Role(name, false) => Kind::Auth(AuthKind::RoleDelete((*name).into()).into()),
            Draft::SetQuota(percent) => {
                Kind::SetQuota(SetQuota { bytes: model.logical_bytes * percent / 100 })
            }
        }
    }
}
