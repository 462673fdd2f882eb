//! What became of a command.

use bytes::Bytes;

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
    /// The key in question, or the name of a user or role, where there is one.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// `ConditionFailed`: the key's mod revision (0: no such key); `Compacted`: the compacted
    /// revision; `FutureRevision`: the current one; `TooLarge`, `NoSpace`: the limit in bytes or keys;
    /// `AuthLimit`: the limit; `AuthMoved`: the auth revision.
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
    /// Rights have changed since it was checked whether the caller may do this.
    AuthMoved = 8,
    /// There is a user of this name.
    UserExists = 9,
    /// There is no user of this name.
    NoSuchUser = 10,
    /// There is a role of this name.
    RoleExists = 11,
    /// There is no role of this name.
    NoSuchRole = 12,
    /// The user does not have the role.
    RoleNotGranted = 13,
    /// The role may do nothing with exactly this range.
    PermissionNotGranted = 14,
    /// Rights cannot count without the user `root`.
    NoRootUser = 15,
    /// Rights cannot count without a user `root` who has the role `root`.
    NoRootRole = 16,
    /// While rights count, `root` stays; and what the operator declares is the operator's.
    AuthManagement = 17,
    /// Users, roles or permissions are as many, or as large, as they may be.
    AuthLimit = 18,
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

impl Refused {
    /// A refusal that has nothing to add to its reason.
    pub(crate) fn because(reason: Reason) -> Refused {
        Refused { reason: reason as i32, ..Refused::default() }
    }
}
