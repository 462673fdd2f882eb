//! What a run of entries leads to, in one attempt or, on a full disk, in several.

use std::sync::Arc;
use std::time::Duration;

use super::event::RevisionEvents;
use crate::command::Outcome;
use crate::error::StoreError;
use crate::layout::Head;

/// How long a write waits for room on a full disk, and how often it tries: three times as long as
/// RocksDB waits between its attempts to flush. A leader must not hold up the others for longer.
const ROOM_PERIOD: Duration = Duration::from_millis(100);
const ROOM_ATTEMPTS_MAX: u32 = 150;

/// What applying a run of entries did.
#[derive(Debug, Default)]
pub struct Run {
    /// For each entry, for each of its commands, what became of it; none for blank and membership
    /// entries.
    pub outcomes: Vec<Vec<Outcome>>,
    /// What changed, in order of revision.
    pub events: Vec<Arc<RevisionEvents>>,
    /// So many commands of the first entry were applied before a crash, and have no outcome here.
    pub commands_before: u32,
}

/// What an attempt to apply a run came to.
#[derive(Debug)]
pub enum Attempt {
    /// It is applied.
    Done(Run),
    /// The disk is full: a part of it may be applied, and the next attempt goes on from there.
    Full {
        /// When it may be tried again.
        wait: Duration,
    },
}

/// A run on its way into the store: what attempts before the next have applied of it.
#[derive(Debug, Default)]
pub struct Applying {
    /// For each entry of the run, whether somebody waits for its outcomes; somebody does for all without this.
    awaited: Vec<bool>,
    /// Of whole entries.
    outcomes: Vec<Vec<Outcome>>,
    /// Of the commands of the entry after these.
    partial: Vec<Outcome>,
    events: Vec<Arc<RevisionEvents>>,
    commands_before: u32,
    /// Attempts that found no room, since one has last applied anything.
    in_vain: u32,
}

impl Applying {
    /// Of a run of which the outcomes of these entries are waited for. The others' have no records in them: those of a
    /// long run would not fit in memory.
    pub fn awaited(awaited: Vec<bool>) -> Applying {
        Applying { awaited, ..Applying::default() }
    }

    /// Whether somebody waits for the outcomes of each entry that is still to be applied.
    pub(super) fn rest_awaited(&self) -> Vec<bool> {
        self.awaited.get(self.entries()..).unwrap_or_default().to_vec()
    }

    /// Whether an attempt before has met a full disk.
    pub(super) fn is_again(&self) -> bool {
        self.in_vain > 0
    }

    /// How many entries are applied.
    pub(super) fn entries(&self) -> usize {
        self.outcomes.len()
    }

    pub(super) fn begin(&mut self, head: &Head) {
        if !self.is_again() {
            self.commands_before = head.commands_applied;
        }
    }

    /// Takes what an attempt has said, of which so many whole entries, and as many commands of the one after
    /// them as `head` says, are applied. The rest is to be done again.
    pub(super) fn keep(
        &mut self,
        mut outcomes: Vec<Vec<Outcome>>,
        events: Vec<Arc<RevisionEvents>>,
        entries: usize,
        head: &Head,
    ) {
        // The attempt has passed over the commands of its first entry that were applied before.
        let heard = std::mem::take(&mut self.partial);
        if let Some(first) = outcomes.first_mut() {
            assert!(first.len() >= heard.len(), "an attempt goes on behind what is applied");
            first.splice(..heard.len(), heard);
        }
        self.outcomes.extend(outcomes.drain(..entries));
        self.partial = outcomes.into_iter().next().unwrap_or_default();
        self.partial.truncate(head.commands_applied as usize);
        self.events.extend(events.into_iter().filter(|events| events.revision <= head.revision));
    }

    /// Takes note that there was no room, after something was applied or after nothing was. When to try again.
    pub(super) fn full(&mut self, error: StoreError, progress: bool) -> Result<Attempt, StoreError> {
        if self.in_vain == 0 {
            tracing::error!(%error, "the disk is full: writes to the store wait; free space on this disk");
        }
        self.in_vain = if progress { 1 } else { self.in_vain + 1 };
        if self.in_vain > ROOM_ATTEMPTS_MAX { Err(error) } else { Ok(Attempt::Full { wait: ROOM_PERIOD }) }
    }

    pub(super) fn done(&mut self) -> Attempt {
        if self.is_again() {
            tracing::info!("the disk has room again: writes to the store go on");
        }
        let Applying { outcomes, events, commands_before, .. } = std::mem::take(self);
        Attempt::Done(Run { outcomes, events, commands_before })
    }
}
