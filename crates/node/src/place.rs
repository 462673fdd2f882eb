//! What a node is in its cluster, in plain values: its place, the members, its positions in the log.

use std::fmt;

use kvorum_proto::admin::v1 as admin;
use tokio::time::Instant;

/// This node's place in the cluster, as of the last change of leader, term or membership.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The cluster's id; 0 while Unjoined.
    pub cluster_id: u64,
    /// The cluster's incarnation.
    pub incarnation: u64,
    /// This node's id.
    pub node_id: u64,
    /// What this node is.
    pub state: admin::State,
    /// The current term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<Member>,
    /// Whether this node votes.
    pub voter: bool,
    /// Whether the committed membership knows this node.
    pub in_config: bool,
    /// Whether there is a committed membership, and it is without this node: it hears of no leader any more.
    pub removed: bool,
    /// Since when no leader is known; absent while one is.
    pub leaderless_since: Option<Instant>,
    /// All members.
    pub members: Vec<Member>,
    /// Why this node serves nothing but its status, if that is so.
    pub status_only: Option<StatusOnly>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node id.
    pub node_id: u64,
    /// host:port of its peer port.
    pub peer: String,
    /// host:port of its client port.
    pub client: String,
    /// Whether it votes.
    pub voter: bool,
}

/// Positions in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The last applied entry's index.
    pub applied: u64,
    /// The last index known to be committed.
    pub committed: u64,
    /// The last index in the log.
    pub last_log: u64,
}

impl Overview {
    /// A node that no cluster knows.
    pub fn unjoined(node_id: u64) -> Self {
        Overview {
            cluster_id: 0,
            incarnation: 0,
            node_id,
            state: admin::State::Unjoined,
            term: 0,
            leader: None,
            voter: false,
            in_config: false,
            removed: false,
            leaderless_since: Some(Instant::now()),
            members: Vec::new(),
            status_only: None,
        }
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.state == admin::State::Leader
    }
}

/// What stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// A write to the log does not end.
    Log,
    /// The log waits for room on a full disk.
    FullDisk,
    /// Entries are not applied.
    Apply,
    /// The raft core does not answer.
    Core,
    /// Nothing stands still, but what is held here differs from what a majority holds.
    Corrupt,
}

impl Stall {
    /// The alarm that stands meanwhile.
    pub fn alarm(self) -> &'static str {
        match self {
            Stall::Log | Stall::FullDisk => "DISK_STALLED",
            Stall::Apply => "APPLY_STALLED",
            Stall::Core => "CORE_STALLED",
            Stall::Corrupt => "CORRUPT",
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stall::Log => "the disk of the log takes no writes",
            Stall::FullDisk => "the log waits for room on a full disk",
            Stall::Apply => "the store makes no progress with the entries it is to apply",
            Stall::Core => "the raft core does not answer",
            Stall::Corrupt => {
                "the data of this member differs from what a majority holds (CORRUPT); replace it by an empty disk"
            }
        })
    }
}

/// Why a node serves nothing but its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusOnly {
    /// The disk is from before a recovery of its cluster.
    #[error(
        "this disk is of incarnation {found} of its cluster, --incarnation-min says {wanted}: the cluster went on \
         without it; remove this member and add it again with an empty data directory"
    )]
    OldIncarnation {
        /// Its incarnation.
        found: u64,
        /// The lowest that is served.
        wanted: u64,
    },
    /// The disk lacks what it has acknowledged.
    #[error(
        "this disk went back: {missing}; it was put back from a copy, or loses what it has synced; remove this member \
         and add it again with an empty data directory"
    )]
    WentBack {
        /// What is missing.
        missing: String,
    },
    /// The disk is a copy of another member's, or the member has moved.
    #[error(
        "this disk is known to its cluster at {known}, but --advertise-peer says {advertised}: it may be a copy; \
         start it at its old address, or empty the data directory and add it as a new member"
    )]
    OtherAddress {
        /// What the membership says.
        known: String,
        /// What this node says.
        advertised: String,
    },
}
