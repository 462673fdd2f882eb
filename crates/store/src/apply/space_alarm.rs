//! `SpaceAlarm`: a member's disk is nearly full, or no longer. While any alarm stands, growth is refused.

use super::applier::Applier;
use crate::command::{Answer, Done, SpaceAlarm};
use crate::layout::{self, meta};

impl Applier<'_> {
    pub(super) fn space_alarm(&mut self, alarm: &SpaceAlarm) -> Answer {
        let alarms = &mut self.published.space_alarms;
        let changed = if alarm.raised { alarms.insert(alarm.node_id) } else { alarms.remove(&alarm.node_id) };
        if changed {
            self.rows.put_meta(meta::SPACE_ALARMS, &layout::encode_alarms(alarms.iter()));
        }
        Answer::Done(Done {})
    }
}
