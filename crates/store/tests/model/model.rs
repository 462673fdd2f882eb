//! What the store should do, as plainly as it can be said: the whole map of every revision in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use kvorum_store::command::{
    Answer, AuthChange, AuthKind, Done, KeyRange, Kind, OpKind, Outcome, Reason, Record, Refused, TtlSet,
    Write, Written,
};
use kvorum_store::{Event, EventKind, Limits, RevisionEvents};

type Map = BTreeMap<Bytes, Record>;

#[derive(Clone)]
pub struct Model {
    /// By revision; the store begins with revision 1.
    pub maps: Vec<Map>,
    /// By revision; those below the compacted revision stay here, and are not asked for.
    pub events: BTreeMap<u64, RevisionEvents>,
    pub compacted: u64,
    pub time_ms: u64,
    pub alarms: BTreeSet<u64>,
    /// Members whose data is said to differ.
    pub corrupt: BTreeSet<u64>,
    pub roles: BTreeSet<String>,
    pub auth_revision: u64,
    pub quota: u64,
    pub logical_bytes: u64,
    limits: Limits,
    pub level: u32,
    /// Changes that no step has removed.
    unremoved: VecDeque<Unremoved>,
}

#[derive(Clone)]
struct Unremoved {
    revision: u64,
    bytes: u64,
    /// Bytes of the record it superseded, until that is removed.
    superseded: Option<u64>,
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Model {
            maps: vec![Map::new(), Map::new()],
            events: BTreeMap::new(),
            compacted: 0,
            time_ms: 0,
            alarms: BTreeSet::new(),
            corrupt: BTreeSet::new(),
            roles: BTreeSet::new(),
            auth_revision: 0,
            quota: 0,
            logical_bytes: 0,
            limits,
            level: 1,
            unremoved: VecDeque::new(),
        }
    }

    pub fn revision(&self) -> u64 {
        self.maps.len() as u64 - 1
    }

    pub fn now(&self) -> &Map {
        self.maps.last().unwrap()
    }

    pub fn backlog(&self) -> bool {
        self.next_unremoved().is_some()
    }

    /// The first change that a step has something to do for.
    fn next_unremoved(&self) -> Option<usize> {
        let is_next = |change: &Unremoved| {
            change.revision < self.compacted
                || change.revision == self.compacted && change.superseded.is_some()
        };
        self.unremoved.iter().position(is_next)
    }

    pub fn batch(&mut self, stamp_ms: u64, commands: &[Kind]) -> Vec<Outcome> {
        self.time_ms = self.time_ms.max(stamp_ms);
        commands
            .iter()
            .map(|command| {
                let answer = self.command(command);
                Outcome { revision: self.revision(), answer: Some(answer) }
            })
            .collect()
    }

    fn command(&mut self, command: &Kind) -> Answer {
        match command {
            Kind::Write(write) => self.write(write),
            Kind::SetTtl(set) => {
                let Some(old) = self.now().get(&set.key).cloned() else {
                    return Answer::Ttl(TtlSet { found: false, had_ttl: false });
                };
                let had_ttl = old.deadline_ms != 0;
                if had_ttl || set.ttl_ms != 0 {
                    if self.level >= 2 && self.has_no_room() {
                        return refuse(Reason::NoSpace, "", self.quota);
                    }
                    let shares =
                        self.level >= 2 && !old.version.is_multiple_of(self.limits.shared_values_max);
                    let mut changes = Changes::begin(self);
                    changes.put_sharing(&set.key, old.value, set.ttl_ms, shares);
                    changes.end();
                }
                Answer::Ttl(TtlSet { found: true, had_ttl })
            }
            Kind::ExpireDue(due) => {
                let now_ms = self.time_ms;
                let mut keys = due.keys.clone();
                keys.sort_by(|a, b| a.key.cmp(&b.key));
                let bytes_max = if self.level < 3 { u64::MAX } else { self.limits.superseded_bytes_max };
                let mut changes = Changes::begin(self);
                let (mut deleted, mut bytes) = (0, 0);
                for due in keys {
                    let record = changes.map.get(&due.key).filter(|record| {
                        record.mod_revision == due.mod_revision
                            && record.deadline_ms != 0
                            && record.deadline_ms <= now_ms
                    });
                    let Some(record) = record else { continue };
                    bytes += logical_bytes(record);
                    if bytes > bytes_max && deleted > 0 {
                        break;
                    }
                    deleted += changes.delete(&due.key);
                }
                changes.end();
                Answer::Written(Written { deleted: vec![deleted], previous: Vec::new() })
            }
            Kind::Compact(compact) if compact.revision <= self.compacted => {
                refuse(Reason::Compacted, "", self.compacted)
            }
            Kind::Compact(compact) if compact.revision > self.revision() => {
                refuse(Reason::FutureRevision, "", self.revision())
            }
            Kind::Compact(compact) => {
                self.compacted = compact.revision;
                Answer::Done(Done {})
            }
            Kind::CompactStep(step) => {
                for _ in 0..step.changes_max.clamp(1, self.limits.step_changes_max) {
                    let Some(at) = self.next_unremoved() else { break };
                    let change = &mut self.unremoved[at];
                    self.logical_bytes -= change.superseded.take().unwrap_or_default();
                    if change.revision < self.compacted {
                        self.logical_bytes -= self.unremoved.remove(at).unwrap().bytes;
                    }
                }
                Answer::Done(Done {})
            }
            Kind::Tick(_) => Answer::Done(Done {}),
            Kind::SpaceAlarm(alarm) => {
                match alarm.raised {
                    true => self.alarms.insert(alarm.node_id),
                    false => self.alarms.remove(&alarm.node_id),
                };
                Answer::Done(Done {})
            }
            Kind::CorruptAlarm(_) if self.level < 2 => refuse(Reason::Unknown, "", 0),
            Kind::CorruptAlarm(alarm) => {
                match alarm.raised {
                    true => self.corrupt.insert(alarm.node_id),
                    false => self.corrupt.remove(&alarm.node_id),
                };
                Answer::Done(Done {})
            }
            Kind::Auth(_) if self.level < 3 => refuse(Reason::Unknown, "", 0),
            Kind::Auth(change) => self.change_role(change),
            // The histories have none: it has a test of its own.
            Kind::NewHistory(_) => Answer::Done(Done {}),
            Kind::RaiseFeatureLevel(raise) => {
                self.level = raise.level;
                Answer::Done(Done {})
            }
            Kind::SetQuota(quota) => {
                self.quota = quota.bytes;
                Answer::Done(Done {})
            }
        }
    }

    /// The histories make and remove roles that may do nothing. All else has a test of its own.
    fn change_role(&mut self, change: &AuthChange) -> Answer {
        let bytes = |name: &String| ("auth-role/".len() + name.len() + 1) as u64 + OVERHEAD;
        match change.kind.as_ref().unwrap() {
            AuthKind::RoleAdd(_) if self.has_no_room() => return refuse(Reason::NoSpace, "", self.quota),
            AuthKind::RoleAdd(name) if !self.roles.insert(name.clone()) => {
                return refuse(Reason::RoleExists, name.clone(), 0);
            }
            AuthKind::RoleAdd(name) => self.logical_bytes += bytes(name),
            AuthKind::RoleDelete(name) if !self.roles.remove(name) => {
                return refuse(Reason::NoSuchRole, name.clone(), 0);
            }
            AuthKind::RoleDelete(name) => self.logical_bytes -= bytes(name),
            other => unreachable!("the histories have no {other:?}"),
        }
        self.auth_revision += 1;
        Answer::Done(Done {})
    }

    fn write(&mut self, write: &Write) -> Answer {
        let mut puts: Vec<&Bytes> = Vec::new();
        let mut deletes: Vec<&KeyRange> = Vec::new();
        for op in &write.ops {
            match op.kind.as_ref().unwrap() {
                OpKind::Put(put) => puts.push(&put.key),
                OpKind::Delete(range) => deletes.push(range),
            }
        }
        for (i, key) in puts.iter().enumerate() {
            if puts[..i].contains(key) || deletes.iter().any(|range| range.contains(key)) {
                // Which of several such keys is named is not promised.
                return refuse(Reason::DuplicateKey, "", 0);
            }
        }
        for condition in &write.conditions {
            let actual = self.now().get(&condition.key).map_or(0, |record| record.mod_revision);
            if actual != condition.mod_revision {
                return refuse(Reason::ConditionFailed, condition.key.clone(), actual);
            }
        }
        if !puts.is_empty() && self.has_no_room() {
            return refuse(Reason::NoSpace, "", self.quota);
        }
        if let Some(limit) = self.too_large(write) {
            return refuse(Reason::TooLarge, "", limit);
        }
        let mut written = Written::default();
        let mut changes = Changes::begin(self);
        for op in &write.ops {
            match op.kind.as_ref().unwrap() {
                OpKind::Put(put) => {
                    changes.put(&put.key, put.value.clone(), put.ttl_ms);
                    written.deleted.push(0);
                }
                OpKind::Delete(range) => {
                    let keys: Vec<Bytes> =
                        changes.map.keys().filter(|key| range.contains(key)).cloned().collect();
                    written.deleted.push(keys.iter().map(|key| changes.delete(key)).sum());
                }
            }
        }
        if write.return_previous {
            written.previous = changes.events.iter().filter_map(|event| event.previous.clone()).collect();
        }
        changes.end();
        Answer::Written(written)
    }
}

