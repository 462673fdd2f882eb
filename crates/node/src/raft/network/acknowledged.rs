//! What members have acknowledged to this leader: they must have it ever after.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::raft::types::LogId;

/// The furthest position that each member has acknowledged, in the last term in which this node led.
#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<Positions>);

#[derive(Debug, Default)]
struct Positions {
    term: u64,
    /// By node id.
    of: HashMap<u64, LogId>,
}

impl Acknowledged {
    /// Takes note of what a member has acknowledged to the leader of a term.
    pub fn note(&self, node_id: u64, term: u64, id: LogId) {
        let mut positions = self.lock();
        if term > positions.term {
            *positions = Positions { term, of: HashMap::new() };
        }
        if term == positions.term {
            let known = positions.of.entry(node_id).or_insert(id);
            *known = (*known).max(id);
        }
    }

    /// What a member has acknowledged to the leader of a term.
    pub fn of(&self, node_id: u64, term: u64) -> Option<LogId> {
        let positions = self.lock();
        positions.of.get(&node_id).filter(|_| positions.term == term).copied()
    }

    /// A panic while the lock was held has left what it guards whole.
    fn lock(&self) -> MutexGuard<'_, Positions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
