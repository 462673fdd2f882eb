//! Commands, and what became of them: everything that changes the store goes through the raft log
//! as one of these. They are protobuf messages, so that a newer release can add fields; the field
//! numbers are on disk and on the wire and must stay.
//!
//! A command is encoded once, where the request comes in. Nothing in it depends on a clock or on
//! chance: apply takes the time from the batch's stamp.

use bytes::Bytes;
use prost::Message as _;

/// One change of the store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What is to be done; absent only in a command from a release that this one does not know.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub kind: Option<Kind>,
}

/// The kinds of commands.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Conditions and operations, all or nothing, in one revision.
    #[prost(message, tag = "1")]
    Write(Write),
    /// Sets or drops the TTL of an existing key.
    #[prost(message, tag = "2")]
    SetTtl(SetTtl),
    /// Makes a revision the oldest one that can be read. The records below it go by `CompactStep`s.
    #[prost(message, tag = "3")]
    Compact(Compact),
    /// Removes some of the records that the last compaction made superfluous.
    #[prost(message, tag = "4")]
    CompactStep(CompactStep),
    /// Deletes keys whose deadline has passed, each only if nothing changed it since.
    #[prost(message, tag = "5")]
    ExpireDue(ExpireDue),
    /// Moves cluster time forward and changes nothing else.
    #[prost(message, tag = "6")]
    Tick(Tick),
    /// Raises or clears a node's alarm for lack of space.
    #[prost(message, tag = "7")]
    SpaceAlarm(SpaceAlarm),
    /// Sets how many logical bytes the store may hold.
    #[prost(message, tag = "8")]
    SetQuota(SetQuota),
    /// Begins a new history after a quorum was lost for good.
    #[prost(message, tag = "9")]
    NewHistory(NewHistory),
    /// Raises the cluster's feature level.
    #[prost(message, tag = "10")]
    RaiseFeatureLevel(RaiseFeatureLevel),
}

/// Conditions and operations, all or nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Write {
    /// All must hold.
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<Condition>,
    /// Applied in order. No key may be put twice, nor put and deleted.
    #[prost(message, repeated, tag = "2")]
    pub ops: Vec<Op>,
    /// Answer the records that were overwritten or deleted.
    #[prost(bool, tag = "3")]
    pub return_previous: bool,
}

/// What a key must look like.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Condition {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The revision of its last change; 0: it does not exist.
    #[prost(uint64, tag = "2")]
    pub mod_revision: u64,
}

/// One operation of a write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// What it does.
    #[prost(oneof = "OpKind", tags = "1, 2")]
    pub kind: Option<OpKind>,
}

/// The kinds of operations.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OpKind {
    /// Writes a key.
    #[prost(message, tag = "1")]
    Put(Put),
    /// Deletes a range of keys.
    #[prost(message, tag = "2")]
    Delete(KeyRange),
}

/// Writes a key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    /// The key, not empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Milliseconds to live from the batch's stamp; 0: for ever.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
}

/// A half-open range of keys.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct KeyRange {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// The first key after the range; empty: see `unbounded`.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Without an `end`: the range goes on to the last key, rather than being the one key `start`.
    #[prost(bool, tag = "3")]
    pub unbounded: bool,
}

/// Sets or drops the TTL of an existing key; writes a revision and an event when that changes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetTtl {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Milliseconds to live from the batch's stamp; 0: drop the TTL.
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
}

/// Raises the revision by so much that no revision of the new history can be one of the old, whose
/// last changes may be lost, and makes the new one the oldest that can be read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewHistory {
    /// By how much.
    #[prost(uint64, tag = "1")]
    pub revisions: u64,
}

/// Makes a revision the oldest one that can be read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compact {
    /// Above the compacted revision and at most the current one.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Removes superfluous records, oldest first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CompactStep {
    /// At most so many changes are worked off.
    #[prost(uint32, tag = "1")]
    pub changes_max: u32,
}

/// Deletes keys whose deadline has passed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpireDue {
    /// The keys that the proposer found due.
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<DueKey>,
}

/// A key that was seen to be due.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DueKey {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its mod revision then; a key that changed since is left alone.
    #[prost(uint64, tag = "2")]
    pub mod_revision: u64,
}

/// Moves cluster time forward.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tick {}

/// Raises or clears a node's alarm for lack of space. While any node's stands, the cluster refuses
/// writes that grow the store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpaceAlarm {
    /// Whose disk it is.
    #[prost(fixed64, tag = "1")]
    pub node_id: u64,
    /// Raised, or cleared.
    #[prost(bool, tag = "2")]
    pub raised: bool,
}

