//! What is to be done.

use bytes::Bytes;
use prost::Message as _;

use super::auth::AuthChange;
use super::range::KeyRange;

/// One change of the store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What is to be done; absent only in a command from a release that this one does not know.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub kind: Option<Kind>,
    /// The auth revision as of which it was checked that the caller may do this; 0: rights were not looked at. Where
    /// they count, apply refuses what was checked as of another one, if it is of a [kind](Kind::is_asked_for) that
    /// somebody asks for; where they are looked at and do not count, changes of them alone.
    #[prost(uint64, tag = "16")]
    pub auth_revision: u64,
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
    /// Raises or clears a node's alarm for data that differs from the other members'.
    #[prost(message, tag = "11")]
    CorruptAlarm(CorruptAlarm),
    /// Changes who may do what.
    #[prost(message, tag = "12")]
    Auth(AuthChange),
}

impl Kind {
    /// Whether somebody asks for it, who may or may not be allowed to. The others are what members do by
    /// themselves: they must go on whatever becomes of rights.
    pub fn is_asked_for(&self) -> bool {
        match self {
            Kind::Write(_) | Kind::SetTtl(_) | Kind::Compact(_) | Kind::Auth(_) => true,
            Kind::CompactStep(_)
            | Kind::ExpireDue(_)
            | Kind::Tick(_)
            | Kind::SpaceAlarm(_)
            | Kind::SetQuota(_)
            | Kind::NewHistory(_)
            | Kind::RaiseFeatureLevel(_)
            | Kind::CorruptAlarm(_) => false,
        }
    }
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

/// Of an encoded command, what says whether its answer has records in it. All else is skipped where it is.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "1")]
    write: Option<AskedOfWrite>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AskedOfWrite {
    #[prost(bool, tag = "3")]
    return_previous: bool,
}

/// Whether an encoded command is answered with the records that it overwrites or deletes.
pub fn asks_for_records(command: &[u8]) -> bool {
    Asked::decode(command).is_ok_and(|asked| asked.write.is_some_and(|write| write.return_previous))
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

/// Raises or clears a node's alarm for data that differs from what a majority holds. It stands until the
/// node is no member any more: what else its disk has got wrong nobody knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CorruptAlarm {
    /// Whose data it is.
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

impl Command {
    /// The command's bytes, as they go to the log.
    pub fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Self {
        Command { kind: Some(kind), auth_revision: 0 }
    }
}
