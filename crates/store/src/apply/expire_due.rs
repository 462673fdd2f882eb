//! `ExpireDue`: deletes the keys that were found due, each only if it still is.

use super::applier::Applier;
use crate::command::{Answer, DueKey, ExpireDue, Written};
use crate::error::StoreError;

impl Applier<'_> {
    /// Deletes, in one revision, the keys that are due and have not changed since they were found.
    pub(super) fn expire_due(&mut self, due: ExpireDue, now_ms: u64) -> Result<Answer, StoreError> {
        let mut found = due.keys;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut events = Vec::with_capacity(found.len());
        for DueKey { key, mod_revision } in found {
            let slot = self.overlay.slot(&key)?;
            let is_due = slot.record().is_some_and(|(head, _)| {
                head.mod_revision == mod_revision && (1..=now_ms).contains(&head.deadline_ms)
            });
            if is_due {
                events.extend(self.delete(key)?);
            }
        }
        let deleted = events.len() as u64;
        self.end_revision(events);
        Ok(Answer::Written(Written { deleted: vec![deleted], previous: Vec::new() }))
    }
}
