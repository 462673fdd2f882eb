//! `SetTtl`: sets or drops the TTL of an existing key, in a revision of its own.

use bytes::Bytes;

use super::applier::{Applier, has_room};
use super::deadline::deadline_ms;
use super::event::{Event, EventKind};
use super::growth::no_room;
use super::overlay::Slot;
use crate::command::{Answer, Reason, Refused, SetTtl, TtlSet};
use crate::error::StoreError;
use crate::feature;
use crate::layout::RecordHead;

impl Applier<'_> {
    pub(super) fn set_ttl(&mut self, set: SetTtl, now_ms: u64) -> Result<Answer, StoreError> {
        if set.key.is_empty() {
            return Ok(Answer::Refused(Refused::because(Reason::Invalid)));
        }
        let level = self.feature_level();
        let Some((old, _)) = self.overlay.look(&set.key)?.head() else {
            return Ok(Answer::Ttl(TtlSet { found: false, had_ttl: false }));
        };
        let answer = Answer::Ttl(TtlSet { found: true, had_ttl: old.deadline_ms != 0 });
        if set.ttl_ms == 0 && old.deadline_ms == 0 {
            return Ok(answer);
        }
        if feature::ttl_grows_store(level)
            && let Some(refused) = no_room(&self.rows.head, &self.published.space_alarms)
        {
            return Ok(Answer::Refused(refused));
        }
        let slot = self.overlay.slot(&set.key)?;
        let (_, value) = slot.record().expect("it was there a moment ago");
        let new = RecordHead {
            create_revision: old.create_revision,
            mod_revision: self.rows.next_revision(),
            version: old.version + 1,
            deadline_ms: deadline_ms(now_ms, set.ttl_ms),
        };
        if feature::ttl_shares_value(level)
            && !old.version.is_multiple_of(self.state.limits.shared_values_max)
        {
            self.rows.put_same_value(&set.key, old, new, value);
        } else {
            self.rows.put(&set.key, Some((old, value)), new, value);
        }
        let value = slot.value();
        *slot = Slot::Written(new, value.clone());
        let is_told = has_room(value.len(), &mut self.previous_room, &mut self.is_cut);
        let value = if is_told { value } else { Bytes::new() };
        let previous = is_told.then(|| old.into_record(set.key.clone(), value.clone()));
        let record = new.into_record(set.key, value);
        self.end_revision(vec![Event { kind: EventKind::Put, record, previous }]);
        Ok(answer)
    }
}
