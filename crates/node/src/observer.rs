//! Who looks on at what a node does.

use std::sync::Arc;

use kvorum_store::Store;
use kvorum_store::command::Outcome;
use kvorum_store::entry::{Entry, LogId};
use kvorum_store::log::Vote;

use crate::place::{Overview, Positions};

/// Is told what a node does, in the midst of its steps: a simulation checks there what must always hold. It must
/// not wait. In production there is none.
pub trait Observer: Send + Sync {
    /// The store has applied a run of entries, or was replaced by a snapshot.
    fn applied(&self, run: &AppliedRun<'_>);
    /// The node has another role, or is in another term.
    fn place_changed(&self, place: &Overview);
    /// A vote is durable: whoever asked for it is told from now on.
    fn voted(&self, vote: Vote);
    /// The log is durable up to this entry: the leader is told from now on.
    fn appended(&self, last: LogId);
    /// The log, which ended at `before`, is to end here. What came after is void, be it durable or not.
    fn cut(&self, last: Option<LogId>, before: Option<LogId>);
    /// The node serves.
    fn serves(&self, node: Arc<dyn Glance>);
}

/// A running node, to be looked at from outside. It does not keep the node.
pub trait Glance: Send + Sync {
    /// How the node is now; none once it has stopped.
    fn look(&self) -> Option<Seen>;
}

/// How a node is at a moment.
#[derive(Clone)]
pub struct Seen {
    /// Its place in its cluster.
    pub place: Arc<Overview>,
    /// Whether clients should be sent here, else why not.
    pub ready: Result<(), String>,
    /// Positions in its log.
    pub positions: Positions,
    /// Cluster time on it, in milliseconds.
    pub cluster_time_ms: u64,
    /// The alarms on its account.
    pub alarms: Vec<String>,
    /// What it holds.
    pub store: Store,
    /// What waits in memory, by name: so many bytes, of so many that may.
    pub queues: Vec<(&'static str, u64, u64)>,
}

/// A run of entries that the store has applied just now.
#[derive(Clone, Copy)]
pub struct AppliedRun<'a> {
    /// The entries; none where the store was replaced by a snapshot.
    pub entries: &'a [Entry],
    /// For each entry, for each of its commands, what became of it.
    pub outcomes: &'a [Vec<Outcome>],
    /// So many commands of the first entry were applied before the process was last started. What became of them
    /// is not told again.
    pub commands_before: u32,
    /// The store as the run has left it.
    pub store: &'a Store,
}
