//! Applying entries of the raft log: one WriteBatch for a run of them, with the applied position in it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rocksdb::WriteOptions;

use crate::command::{
    Answer, Command, Done, Kind, NewHistory, OpKind, Outcome, RaiseFeatureLevel, Reason, Record, Refused,
    SetTtl, SpaceAlarm, TtlSet,
};
use crate::db;
use crate::entry::{Batch, Entry, LogId, Payload};
use crate::error::StoreError;
use crate::feature;
use crate::layout::{self, CURRENT, RecordHead, meta};
use crate::overlay::{Overlay, Slot};
use crate::recent::Recent;
use crate::rows::Rows;
use crate::state::{Published, State, lock};
use crate::write;

/// What applying a run of entries did.
#[derive(Debug, Default)]
pub struct Run {
    /// For each entry, for each of its commands, what became of it; none for blank and membership
    /// entries.
    pub outcomes: Vec<Vec<Outcome>>,
    /// What changed, in order of revision.
    pub events: Vec<Arc<RevisionEvents>>,
}

/// All that one revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: u64,
    /// Its changes, in the order of the command's operations.
    pub events: Vec<Event>,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The record as it is now; of a deleted one only key and mod revision, which is the delete's.
    pub record: Record,
    /// The record before, if there was one.
    pub previous: Option<Record>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, or has expired.
    Delete,
}

pub(crate) fn apply(state: &State, run: &[Entry]) -> Result<Run, StoreError> {
    let mut recent = lock(&state.writer);
    let published = state.published().clone();
    check_order(published.head.applied, run)?;
    let payloads = run.iter().map(decode).collect::<Result<Vec<_>, _>>()?;

    let payload_bytes: usize = run.iter().map(|entry| entry.payload.len()).sum();
    let mut applier = Applier::new(state, published, &mut recent, payload_bytes);
    applier.load(&payloads)?;
    let mut outcomes = Vec::with_capacity(run.len());
    for (entry, payload) in run.iter().zip(payloads) {
        outcomes.push(applier.entry(entry.log_id, payload)?);
    }
    applier.commit()?;
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

/// The state as the run at hand leaves it, on the way to the database.
pub(crate) struct Applier<'db> {
    pub(crate) state: &'db State,
    pub(crate) overlay: Overlay<'db>,
    pub(crate) rows: Rows<'db>,
    /// Its head is that of the last commit; the present one is in `rows`.
    pub(crate) published: Published,
    events: Vec<Arc<RevisionEvents>>,
    write_options: WriteOptions,
}

