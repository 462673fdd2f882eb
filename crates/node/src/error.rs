//! Why a request could not be answered, or a change of the cluster not be made.

mod auth;

use std::sync::Arc;

use bytes::Bytes;
use kvorum_store::command::{Reason, Refused};
use kvorum_store::fatal::stop_process;
use kvorum_store::{ReadError, StoreError};

pub use self::auth::AuthError;
use crate::place::StatusOnly;

/// Why a request could not be answered. `net::status` says how each case looks on the wire; a
/// client decides by it whether trying again is safe, so a variant must not be used for a write
/// whose fate is open, unless it says so.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// This node belongs to no cluster yet.
    #[error(
        "this node has not joined a cluster yet; found one with `kvorum cluster init`, or ask another node"
    )]
    Unjoined,
    /// This node's disk takes no part in its cluster any more.
    #[error("this node serves nothing but its status: {0}")]
    StatusOnly(StatusOnly),
    /// Only the leader can do this.
    #[error("this node is not the leader; {}", leader_hint(.client_address.as_deref()))]
    NotLeader {
        /// Where clients reach the leader, if it is known.
        client_address: Option<String>,
    },
    /// No leader is known; nothing was done.
    #[error("the cluster has no leader at the moment; try again")]
    NoLeader,
    /// The caller's time is up.
    #[error("the deadline passed{}", if *.outcome_unknown { "; the write may or may not have happened" } else { " before anything was done" })]
    Deadline {
        /// Whether the request was a write that may yet be applied.
        outcome_unknown: bool,
    },
    /// A write was proposed, and nobody can say whether it was or will be applied.
    #[error("the write may or may not have happened: {0}")]
    OutcomeUnknown(String),
    /// The request is larger than this node takes.
    #[error("the request takes {bytes} bytes, the limit is {limit} bytes (--request-bytes-max)")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// A write would replace or delete too much at once.
    #[error(
        "what is there holds too much to be deleted, replaced or answered at once (limit {limit}); use smaller ranges, \
         or fewer operations in a batch"
    )]
    RangeTooLarge {
        /// The limit, in keys or bytes.
        limit: u64,
    },
    /// Too many requests wait already; nothing was done.
    #[error("too many requests are waiting; try again later")]
    Busy,
    /// Too much waits to be sent; nothing was done, or the stream ended where it stood.
    #[error(
        "there was no room to send more for {seconds} s, since too much that clients asked for waits to be \
         read; read what was asked for or cancel it, and go on from the last key or revision that was received"
    )]
    NoRoom {
        /// How long was waited.
        seconds: u64,
    },
    /// All places for what was asked are taken; nothing was done. The text says of what, and what to do.
    #[error("{0}")]
    Occupied(String),
    /// The node is about to stop; nothing was done.
    #[error("this node is shutting down; ask another one")]
    ShuttingDown,
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// What this node holds is not what the cluster does; nothing was done.
    #[error("the data of this node differs from the other members' (CORRUPT); ask another node")]
    Corrupt,
    /// The revision is compacted.
    #[error("revision {requested} is compacted; the oldest one that can be read is {compacted}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The oldest revision that can be read.
        compacted: u64,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} does not exist yet; the current one is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// A condition did not hold; nothing was changed.
    #[error("condition failed: key \"{}\" {}", .key.escape_ascii(), actual_hint(*.actual))]
    ConditionFailed {
        /// The condition's key.
        key: Bytes,
        /// Its mod revision; 0: it does not exist.
        actual: u64,
    },
    /// The write would grow the store, which is full.
    #[error("no space: {}; delete keys and compact, raise --quota-bytes, or enlarge the disks", space_hint(*.limit))]
    NoSpace {
        /// The quota in bytes when that is used up; 0: a node's disk is nearly full.
        limit: u64,
    },
    /// Users, roles and rights. Nothing was done.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl RequestError {
    /// Whether a write that failed so is surely in nobody's log, and another attempt may go better.
    pub fn is_not_proposed(&self) -> bool {
        matches!(
            self,
            RequestError::Unjoined
                | RequestError::StatusOnly(_)
                | RequestError::NotLeader { .. }
                | RequestError::NoLeader
                | RequestError::Busy
                | RequestError::NoRoom { .. }
                | RequestError::ShuttingDown
                | RequestError::Auth(AuthError::Moved)
        )
    }

    /// What a refusal by apply means to the one who asked. `requested` is the revision of a
    /// compaction.
    pub fn refused(refused: Refused, requested: u64) -> Self {
        let Refused { key, actual, .. } = &refused;
        let reason = refused.reason();
        if let Some(error) = AuthError::refused(reason, *actual) {
            return error.into();
        }
        match reason {
            Reason::ConditionFailed => RequestError::ConditionFailed { key: key.clone(), actual: *actual },
            Reason::NoSpace => RequestError::NoSpace { limit: *actual },
            Reason::Compacted => RequestError::Compacted { requested, compacted: *actual },
            Reason::FutureRevision => RequestError::FutureRevision { requested, current: *actual },
            Reason::DuplicateKey => RequestError::Invalid(format!(
                "key \"{}\" is written twice; a batch may write each key once",
                key.escape_ascii()
            )),
            Reason::TooLarge => RequestError::RangeTooLarge { limit: *actual },
            Reason::Unknown => RequestError::Invalid(
                "the cluster does not know this kind of request; upgrade all members first".into(),
            ),
            // The others have to do with rights, and are told above.
            _ => RequestError::Invalid("the store refused the request as invalid".into()),
        }
    }
}