/// Sets the quota.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetQuota {
    /// Logical bytes; 0: no quota.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
}

/// Raises the cluster's [feature level](crate::feature); a level that it has already changes nothing.
///
/// It stands in an entry of that level, [`encode_batch_of_level`](crate::entry::encode_batch_of_level),
/// so that a release which does not know the level takes note of neither. In an entry of a lower level it
/// is refused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaiseFeatureLevel {
    /// The level.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// The release of the leader that raises it: what to start where the level is not known.
    #[prost(string, tag = "2")]
    pub release: String,
}

/// What became of a command.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outcome {
    /// The store's revision after the command; the one it made if it changed something.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// What it did, or why it was refused.
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5")]
    pub answer: Option<Answer>,
}

/// What a command did.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// Nothing needs saying.
    #[prost(message, tag = "2")]
    Done(Done),
    /// A write was applied.
    #[prost(message, tag = "3")]
    Written(Written),
    /// A TTL was set or dropped, or there was no such key.
    #[prost(message, tag = "4")]
    Ttl(TtlSet),
    /// The command changed nothing, and this is why.
    #[prost(message, tag = "5")]
    Refused(Refused),
}

/// Nothing needs saying.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {}

/// A write was applied.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Written {
    /// For each operation, how many keys it deleted.
    #[prost(uint64, repeated, tag = "1")]
    pub deleted: Vec<u64>,
    /// The records that were overwritten or deleted, in order, if they were asked for.
    #[prost(message, repeated, tag = "2")]
    pub previous: Vec<Record>,
}

/// A TTL was set or dropped, or there was no such key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TtlSet {
    /// Whether the key exists.
    #[prost(bool, tag = "1")]
    pub found: bool,
    /// Whether it had a TTL before.
    #[prost(bool, tag = "2")]
    pub had_ttl: bool,
}

/// Why a command changed nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refused {
    /// The reason.
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    /// The key in question, where there is one.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// `ConditionFailed`: the key's mod revision (0: no such key); `Compacted`: the compacted
    /// revision; `FutureRevision`: the current one; `TooLarge`, `NoSpace`: the limit in bytes or keys.
    #[prost(uint64, tag = "3")]
    pub actual: u64,
}

/// Reasons for a refusal. The numbers are on the wire and must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// A command kind that this release, or the cluster's feature level, does not know.
    Unknown = 0,
    /// A condition did not hold.
    ConditionFailed = 1,
    /// A node's disk is short of space, or the quota is used up, and the write would grow the store.
    NoSpace = 2,
    /// The revision is compacted.
    Compacted = 3,
    /// The revision does not exist yet.
    FutureRevision = 4,
    /// One key is written twice in one write.
    DuplicateKey = 5,
    /// A range delete over too many keys or bytes.
    TooLarge = 6,
    /// The command does not make sense, an empty key say.
    Invalid = 7,
}

/// One key with its value and history, as it stands at some revision. The revisions mean what
/// etcd's do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Record {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The revision that created the key.
    #[prost(uint64, tag = "3")]
    pub create_revision: u64,
    /// The revision of its last change.
    #[prost(uint64, tag = "4")]
    pub mod_revision: u64,
    /// How often it was written since it was created.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// When it expires, in milliseconds of cluster time; 0: never.
    #[prost(uint64, tag = "6")]
    pub deadline_ms: u64,
}

impl Command {
    /// The command's bytes, as they go to the log.
    pub fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Self {
        Command { kind: Some(kind) }
    }
}

impl KeyRange {
    /// The one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: Bytes::new(), unbounded: false }
    }

    /// All keys that begin with `prefix`; with an empty one, all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        KeyRange { unbounded: end.is_empty(), start, end: end.into() }
    }

    /// Whether the range is one key.
    pub fn is_key(&self) -> bool {
        self.end.is_empty() && !self.unbounded
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_key() {
            return key == self.start;
        }
        key >= &self.start[..] && (self.unbounded || key < &self.end[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_just_the_prefix() {
        let range = KeyRange::prefix(&b"a\xff"[..]);
        assert_eq!((&range.start[..], &range.end[..], range.unbounded), (&b"a\xff"[..], &b"b"[..], false));
        assert!(range.contains(b"a\xff") && range.contains(b"a\xff\xff") && !range.contains(b"b"));
        assert!(KeyRange::prefix(&b"\xff\xff"[..]).unbounded);
        assert!(KeyRange::prefix(Bytes::new()).contains(b""));
        assert!(KeyRange::key(&b"k"[..]).contains(b"k") && !KeyRange::key(&b"k"[..]).contains(b"k2"));
    }
}