impl<'db> Applier<'db> {
    fn new(state: &'db State, published: Published, recent: &'db mut Recent, payload_bytes: usize) -> Self {
        let overlay = Overlay::new(&state.db, db::family(&state.db, CURRENT), recent);
        // A put's row in `current` and, when it overwrites, in `history` take about its own bytes.
        let rows = Rows::new(&state.db, published.head, 2 * payload_bytes);
        let write_options = db::write_options();
        Applier { state, overlay, rows, published, events: Vec::new(), write_options }
    }

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
                outcomes.reserve(commands.len());
                for (number, command) in (0..).zip(commands) {
                    if let Some(Kind::RaiseFeatureLevel(raise)) = &command
                        && raise.level <= level
                    {
                        self.raise_feature_level(log_id, raise)?;
                    }
                    outcomes.push(self.command(number, now_ms, command)?);
                }
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
            None => Answer::Refused(refused(Reason::Unknown)),
            Some(Kind::Write(write)) => self.write(write, now_ms)?,
            Some(Kind::SetTtl(set)) => self.set_ttl(set, now_ms)?,
            Some(Kind::ExpireDue(due)) => self.expire(due, now_ms)?,
            Some(Kind::Compact(compact)) => self.compact(compact),
            Some(Kind::CompactStep(step)) => self.compact_step(step)?,
            Some(Kind::Tick(_) | Kind::RaiseFeatureLevel(_)) => Answer::Done(Done {}),
            Some(Kind::SpaceAlarm(alarm)) => self.space_alarm(alarm),
            Some(Kind::NewHistory(new)) => self.new_history(new),
            Some(Kind::SetQuota(quota)) => {
                self.rows.head.quota_bytes = quota.bytes;
                Answer::Done(Done {})
            }
        };
        let outcome = self.outcome(answer);
        if self.rows.batch_bytes() >= self.state.limits.batch_bytes_max {
            self.rows.head.commands_applied = number + 1;
            self.commit()?;
        }
        Ok(outcome)
    }

    /// The cluster's feature level as of the entry at hand: what its commands may rely on.
    pub(crate) fn feature_level(&self) -> u32 {
        self.rows.head.feature_level
    }

    /// Raises the cluster's level; it never falls. Where the level is not known, the process must stop:
    /// what the cluster does from here on is not known either.
    fn raise_feature_level(&mut self, log_id: LogId, raise: &RaiseFeatureLevel) -> Result<(), StoreError> {
        let RaiseFeatureLevel { level, release } = raise;
        if *level <= self.feature_level() {
            return Ok(());
        }
        let known = self.state.feature_level_max;
        if *level > known {
            return Err(StoreError::FeatureLevel { log_id, level: *level, known, release: release.clone() });
        }
        self.rows.head.feature_level = *level;
        self.rows.put_meta(meta::FEATURE_LEVEL, &layout::encode_feature_level(*level, release));
        Ok(())
    }

    fn outcome(&self, answer: Answer) -> Outcome {
        Outcome { revision: self.rows.head.revision, answer: Some(answer) }
    }

    fn space_alarm(&mut self, alarm: SpaceAlarm) -> Answer {
        let alarms = &mut self.published.space_alarms;
        let changed = if alarm.raised { alarms.insert(alarm.node_id) } else { alarms.remove(&alarm.node_id) };
        if changed {
            self.rows.put_meta(meta::SPACE_ALARMS, &layout::encode_alarms(alarms.iter()));
        }
        Answer::Done(Done {})
    }

    fn new_history(&mut self, new: NewHistory) -> Answer {
        let head = &mut self.rows.head;
        head.revision = head.revision.saturating_add(new.revisions);
        head.compacted = head.revision;
        // Whoever raised an alarm may be gone for good; who is not raises it again.
        self.published.space_alarms.clear();
        self.rows.put_meta(meta::SPACE_ALARMS, &layout::encode_alarms([].iter()));
        Answer::Done(Done {})
    }

    fn set_ttl(&mut self, set: SetTtl, now_ms: u64) -> Result<Answer, StoreError> {
        if set.key.is_empty() {
            return Ok(Answer::Refused(refused(Reason::Invalid)));
        }
        let level = self.feature_level();
        let slot = self.overlay.slot(&set.key)?;
        let Some((old, value)) = slot.record() else {
            return Ok(Answer::Ttl(TtlSet { found: false, had_ttl: false }));
        };
        let answer = Answer::Ttl(TtlSet { found: true, had_ttl: old.deadline_ms != 0 });
        if set.ttl_ms == 0 && old.deadline_ms == 0 {
            return Ok(answer);
        }
        if feature::ttl_grows_store(level)
            && let Some(refused) = write::no_room(&self.rows.head, &self.published.space_alarms)
        {
            return Ok(Answer::Refused(refused));
        }
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
        let previous = slot.to_record(&set.key);
        let value = previous.as_ref().map(|record| record.value.clone()).unwrap_or_default();
        *slot = Slot::Written(new, value.clone());
        let record = new.into_record(set.key, value);
        self.end_revision(vec![Event { kind: EventKind::Put, record, previous }]);
        Ok(answer)
    }

    /// Ends a command that made these changes.
    pub(crate) fn end_revision(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            let revision = self.rows.next_revision();
            self.events.push(Arc::new(RevisionEvents { revision, events }));
        }
        self.rows.end_revision();
    }

    /// Writes what has gathered.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        for (key, slot) in self.overlay.changed() {
            self.rows.set_current(key, slot.record());
        }
        let head = self.rows.head;
        self.state.announce(&head);
        db::write(&self.state.db, self.rows.take(), &self.write_options)
            .map_err(StoreError::database("apply entries", self.state.path()))?;
        self.published.head = head;
        self.state.publish(self.published.clone());
        self.overlay.written();
        Ok(())
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

/// When a key expires that is given so long to live now; 0: never.
pub(crate) fn deadline_ms(now_ms: u64, ttl_ms: u64) -> u64 {
    if ttl_ms == 0 { 0 } else { now_ms.saturating_add(ttl_ms) }
}

/// A refusal that has nothing to add to its reason.
pub(crate) fn refused(reason: Reason) -> Refused {
    Refused { reason: reason as i32, ..Refused::default() }
}

/// The event of a deleted record.
pub(crate) fn delete_event(key: Bytes, revision: u64, previous: Option<Record>) -> Event {
    let record = Record { key, mod_revision: revision, ..Record::default() };
    Event { kind: EventKind::Delete, record, previous }
}
