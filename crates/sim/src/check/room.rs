//! Whether what grows the store is refused where the quota is used up or a disk is full, and only there.

use bytes::Bytes;
use kvorum_node::observer::AppliedRun;
use kvorum_store::Store;
use kvorum_store::command::{Answer, Command, Kind, Op, OpKind, Reason};
use kvorum_store::entry::Payload;
use prost::Message as _;

/// What room a store had at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    quota_bytes: u64,
    is_used_up: bool,
    has_alarm: bool,
}

impl Room {
    /// As the store is now.
    pub fn of(store: &Store) -> Room {
        let quota_bytes = store.quota_bytes();
        let is_used_up = quota_bytes != 0 && store.logical_bytes() >= quota_bytes;
        Room { quota_bytes, is_used_up, has_alarm: !store.space_alarms().is_empty() }
    }

    /// Judges a run before which the store had this room, and after which it has `after`. Where that is the same, it was
    /// so in between, unless the run has compacted, changed the quota, or said that a disk is full or no longer is.
    pub fn judge(self, after: Room, run: &AppliedRun<'_>) -> Result<(), String> {
        if self != after {
            return Ok(());
        }
        let commands = || {
            run.entries.iter().zip(run.outcomes).flat_map(|(entry, outcomes)| {
                kinds(&entry.payload)
                    .zip(outcomes)
                    .map(move |(kind, outcome)| (entry.log_id.index, kind, outcome))
            })
        };
        if commands().any(|(_, kind, _)| moves(&kind)) {
            return Ok(());
        }
        let is_short = self.is_used_up || self.has_alarm;
        for (index, kind, outcome) in commands() {
            let puts = matches!(kind, Some(Kind::Write(write)) if write.ops.iter().any(is_put));
            match &outcome.answer {
                Some(Answer::Written(_)) if puts && is_short => {
                    return Err(format!("has written at {index} where there was no room: {self:?}"));
                }
                Some(Answer::Refused(refused)) if refused.reason() == Reason::NoSpace && !is_short => {
                    return Err(format!("has refused at {index} what there was room for: {self:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn kinds(payload: &Bytes) -> impl Iterator<Item = Option<Kind>> + use<> {
    let commands = match Payload::decode(payload.clone()) {
        Ok(Payload::Batch(batch)) => batch.commands,
        _ => Vec::new(),
    };
    commands.into_iter().map(|bytes| Command::decode(bytes).ok()?.kind)
}

fn is_put(op: &Op) -> bool {
    matches!(op.kind, Some(OpKind::Put(_)))
}

/// Whether a command may make room, or change what counts as such.
fn moves(kind: &Option<Kind>) -> bool {
    use Kind::{Auth, CompactStep, NewHistory, SetQuota, SpaceAlarm};
    matches!(kind, Some(Auth(_) | CompactStep(_) | NewHistory(_) | SetQuota(_) | SpaceAlarm(_)))
}
