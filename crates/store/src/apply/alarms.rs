//! `SpaceAlarm`: a member's disk is nearly full, or no longer. While any alarm stands, growth is refused.
//!
//! `CorruptAlarm`: a member's data differs from what a majority holds. Apply goes on there as everywhere;
//! that the member serves no reads and does not lead is its own business.

use std::collections::BTreeSet;

use super::applier::Applier;
use crate::command::{Answer, CorruptAlarm, Done, SpaceAlarm};
use crate::layout::{self, meta};

impl Applier<'_> {
    pub(super) fn space_alarm(&mut self, alarm: &SpaceAlarm) -> Answer {
        let alarms = &mut self.published.space_alarms;
        if set(alarms, alarm.node_id, alarm.raised) {
            self.rows.put_meta(meta::SPACE_ALARMS, &layout::encode_alarms(alarms.iter()));
        }
        Answer::Done(Done {})
    }

    pub(super) fn corrupt_alarm(&mut self, alarm: &CorruptAlarm) -> Answer {
        let alarms = &mut self.published.corrupt_alarms;
        if set(alarms, alarm.node_id, alarm.raised) {
            self.rows.put_meta(meta::CORRUPT_ALARMS, &layout::encode_alarms(alarms.iter()));
        }
        Answer::Done(Done {})
    }
}

/// Answers whether it was not so before.
fn set(alarms: &mut BTreeSet<u64>, node_id: u64, raised: bool) -> bool {
    if raised { alarms.insert(node_id) } else { alarms.remove(&node_id) }
}
