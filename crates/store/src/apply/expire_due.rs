//! `ExpireDue`: deletes the keys that were found due, each only if it still is.

use super::applier::Applier;
use crate::command::{Answer, DueKey, ExpireDue, Written};
use crate::error::StoreError;
use crate::feature;
use crate::layout::record_bytes;

impl Applier<'_> {
    /// Deletes, in one revision, the keys that are due and have not changed since they were found, as many as one
    /// write may take with it; the others are still due.
    pub(super) fn expire_due(&mut self, due: ExpireDue, now_ms: u64) -> Result<Answer, StoreError> {
        let mut found = due.keys;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let bytes_max = self.state.limits.superseded_bytes_max;
        let bytes_max = feature::bounds_superseded(self.feature_level()).then_some(bytes_max);
        let (mut events, mut bytes) = (Vec::with_capacity(found.len()), 0);
        for DueKey { key, mod_revision } in found {
            let Some((head, value_bytes)) = self.overlay.look(&key)?.head() else { continue };
            if head.mod_revision != mod_revision || !(1..=now_ms).contains(&head.deadline_ms) {
                continue;
            }
            bytes += record_bytes(key.len(), value_bytes);
            if bytes_max.is_some_and(|max| bytes > max) && !events.is_empty() {
                break;
            }
            events.extend(self.delete(key, false)?);
        }
        let deleted = events.len() as u64;
        self.end_revision(events);
        Ok(Answer::Written(Written { deleted: vec![deleted], previous: Vec::new() }))
    }
}
