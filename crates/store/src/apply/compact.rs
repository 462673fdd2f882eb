//! Compaction: forgetting what is older than a revision.
//!
//! A compaction takes effect at once: no older revision can be read any more. What that makes
//! superfluous is removed in steps, which are commands too, so that the logical size of the store
//! stays the same on all members. A step walks `changes`: each change up to the compacted revision
//! loses the record that it superseded, which ended there at the latest, and goes itself if it is
//! older. The changes of the compacted revision stay, so that a watch can begin there.

use rocksdb::ReadOptions;

use super::applier::Applier;
use crate::command::{Answer, Compact, CompactStep, Done, Reason, Refused};
use crate::db;
use crate::error::StoreError;
use crate::layout::{CHANGES, Change, change_key, decode_change_key};

impl Applier<'_> {
    pub(super) fn compact(&mut self, compact: &Compact) -> Answer {
        let head = &mut self.rows.head;
        if compact.revision <= head.compacted {
            return Answer::Refused(Refused {
                actual: head.compacted,
                ..Refused::because(Reason::Compacted)
            });
        }
        if compact.revision > head.revision {
            return Answer::Refused(Refused {
                actual: head.revision,
                ..Refused::because(Reason::FutureRevision)
            });
        }
        head.compacted = compact.revision;
        Answer::Done(Done {})
    }

    pub(super) fn compact_step(&mut self, step: &CompactStep) -> Result<Answer, StoreError> {
        if !self.rows.head.compaction_backlog() {
            return Ok(Answer::Done(Done {}));
        }
        // A step finds changes in the database alone. Those that gather for this run's batch have to
        // be there too: what a step does must not depend on where runs begin and end.
        if self.published.head.revision < self.rows.head.compacted {
            self.commit()?;
        }
        let state = self.state;
        let head = self.rows.head;
        let kept = (head.compacted, 0);
        let end = (head.compacted + 1, 0);
        // Once all that goes is gone, only the superseded records of what is kept are left to do.
        let from = if head.compact_next < kept { head.compact_next } else { head.superseded_next.max(kept) };
        let mut options = ReadOptions::default();
        options.set_iterate_range(&change_key(from.0, from.1)[..]..&change_key(end.0, end.1)[..]);
        let mut changes = state.db.raw_iterator_cf_opt(db::family(&state.db, CHANGES), options);
        let mut left = step.changes_max.clamp(1, state.limits.step_changes_max);
        let malformed = |_| StoreError::malformed(state.path(), "a row of `changes` is no change");
        changes.seek_to_first();
        let next = loop {
            let Some((key, row)) = changes.item() else { break end };
            let at = decode_change_key(key).map_err(malformed)?;
            if left == 0 {
                break at;
            }
            let change = Change::decode(row).map_err(malformed)?;
            if at >= head.superseded_next {
                self.rows.forget_superseded(&change);
            }
            if at < kept {
                self.rows.forget(at, &change);
            }
            left -= 1;
            changes.next();
        };
        changes.status().map_err(StoreError::database("read changes", state.path()))?;
        self.rows.head.compact_next = next.min(kept);
        self.rows.head.superseded_next = next.max(head.superseded_next);
        Ok(Answer::Done(Done {}))
    }
}