impl Model {
    fn has_no_room(&self) -> bool {
        self.quota != 0 && self.logical_bytes >= self.quota || !self.alarms.is_empty()
    }

    /// The first limit that a write exceeds, key by key in the order of its ops.
    fn too_large(&self, write: &Write) -> Option<u64> {
        let Limits { deleted_keys_max, previous_bytes_max, .. } = self.limits;
        let all_max =
            if self.level < 3 { self.limits.deleted_bytes_max } else { self.limits.superseded_bytes_max };
        let ranges_max = if write.return_previous { previous_bytes_max.min(all_max) } else { all_max };
        let is_bounded = self.level >= 3 && write.ops.len() > 1;
        let (mut keys, mut in_ranges, mut all) = (0, 0, 0);
        for op in &write.ops {
            let range = match op.kind.as_ref().unwrap() {
                OpKind::Put(put) => &KeyRange::key(put.key.clone()),
                OpKind::Delete(range) => range,
            };
            for record in self.now().values().filter(|it| range.contains(&it.key)) {
                let bytes = logical_bytes(record);
                all += bytes;
                if !range.is_key() {
                    keys += 1;
                    in_ranges += bytes;
                }
                if keys > deleted_keys_max {
                    return Some(deleted_keys_max as u64);
                }
                if in_ranges > ranges_max {
                    return Some(ranges_max);
                }
                if is_bounded && all > all_max {
                    return Some(all_max);
                }
            }
        }
        None
    }
}

