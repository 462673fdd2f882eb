//! `NewHistory`: after a quorum was lost for good, revisions go on far enough ahead that none is ever given
//! twice, and all before is compacted.

use super::applier::Applier;
use crate::command::{Answer, Done, NewHistory};
use crate::layout::{self, meta};

impl Applier<'_> {
    pub(super) fn new_history(&mut self, new: &NewHistory) -> Answer {
        let head = &mut self.rows.head;
        head.revision = head.revision.saturating_add(new.revisions);
        head.compacted = head.revision;
        // Whoever raised an alarm may be gone for good; who is not raises it again.
        self.published.space_alarms.clear();
        self.rows.put_meta(meta::SPACE_ALARMS, &layout::encode_alarms([].iter()));
        // What is left here is the truth from now on.
        if !std::mem::take(&mut self.published.corrupt_alarms).is_empty() {
            self.rows.put_meta(meta::CORRUPT_ALARMS, &layout::encode_alarms([].iter()));
        }
        Answer::Done(Done {})
    }
}
