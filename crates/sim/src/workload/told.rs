//! What clients were told, and what only the whole of it shows.

use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_client::Changes;
use kvorum_faults::journal::Journal;
use kvorum_faults::linear;
use kvorum_faults::timeline::{self, Mark};

use super::counters::Count;
use super::history::{History, Read};
use super::rights::Denied;
use super::watchers::{Prints, Visit, fingerprint};
use crate::model;

/// How long the search through one history may take, in real time.
const SEARCH_MAX: Duration = Duration::from_secs(60);

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    /// What was done to registers.
    pub records: Vec<linear::Record>,
    /// What was done to groups of keys.
    pub groups: Vec<model::Record>,
    /// Revisions against the clock.
    pub marks: Vec<Mark>,
    /// Keys that were inserted, and the revision of each, if it was acknowledged.
    pub inserts: BTreeMap<String, Option<u64>>,
    /// Attempts to raise counters.
    pub counters: BTreeMap<u32, Count>,
    /// What was read at which revision.
    pub reads: Vec<Read>,
    /// What watchers that came and went were told.
    pub visits: Vec<Visit>,
    /// When somebody had no right to what he wrote.
    pub denied: Vec<Denied>,
    /// What each of the watchers of all keys has seen.
    pub journals: Vec<Journal>,
    /// Every change, as the first watcher was told of it.
    history: History,
    prints: Prints,
    /// Answers.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Keys whose TTL was seen to end.
    pub ttls: u64,
    /// Watchers have not followed to the end.
    pub has_new_history: bool,
    /// What must not be.
    pub violation: Option<String>,
}

impl Told {
    /// Takes the next revision of the first watcher.
    pub fn take(&mut self, changed: &Changes, asks_previous: bool, compacted: u64) -> Result<(), String> {
        let events = changed.events.iter().map(|event| (event.kv.key.to_vec(), fingerprint(event)));
        self.prints.insert(changed.revision, events.collect());
        self.history.take(changed, asks_previous, compacted)
    }

    /// Looks at all of it.
    pub fn check(&self) -> Result<(), String> {
        let last = self.prints.last_key_value().map_or(0, |(last, _)| *last);
        if !self.has_new_history {
            for pair in self.journals.windows(2) {
                pair[0].check_equal(&pair[1]).map_err(|failure| format!("two watchers differ: {failure}"))?;
            }
        }
        self.denied.iter().try_for_each(|denied| denied.check(&self.prints))?;
        self.reads.iter().try_for_each(|read| self.history.check(read))?;
        self.visits.iter().try_for_each(|visit| visit.check(&self.prints, last))?;
        timeline::check(&self.marks).map_err(|failure| failure.to_string())?;
        linear::check(&self.records, SEARCH_MAX).map_err(|failure| failure.to_string())?;
        model::check(&self.groups, SEARCH_MAX)
    }
}
