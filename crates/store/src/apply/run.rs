//! Applying entries of the raft log: one WriteBatch for a run of them, with the applied position in it.

use bytes::Bytes;
use prost::Message as _;
use rocksdb::{WriteBatch, WriteOptions};

use super::applier::Applier;
use super::applying::{Applying, Attempt};
use crate::command::{Answer, Command, Done, Kind, OpKind, Outcome, Reason, Refused};
use crate::db;
use crate::entry::{Batch, Entry, LogId, Payload};
use crate::error::StoreError;
use crate::feature;
use crate::layout::{self, Head, META, meta};
use crate::state::{State, lock};

/// Applies entries in order, and writes what they lead to. Where attempts before have met a full disk, it goes on
/// from what they have written, which is always up to a command's end.
pub(crate) fn attempt(state: &State, run: &[Entry], applying: &mut Applying) -> Result<Attempt, StoreError> {
    let mut recent = lock(&state.writer);
    let published = state.published().clone();
    let before = published.head;
    applying.begin(&before);
    let rest = &run[applying.entries()..];
    check_order(before.applied, rest)?;
    let write_options = if applying.is_again() { db::impatient_write_options() } else { db::write_options() };
    if applying.is_again()
        && let Err(error) = look_for_room(state, &before, &write_options)
    {
        return if is_full(&error) { applying.full(error, false) } else { Err(error) };
    }

    let payload_bytes: usize = rest.iter().map(|entry| entry.payload.len()).sum();
    let mut applier = Applier::new(state, published, &mut recent, payload_bytes, write_options);
    let done = applier.run(rest, &applying.rest_awaited());
    let Applier { events, outcomes, .. } = applier;
    let head = state.head();
    match done {
        Ok(()) => {
            let last = run.last().map(|entry| entry.log_id).or(before.applied);
            assert_eq!(head.applied, last, "what is published is the run's end");
            applying.keep(outcomes, events, rest.len(), &head);
            Ok(applying.done())
        }
        Err(error) if is_full(&error) => {
            let is_applied = |entry: &&Entry| Some(entry.log_id.index) <= head.applied.map(|id| id.index);
            let entries = rest.iter().take_while(is_applied).count();
            applying.keep(outcomes, events, entries, &head);
            applying.full(error, head != before)
        }
        Err(error) => Err(error),
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Full { .. })
}

/// Writes what is there, which takes no work, to see whether more can be.
fn look_for_room(state: &State, head: &Head, options: &WriteOptions) -> Result<(), StoreError> {
    state.admit_write()?;
    let mut batch = WriteBatch::default();
    batch.put_cf(db::family(&state.db, META), meta::HEAD, head.encode());
    db::write(&state.db, batch, options)
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

/// An entry with its commands decoded. A command that cannot be decoded has no kind: it is refused,
/// the same on all members.
enum Decoded {
    Blank,
    Membership(Bytes),
    Batch { level: u32, stamp_ms: u64, commands: Vec<Command> },
}

fn decode(entry: &Entry) -> Result<Decoded, StoreError> {
    let payload = Payload::decode(entry.payload.clone());
    Ok(match payload.map_err(|source| StoreError::Entry { log_id: entry.log_id, source })? {
        Payload::Blank => Decoded::Blank,
        Payload::Membership(bytes) => Decoded::Membership(bytes),
        Payload::Batch(Batch { level, stamp_ms, commands }) => {
            let command = |bytes: Bytes| Command::decode(bytes).unwrap_or_default();
            Decoded::Batch { level, stamp_ms, commands: commands.into_iter().map(command).collect() }
        }
    })
}

impl Applier<'_> {
    fn run(&mut self, run: &[Entry], awaited: &[bool]) -> Result<(), StoreError> {
        let payloads = run.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        self.load(&payloads)?;
        for (at, (entry, payload)) in run.iter().zip(payloads).enumerate() {
            self.is_awaited = awaited.get(at).copied().unwrap_or(true);
            self.outcomes.push(Vec::new());
            self.entry(entry.log_id, payload)?;
        }
        self.commit()
    }

    /// Reads all keys that the commands name, at once.
    fn load(&mut self, payloads: &[Decoded]) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        for payload in payloads {
            let Decoded::Batch { commands, .. } = payload else { continue };
            let kinds = commands.iter().filter_map(|command| command.kind.as_ref());
            kinds.for_each(|kind| named_keys(kind, &mut keys));
        }
        self.overlay.load(keys)
    }

    fn entry(&mut self, log_id: LogId, payload: Decoded) -> Result<(), StoreError> {
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
                self.of_entry().reserve(count);
                for (number, command) in (0..).zip(commands) {
                    if let Some(Kind::RaiseFeatureLevel(raise)) = &command.kind
                        && raise.level <= level
                    {
                        self.raise_feature_level(log_id, raise)?;
                    }
                    let outcome = self.command(number, now_ms, command)?;
                    self.of_entry().push(outcome);
                }
                assert_eq!(self.of_entry().len(), count, "each command has an outcome");
            }
        }
        self.rows.head.applied = Some(log_id);
        self.rows.head.commands_applied = 0;
        Ok(())
    }

    /// The outcomes of the entry at hand.
    fn of_entry(&mut self) -> &mut Vec<Outcome> {
        self.outcomes.last_mut().expect("each entry has a place for its outcomes")
    }

    fn command(&mut self, number: u32, now_ms: u64, command: Command) -> Result<Outcome, StoreError> {
        if number < self.rows.head.commands_applied {
            // It was applied before a crash, in a batch that ended inside this entry.
            return Ok(self.outcome(Answer::Done(Done {})));
        }
        // Should the command write what has gathered before it, this is where that ends.
        self.rows.head.commands_applied = number;
        let answer = self.answer(command, now_ms)?;
        let outcome = self.outcome(answer);
        if self.rows.batch_bytes() >= self.state.limits.batch_bytes_max {
            self.rows.head.commands_applied = number + 1;
            self.commit()?;
        }
        Ok(outcome)
    }

    fn answer(&mut self, command: Command, now_ms: u64) -> Result<Answer, StoreError> {
        let Command { kind, auth_revision } = command;
        let Some(kind) = kind.filter(|kind| feature::required(kind) <= self.feature_level()) else {
            return Ok(Answer::Refused(Refused::because(Reason::Unknown)));
        };
        if let Some(moved) = self.refuse_moved(&kind, auth_revision) {
            return Ok(Answer::Refused(moved));
        }
        Ok(match kind {
            Kind::Write(write) => self.write(write, now_ms)?,
            Kind::SetTtl(set) => self.set_ttl(set, now_ms)?,
            Kind::ExpireDue(due) => self.expire_due(due, now_ms)?,
            Kind::Compact(compact) => self.compact(&compact),
            Kind::CompactStep(step) => self.compact_step(&step)?,
            Kind::Tick(_) | Kind::RaiseFeatureLevel(_) => Answer::Done(Done {}),
            Kind::SpaceAlarm(alarm) => self.space_alarm(&alarm),
            Kind::CorruptAlarm(alarm) => self.corrupt_alarm(&alarm),
            Kind::NewHistory(new) => self.new_history(&new),
            Kind::SetQuota(quota) => self.set_quota(&quota),
            Kind::Auth(change) => self.change_auth(change),
        })
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
