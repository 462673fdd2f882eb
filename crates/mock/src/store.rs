//! The pretended store: it keeps every change, so that it can answer at any revision.

use bytes::Bytes;
use kvorum_proto::kv::v1::{Event, KeyRange, KeyValue, event::Kind};

/// A store that begins at revision 1, as a real one.
#[derive(Debug, Default)]
pub struct Store {
    /// All changes, oldest first.
    pub changes: Vec<Event>,
    /// The oldest revision that watches may begin with.
    pub compacted: u64,
    revision: u64,
}

impl Store {
    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision + 1
    }

    /// A key as of a revision; 0: as it is now.
    pub fn get(&self, key: &[u8], revision: u64) -> Option<KeyValue> {
        let change = self.changes.iter().rev().find(|event| {
            let kv = event.kv.as_ref().unwrap();
            kv.key == key && (revision == 0 || kv.mod_revision <= revision)
        })?;
        (change.kind() == Kind::Put).then(|| change.kv.clone().unwrap())
    }

    /// Writes a key in a revision of its own, which it answers.
    pub fn put(&mut self, key: &Bytes, value: &Bytes) -> u64 {
        self.revision += 1;
        self.put_same(key, value)
    }

    /// Writes a key in the revision of the last change.
    pub fn put_same(&mut self, key: &Bytes, value: &Bytes) -> u64 {
        let mod_revision = self.revision();
        let before = self.get(key, 0);
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: before.as_ref().map_or(mod_revision, |kv| kv.create_revision),
            mod_revision,
            version: before.map_or(1, |kv| kv.version + 1),
            deadline_ms: 0,
        };
        self.changes.push(Event { kind: Kind::Put.into(), kv: Some(kv), previous: None });
        mod_revision
    }

    /// Deletes a range in one revision, and answers what was in it.
    pub fn delete(&mut self, range: &KeyRange) -> Vec<KeyValue> {
        let found = self.scan(range, 0);
        if !found.is_empty() {
            self.revision += 1;
        }
        for kv in &found {
            let kv = KeyValue { key: kv.key.clone(), mod_revision: self.revision(), ..Default::default() };
            self.changes.push(Event { kind: Kind::Delete.into(), kv: Some(kv), previous: None });
        }
        found
    }

    /// The keys of a range as of a revision, in order.
    pub fn scan(&self, range: &KeyRange, revision: u64) -> Vec<KeyValue> {
        let mut keys: Vec<_> = self.changes.iter().map(|event| &event.kv.as_ref().unwrap().key).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| contains(range, key));
        keys.into_iter().filter_map(|key| self.get(key, revision)).collect()
    }

    /// The changes of a range from a revision on.
    pub fn events(&self, range: &KeyRange, from: u64) -> Vec<Event> {
        let wanted = |event: &&Event| {
            let kv = event.kv.as_ref().unwrap();
            kv.mod_revision >= from && contains(range, &kv.key)
        };
        self.changes.iter().filter(wanted).cloned().collect()
    }
}

fn contains(range: &KeyRange, key: &Bytes) -> bool {
    match (range.unbounded, range.end.is_empty()) {
        (true, _) => *key >= range.start,
        (false, true) => *key == range.start,
        (false, false) => *key >= range.start && *key < range.end,
    }
}