/// The changes of one revision.
struct Changes<'m> {
    model: &'m mut Model,
    revision: u64,
    map: Map,
    events: Vec<Event>,
}

fn logical_bytes(record: &Record) -> u64 {
    (record.key.len() + record.value.len()) as u64 + OVERHEAD
}

/// What each record costs beside its bytes.
const OVERHEAD: u64 = 64;

impl<'m> Changes<'m> {
    fn begin(model: &'m mut Model) -> Self {
        let (revision, map) = (model.revision() + 1, model.now().clone());
        Changes { model, revision, map, events: Vec::new() }
    }

    fn put(&mut self, key: &Bytes, value: Bytes, ttl_ms: u64) {
        self.put_sharing(key, value, ttl_ms, false);
    }

    /// If it shares its value with the record before, the value counts once.
    fn put_sharing(&mut self, key: &Bytes, value: Bytes, ttl_ms: u64, shares: bool) {
        let shared_bytes = if shares { value.len() as u64 } else { 0 };
        let old = self.map.get(key).cloned();
        let record = Record {
            key: key.clone(),
            create_revision: old.as_ref().map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            deadline_ms: if ttl_ms == 0 { 0 } else { self.model.time_ms + ttl_ms },
            value,
        };
        self.model.logical_bytes += (key.len() + record.value.len()) as u64 + OVERHEAD - shared_bytes;
        self.map.insert(key.clone(), record.clone());
        self.event(EventKind::Put, record, old);
        // The record before keeps no value of its own, so that its removal gives back so much less.
        if let Some(superseded) = self.model.unremoved.back_mut().and_then(|last| last.superseded.as_mut()) {
            *superseded -= shared_bytes;
        }
    }

    fn delete(&mut self, key: &Bytes) -> u64 {
        let Some(old) = self.map.remove(key) else { return 0 };
        let record = Record { key: key.clone(), mod_revision: self.revision, ..Record::default() };
        self.event(EventKind::Delete, record, Some(old));
        1
    }

    fn event(&mut self, kind: EventKind, record: Record, previous: Option<Record>) {
        let bytes = record.key.len() as u64 + OVERHEAD;
        let superseded =
            previous.as_ref().map_or(0, |old| (old.key.len() + old.value.len()) as u64 + OVERHEAD);
        self.model.logical_bytes += bytes;
        let superseded = Some(superseded);
        self.model.unremoved.push_back(Unremoved { revision: self.revision, bytes, superseded });
        self.events.push(Event { kind, record, previous });
    }

    fn end(self) {
        if !self.events.is_empty() {
            let events = RevisionEvents { revision: self.revision, events: self.events, is_cut: false };
            self.model.events.insert(self.revision, events);
            self.model.maps.push(self.map);
        }
    }
}

fn refuse(reason: Reason, key: impl Into<Bytes>, actual: u64) -> Answer {
    Answer::Refused(Refused { reason: reason as i32, key: key.into(), actual })
}
