//! Who looks on at what a node does.

use kvorum_store::Store;
use kvorum_store::command::Outcome;
use kvorum_store::entry::Entry;

use crate::place::Overview;

/// Is told what a node does, in the midst of its steps: a simulation checks there what must always hold. It must
/// not wait. In production there is none.
pub trait Observer: Send + Sync {
    /// The store has applied a run of entries, or was replaced by a snapshot.
    fn applied(&self, run: &AppliedRun<'_>);
    /// The node has another role, or is in another term.
    fn place_changed(&self, place: &Overview);
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
