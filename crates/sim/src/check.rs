//! What must hold at any moment, looked at whenever a node has applied something or has another place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvorum_node::observer::{AppliedRun, Observer};
use kvorum_node::place::Overview;

use crate::world::network::HostId;
use crate::world::trace::{Trace, hash_bytes};

/// Entries whose content is remembered: more than any member lags behind another one.
const ENTRIES_MAX: usize = 1_000_000;

/// What all members have done so far.
#[derive(Debug)]
pub struct Checks {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By index: term and content of the entry, and what became of it.
    applied: BTreeMap<u64, Applied>,
    /// By term: who led.
    leaders: BTreeMap<u64, u64>,
    violation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    term: u64,
    payload: u64,
    /// None where a part of the entry was applied before the process was started.
    outcomes: Option<u64>,
}

/// The checks as one member's node is told of them.
pub struct Member {
    pub(crate) checks: Arc<Checks>,
    pub(crate) host: HostId,
}

impl Checks {
    /// Nothing was done yet.
    pub fn new(trace: Arc<Trace>) -> Arc<Checks> {
        Arc::new(Checks { trace, state: Mutex::default() })
    }

    /// What must not be and was, if anything.
    pub fn violation(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).violation.take()
    }

    fn with(&self, work: impl FnOnce(&mut State)) {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    fn applied(&mut self, host: HostId, index: u64, now: Applied) {
        let known = *self.applied.entry(index).or_insert(now);
        let same_outcomes = match (known.outcomes, now.outcomes) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        if (known.term, known.payload) != (now.term, now.payload) || !same_outcomes {
            let what = format!("member {host} applied {now:x?} at {index}, and another one {known:x?}");
            self.violation.get_or_insert(what);
        }
        if known.outcomes.is_none() {
            self.applied.insert(index, now);
        }
        while self.applied.len() > ENTRIES_MAX {
            self.applied.pop_first();
        }
    }

    fn leads(&mut self, term: u64, node_id: u64) {
        let known = *self.leaders.entry(term).or_insert(node_id);
        if known != node_id {
            let what = format!("{known:016x} and {node_id:016x} both led in term {term}");
            self.violation.get_or_insert(what);
        }
    }
}

impl Observer for Member {
    fn applied(&self, run: &AppliedRun<'_>) {
        for (at, entry) in run.entries.iter().enumerate() {
            let is_whole = at > 0 || run.commands_before == 0;
            let outcomes = run.outcomes.get(at).filter(|_| is_whole);
            let applied = Applied {
                term: entry.log_id.term,
                payload: hash_bytes(&entry.payload),
                outcomes: outcomes.map(|outcomes| hash_bytes(format!("{outcomes:?}").as_bytes())),
            };
            self.checks.with(|state| state.applied(self.host, entry.log_id.index, applied));
            let numbers = [self.host as u64, entry.log_id.index, entry.log_id.term, applied.payload];
            self.checks.trace.note("applied", &numbers, &[]);
        }
        if run.entries.is_empty() {
            self.checks.trace.note("installed", &[self.host as u64, run.store.revision()], &[]);
        }
    }

    fn place_changed(&self, place: &Overview) {
        let host = self.host;
        if place.is_leader() {
            self.checks.with(|state| state.leads(place.term, place.node_id));
            self.checks.trace.tell("leader", format!("member {host} leads in term {}", place.term));
        }
    }
}
