//! Applying entries of the raft log: one WriteBatch for a run of them, with the applied position in it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::applier::Applier;
use super::event::RevisionEvents;
use crate::command::{Answer, Command, Done, Kind, OpKind, Outcome, Reason, Refused};
use crate::entry::{Batch, Entry, LogId, Payload};
use crate::error::StoreError;
use crate::feature;
use crate::layout::{self, meta};
use crate::state::{State, lock};

/// What applying a run of entries did.
#[derive(Debug, Default)]
pub struct Run {
    /// For each entry, for each of its commands, what became of it; none for blank and membership
    /// entries.
    pub outcomes: Vec<Vec<Outcome>>,
    /// What changed, in order of revision.
    pub events: Vec<Arc<RevisionEvents>>,
}

/// Applies entries in order, and writes what they lead to.
pub(crate) fn apply(state: &State, run: &[Entry]) -> Result<Run, StoreError> {
    let mut recent = lock(&state.writer);
    let published = state.published().clone();
    let published_applied = published.head.applied;
    check_order(published_applied, run)?;
    let payloads = run.iter().map(decode).collect::<Result<Vec<_>, _>>()?;

    let payload_bytes: usize = run.iter().map(|entry| entry.payload.len()).sum();
    let mut applier = Applier::new(state, published, &mut recent, payload_bytes);
    applier.load(&payloads)?;
    let mut outcomes = Vec::with_capacity(run.len());
    for (entry, payload) in run.iter().zip(payloads) {
        outcomes.push(applier.entry(entry.log_id, payload)?);
    }
    applier.commit()?;
    let last = run.last().map(|entry| entry.log_id).or(published_applied);
    assert_eq!(state.head().applied, last, "what is published is the run's end");
    Ok(Run { outcomes, events: applier.events })
}

/// Entries are applied once each and without a gap; anything else would make this replica differ.
fn check_order(applied: Option<LogId>, run: &[Entry]) -> Result<(), StoreError> {
    let mut applied = applied.map(|id| id.index);
    for entry in run {
        if entry.log_id.index != applied.map_or(0, |index| index + 1) {
            return Err(StoreError::OutOfOrder { applied, found: entry.log_id });
        }
        applied = Some(entry.log_id.index);
    }
    Ok(())
}

/// An entry with its commands decoded. A command that cannot be decoded is `None`: it is refused,
/// the same on all members.
enum Decoded {
    Blank,
    Membership(Bytes),
    Batch { level: u32, stamp_ms: u64, commands: Vec<Option<Kind>> },
}

fn decode(entry: &Entry) -> Result<Decoded, StoreError> {
    let payload = Payload::decode(entry.payload.clone());
    Ok(match payload.map_err(|source| StoreError::Entry { log_id: entry.log_id, source })? {
        Payload::Blank => Decoded::Blank,
        Payload::Membership(bytes) => Decoded::Membership(bytes),
        Payload::Batch(Batch { level, stamp_ms, commands }) => {
            let kind = |bytes: Bytes| Command::decode(bytes).ok().and_then(|command| command.kind);
            Decoded::Batch { level, stamp_ms, commands: commands.into_iter().map(kind).collect() }
        }
    })
}

impl Applier<'_> {
    /// Reads all keys that the commands name, at once.
    fn load(&mut self, payloads: &[Decoded]) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        for payload in payloads {
            let Decoded::Batch { commands, .. } = payload else { continue };
            commands.iter().flatten().for_each(|command| named_keys(command, &mut keys));
        }
        self.overlay.load(keys)
    }

    fn entry(&mut self, log_id: LogId, payload: Decoded) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::new();
        match payload {
            Decoded::Blank => {}
            Decoded::Membership(bytes) => {
                self.rows.put_meta(meta::MEMBERSHIP, &layout::encode_position(log_id, &bytes));
                self.published.membership = Some((log_id, bytes));
            }
            Decoded::Batch { level, stamp_ms, commands } => {
                let now_ms = self.rows.head.cluster_time_ms.max(stamp_ms);
                self.rows.head.cluster_time_ms = now_ms;
                let count = commands.len();
                outcomes.reserve(count);
                for (number, command) in (0..).zip(commands) {
                    if let Some(Kind::RaiseFeatureLevel(raise)) = &command
                        && raise.level <= level
                    {
                        self.raise_feature_level(log_id, raise)?;
                    }
                    outcomes.push(self.command(number, now_ms, command)?);
                }
                assert_eq!(outcomes.len(), count, "each command has an outcome");
            }
        }
        self.rows.head.applied = Some(log_id);
        self.rows.head.commands_applied = 0;
        Ok(outcomes)
    }

    fn command(&mut self, number: u32, now_ms: u64, command: Option<Kind>) -> Result<Outcome, StoreError> {
        if number < self.rows.head.commands_applied {
            // It was applied before a crash, in a batch that ended inside this entry.
            return Ok(self.outcome(Answer::Done(Done {})));
        }
        // Should the command write what has gathered before it, this is where that ends.
        self.rows.head.commands_applied = number;
        let known = |kind: &Kind| feature::required(kind) <= self.feature_level();
        let answer = match command.filter(known) {
            None => Answer::Refused(Refused::because(Reason::Unknown)),
            Some(Kind::Write(write)) => self.write(write, now_ms)?,
            Some(Kind::SetTtl(set)) => self.set_ttl(set, now_ms)?,
            Some(Kind::ExpireDue(due)) => self.expire_due(due, now_ms)?,
            Some(Kind::Compact(compact)) => self.compact(&compact),
            Some(Kind::CompactStep(step)) => self.compact_step(&step)?,
            Some(Kind::Tick(_) | Kind::RaiseFeatureLevel(_)) => Answer::Done(Done {}),
            Some(Kind::SpaceAlarm(alarm)) => self.space_alarm(&alarm),
            Some(Kind::CorruptAlarm(alarm)) => self.corrupt_alarm(&alarm),
            Some(Kind::NewHistory(new)) => self.new_history(&new),
            Some(Kind::SetQuota(quota)) => self.set_quota(&quota),
        };
        let outcome = self.outcome(answer);
        if self.rows.batch_bytes() >= self.state.limits.batch_bytes_max {
            self.rows.head.commands_applied = number + 1;
            self.commit()?;
        }
        Ok(outcome)
    }

    fn outcome(&self, answer: Answer) -> Outcome {
        Outcome { revision: self.rows.head.revision, answer: Some(answer) }
    }
}

/// The keys that a command reads by name.
fn named_keys(command: &Kind, keys: &mut Vec<Bytes>) {
    match command {
        Kind::Write(write) => {
            keys.extend(write.conditions.iter().map(|condition| condition.key.clone()));
            for op in &write.ops {
                match &op.kind {
                    Some(OpKind::Put(put)) => keys.push(put.key.clone()),
                    Some(OpKind::Delete(range)) if range.is_key() => keys.push(range.start.clone()),
                    _ => {}
                }
            }
        }
        Kind::SetTtl(set) => keys.push(set.key.clone()),
        Kind::ExpireDue(due) => keys.extend(due.keys.iter().map(|due| due.key.clone())),
        _ => {}
    }
}
