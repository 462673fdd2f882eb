//! What a step is fenced by: the object's version, the disk and the log position that it was planned for. What
//! changed meanwhile refuses it.

use std::fmt;

use crate::names::hex;

/// Which object, in which version, a deletion is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Its uid.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
}

/// Whose disk it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its cluster.
    pub cluster_id: u64,
    /// Its node id.
    pub node_id: u64,
    /// This disk founds the cluster.
    pub founder: bool,
}

/// Whether a disk that is kept has left the cluster, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retired {
    /// It has not.
    #[default]
    No,
    /// Its member was removed; what it has, the others have.
    Left,
    /// A recovery left it behind: it may have what nobody else has, and only a person lets it go.
    Behind {
        /// The incarnation that the recovery began.
        incarnation: u64,
    },
}

/// A position in the raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The term.
    pub term: u64,
    /// The index.
    pub index: u64,
}

/// Which disk a recovery begins with, in which state: `<incarnation>/<node id>@<term>.<index>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The incarnation that lost its quorum.
    pub incarnation: u64,
    /// The survivor.
    pub node_id: u64,
    /// Its last log entry.
    pub last_log: LogId,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { incarnation, node_id, last_log } = self;
        write!(f, "{incarnation}/{}@{}.{}", hex(*node_id), last_log.term, last_log.index)
    }
}