/// Why a change of the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// This node can't do it, or not now.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It belongs to another cluster.
    #[error("this node belongs to cluster {actual:016x}, not {wanted:016x}")]
    OtherCluster {
        /// The cluster it belongs to.
        actual: u64,
        /// The one that was asked for.
        wanted: u64,
    },
    /// Another disk is meant.
    #[error("the disk here is node {node_id:016x}, not {wanted:016x}; it may be a new one at an old address")]
    OtherDisk {
        /// The disk's node id.
        node_id: u64,
        /// The one that was meant.
        wanted: u64,
    },
    /// The caller's view is out of date, or his request does not fit what is.
    #[error("{0}")]
    Refused(String),
    /// The disk could not take the new identity.
    #[error("{0}")]
    Io(String),
    /// It was begun; whether it completes is not known.
    #[error("{0}; look at the membership and repeat the request")]
    Unfinished(String),
}

/// A read of the store that was not answered. Data that cannot be read must not be served, nor must
/// this node go on as if it could be: what is damaged under one key may be damaged under others.
pub fn answered<T>(read: Result<T, ReadError>) -> Result<T, RequestError> {
    match read {
        Err(ReadError::Store(error)) => stop_process("read the store", error),
        read => read.map_err(RequestError::from),
    }
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        RequestError::Store(Arc::new(error))
    }
}

impl From<ReadError> for RequestError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { requested, compacted } => RequestError::Compacted { requested, compacted },
            ReadError::Future { requested, current } => RequestError::FutureRevision { requested, current },
            ReadError::Store(error) => error.into(),
        }
    }
}

fn leader_hint(client_address: Option<&str>) -> String {
    match client_address {
        Some(address) => format!("ask {address}"),
        None => "the leader is not known".into(),
    }
}

fn actual_hint(actual: u64) -> String {
    match actual {
        0 => "does not exist".into(),
        revision => format!("was last changed at revision {revision}"),
    }
}

fn space_hint(limit: u64) -> String {
    match limit {
        0 => "a member's disk is nearly full".into(),
        limit => format!("the quota of {limit} bytes is used up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reason that apply can give has a meaning of its own, and messages name what matters.
    #[test]
    fn refusals_say_what_to_do() {
        let refused = |reason: Reason, actual| {
            let refused = Refused { reason: reason as i32, key: Bytes::from_static(b"k\xff"), actual };
            RequestError::refused(refused, 9).to_string()
        };
        assert_eq!(
            refused(Reason::ConditionFailed, 7),
            "condition failed: key \"k\\xff\" was last changed at revision 7"
        );
        assert_eq!(refused(Reason::ConditionFailed, 0), "condition failed: key \"k\\xff\" does not exist");
        assert!(refused(Reason::Compacted, 12).starts_with("revision 9 is compacted"));
        assert!(refused(Reason::FutureRevision, 5).contains("the current one is 5"));
        assert!(refused(Reason::NoSpace, 1000).contains("quota of 1000 bytes"));
        assert!(refused(Reason::NoSpace, 0).contains("disk is nearly full"));
        assert!(refused(Reason::DuplicateKey, 0).contains("\"k\\xff\" is written twice"));
        assert!(refused(Reason::TooLarge, 1_000_000).contains("1000000"));
    }
}
