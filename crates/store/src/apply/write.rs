//! The write command: conditions and operations, all or nothing.

use bytes::Bytes;

use super::applier::Applier;
use super::deadline::deadline_ms;
use super::growth::{no_room, puts};
use crate::command::{Answer, KeyRange, OpKind, Put, Reason, Refused, Write, Written};
use crate::db::iterate_current;
use crate::error::StoreError;
use crate::feature;
use crate::layout::{RecordHead, record_bytes};

/// What an operation does, settled before the first one is carried out.
enum Planned {
    Put(Put),
    DeleteKey(Bytes),
    /// The keys in the range.
    DeleteKeys(Vec<Bytes>),
}

/// How much a write takes with it as far as it was looked at, and may: its range deletes, and all its operations.
struct Found {
    keys: usize,
    keys_max: usize,
    bytes: u64,
    bytes_max: u64,
    superseded: u64,
    superseded_max: Option<u64>,
}

impl Found {
    /// Counts one record more that is in a range; an error names the limit that it exceeds.
    fn add(&mut self, key_bytes: usize, value_bytes: usize) -> Result<(), Refused> {
        let bytes = record_bytes(key_bytes, value_bytes);
        self.keys += 1;
        self.bytes += bytes;
        if self.keys > self.keys_max {
            return Err(too_large(self.keys_max as u64));
        }
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        self.supersede(bytes)
    }

    /// Counts so many bytes more of what is replaced or deleted.
    fn supersede(&mut self, bytes: u64) -> Result<(), Refused> {
        self.superseded += bytes;
        match self.superseded_max {
            Some(max) if self.superseded > max => Err(too_large(max)),
            _ => Ok(()),
        }
    }
}

fn too_large(limit: u64) -> Refused {
    Refused { actual: limit, ..Refused::because(Reason::TooLarge) }
}

impl Applier<'_> {
    pub(super) fn write(&mut self, write: Write, now_ms: u64) -> Result<Answer, StoreError> {
        if let Err(refused) = check(&write) {
            return Ok(Answer::Refused(refused));
        }
        if let Some(refused) = self.failed_condition(&write)?.or_else(|| self.no_space(&write)) {
            return Ok(Answer::Refused(refused));
        }
        let mut plan = Vec::with_capacity(write.ops.len());
        let mut found = self.bounds(&write);
        for op in write.ops {
            match op.kind.expect("check has refused operations of unknown kind") {
                OpKind::Put(put) => match self.count(&put.key, &mut found)? {
                    Ok(()) => plan.push(Planned::Put(put)),
                    Err(refused) => return Ok(Answer::Refused(refused)),
                },
                OpKind::Delete(range) if range.is_key() => match self.count(&range.start, &mut found)? {
                    Ok(()) => plan.push(Planned::DeleteKey(range.start)),
                    Err(refused) => return Ok(Answer::Refused(refused)),
                },
                OpKind::Delete(range) => match self.keys_in(&range, &mut found)? {
                    Ok(keys) => plan.push(Planned::DeleteKeys(keys)),
                    Err(refused) => return Ok(Answer::Refused(refused)),
                },
            }
        }
        self.carry_out(plan, now_ms, write.return_previous)
    }

    fn failed_condition(&mut self, write: &Write) -> Result<Option<Refused>, StoreError> {
        for condition in &write.conditions {
            let actual = self.overlay.look(&condition.key)?.mod_revision();
            if actual != condition.mod_revision {
                let key = condition.key.clone();
                return Ok(Some(Refused { reason: Reason::ConditionFailed as i32, key, actual }));
            }
        }
        Ok(None)
    }

    /// How much a write may take with it.
    fn bounds(&self, write: &Write) -> Found {
        let limits = self.state.limits;
        let is_bounded = feature::bounds_superseded(self.feature_level());
        let bytes_max = if is_bounded { limits.superseded_bytes_max } else { limits.deleted_bytes_max };
        let of_ranges =
            if write.return_previous { limits.previous_bytes_max.min(bytes_max) } else { bytes_max };
        Found {
            keys: 0,
            keys_max: limits.deleted_keys_max,
            bytes: 0,
            bytes_max: of_ranges,
            superseded: 0,
            // What one operation replaces is one record, which may be as large as any.
            superseded_max: (is_bounded && write.ops.len() > 1).then_some(bytes_max),
        }
    }

    /// Counts what a key holds that an operation names.
    fn count(&mut self, key: &Bytes, found: &mut Found) -> Result<Result<(), Refused>, StoreError> {
        if found.superseded_max.is_none() {
            return Ok(Ok(()));
        }
        let held = self.overlay.look(key)?.head();
        Ok(held.map_or(Ok(()), |(_, value_bytes)| found.supersede(record_bytes(key.len(), value_bytes))))
    }

    fn no_space(&self, write: &Write) -> Option<Refused> {
        if puts(write) { no_room(&self.rows.head, &self.published.space_alarms) } else { None }
    }

    /// The keys in the range as the run has it, in order. What is in the database by now and what is
    /// still to come there are counted alike, key by key: where runs begin and end differs from member to
    /// member, and the answer must not.
    fn keys_in(
        &self,
        range: &KeyRange,
        found: &mut Found,
    ) -> Result<Result<Vec<Bytes>, Refused>, StoreError> {
        let path = self.state.path();
        let mut keys: Vec<Bytes> = Vec::new();
        let mut slots = self.overlay.slots_in(range).into_iter().peekable();
        let mut rows = iterate_current(&self.state.db, range);
        rows.seek_to_first();
        loop {
            let row = rows.item();
            let slot = slots.next_if(|(slot, _)| row.is_none_or(|(key, _)| slot[..] <= *key));
            let key_and_value_bytes = match (slot, row) {
                (Some((key, slot)), row) => {
                    let hidden = row.is_some_and(|(row_key, _)| row_key == &key[..]);
                    let found = slot.head().map(|(_, value_bytes)| (key.clone(), value_bytes));
                    if hidden {
                        rows.next();
                    }
                    found
                }
                (None, Some((key, row))) => {
                    let (_, value) = RecordHead::decode(row)
                        .map_err(|_| StoreError::malformed(path, "a row of `current` is no record"))?;
                    let found = (Bytes::copy_from_slice(key), value.len());
                    rows.next();
                    Some(found)
                }
                (None, None) => break,
            };
            let Some((key, value_bytes)) = key_and_value_bytes else { continue };
            if let Err(refused) = found.add(key.len(), value_bytes) {
                return Ok(Err(refused));
            }
            keys.push(key);
        }
        rows.status().map_err(StoreError::database("read range", path))?;
        Ok(Ok(keys))
    }

    fn carry_out(
        &mut self,
        plan: Vec<Planned>,
        now_ms: u64,
        return_previous: bool,
    ) -> Result<Answer, StoreError> {
        let mut written = Written { deleted: Vec::with_capacity(plan.len()), previous: Vec::new() };
        let ops = plan.len();
        let mut events = Vec::with_capacity(ops);
        for op in plan {
            let before = events.len();
            match op {
                Planned::Put(put) => {
                    let Put { key, value, ttl_ms } = put;
                    events.push(self.put(key, value, return_previous, |old, revision| RecordHead {
                        create_revision: old.map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |old| old.version + 1),
                        deadline_ms: deadline_ms(now_ms, ttl_ms),
                    })?);
                    written.deleted.push(0);
                }
                Planned::DeleteKey(key) => {
                    events.extend(self.delete(key, return_previous)?);
                    written.deleted.push((events.len() - before) as u64);
                }
                Planned::DeleteKeys(keys) => {
                    for key in keys {
                        events.extend(self.delete(key, return_previous)?);
                    }
                    written.deleted.push((events.len() - before) as u64);
                }
            }
        }
        assert_eq!(written.deleted.len(), ops, "each operation says what it deleted");
        if return_previous {
            written.previous = events.iter().filter_map(|event| event.previous.clone()).collect();
        }
        self.end_revision(events);
        Ok(Answer::Written(written))
    }
}

