//! How a node takes part in consensus.

use std::time::Duration;

/// How this node takes part in consensus.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Where this node tells others that it listens.
    pub advertise_peer: String,
    /// Where this node tells clients that it listens.
    pub advertise_client: String,
    /// The only cluster that an empty disk may found or join; `None`: any.
    pub cluster_id: Option<u64>,
    /// A disk of a lower incarnation of its cluster takes no part.
    pub incarnation_min: u64,
    /// The leader's lease in milliseconds. A follower that hears nothing for that long, and then for
    /// half as long to as long again, stands for election.
    pub election_timeout_ms: u64,
    /// The leader makes itself heard so often, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Bytes of log that are kept for followers that lag.
    pub log_retain_bytes: u64,
    /// Logical bytes the store may hold; 0: no limit.
    pub quota_bytes: u64,
    /// History older than this is compacted; zero: never.
    pub auto_compaction_retention: Duration,
    /// The leader begins to compare what members hold so often; zero: never.
    pub compare_interval: Duration,
    /// The highest feature level that this node takes part in.
    pub feature_level_max: u32,
}

/// Why consensus could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Log and state do not belong together.
    #[error(
        "{0}; this member's disk can't be trusted: remove the member, empty its data directory and add it again"
    )]
    Inconsistent(String),
    /// openraft refused.
    #[error("start raft: {0}")]
    Raft(String),
    /// The state could not be read.
    #[error("start raft: {0}")]
    Io(#[from] std::io::Error),
}
