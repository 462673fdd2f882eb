//! What the log remembers, as its callers see it.

use crate::entry::LogId;

/// Called on the log's thread once a change is durable; it must be short and must not block.
pub type Done = Box<dyn FnOnce() + Send>;

/// A vote of this node, as raft remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term of the vote.
    pub term: u64,
    /// Whom it is for.
    pub node_id: u64,
    /// Whether a quorum granted it, that is, whether it names a leader.
    pub committed: bool,
}

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry; in an empty log, the last purged one.
    pub last: Option<LogId>,
    /// The last entry that is on disk together with all before it.
    pub durable: Option<LogId>,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry known to be committed. After a reopen it may be an older one.
    pub committed: Option<LogId>,
}

/// What the log's thread has not done yet, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// How many changes were completed since the log was opened: while it stays the same, nothing is.
    pub completed: u64,
    /// Whether the thread waits for room on a full disk, which is not for the disk to end.
    pub for_room: bool,
}