/// Whether a write makes sense in itself.
fn check(write: &Write) -> Result<(), Refused> {
    if write.conditions.iter().any(|condition| condition.key.is_empty()) {
        return Err(Refused::because(Reason::Invalid));
    }
    let mut puts: Vec<&Bytes> = Vec::with_capacity(write.ops.len());
    let mut deletes: Vec<&KeyRange> = Vec::new();
    for op in &write.ops {
        match &op.kind {
            None => return Err(Refused::because(Reason::Unknown)),
            Some(OpKind::Put(put)) if put.key.is_empty() => return Err(Refused::because(Reason::Invalid)),
            Some(OpKind::Delete(range)) if range.is_key() && range.start.is_empty() => {
                return Err(Refused::because(Reason::Invalid));
            }
            Some(OpKind::Put(put)) => puts.push(&put.key),
            Some(OpKind::Delete(range)) => deletes.push(range),
        }
    }
    if write.ops.len() < 2 {
        return Ok(());
    }
    puts.sort_unstable();
    let twice = puts.array_windows().find(|[a, b]| a == b).map(|[key, _]| *key);
    let deleted = || {
        // The first put at or after the range's start is in the range if any is.
        let first_from =
            |range: &KeyRange| puts.get(puts.partition_point(|key| **key < range.start)).copied();
        deletes.iter().find_map(|range| first_from(range).filter(|key| range.contains(key)))
    };
    match twice.or_else(deleted) {
        Some(key) => Err(Refused { key: key.clone(), ..Refused::because(Reason::DuplicateKey) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;

    fn put(key: &'static str) -> Op {
        Op { kind: Some(OpKind::Put(Put { key: key.into(), ..Put::default() })) }
    }

    fn delete(range: KeyRange) -> Op {
        Op { kind: Some(OpKind::Delete(range)) }
    }

    /// Goal: a write that would touch a key twice is refused and names it. Method: a table.
    #[test]
    fn writes_that_touch_a_key_twice_are_refused() {
        let prefix = |p: &'static str| delete(KeyRange::prefix(p));
        let cases = [
            (vec![put("a"), put("b")], None),
            (vec![put("b"), put("a"), put("b")], Some("b")),
            (vec![put("b"), delete(KeyRange::key("a")), prefix("c")], None),
            (vec![prefix("b"), put("a"), put("bb")], Some("bb")),
            (vec![put("a"), put("c"), delete(KeyRange::key("c"))], Some("c")),
            (vec![prefix(""), prefix("a"), delete(KeyRange::key("a"))], None),
            (vec![prefix(""), put("z")], Some("z")),
        ];
        for (ops, duplicate) in cases {
            let key = check(&Write { ops, ..Write::default() }).err().map(|refused| refused.key);
            assert_eq!(key, duplicate.map(Bytes::from));
        }
        assert!(check(&Write { ops: vec![put("")], ..Write::default() }).is_err());
    }
}
