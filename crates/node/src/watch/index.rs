//! Who watches what: a change finds those whom it concerns without a look at all the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_store::RevisionEvents;
use kvorum_store::command::KeyRange;

use super::{Entry, Signal, Summary};

/// Lengths of prefixes that are told apart, as each costs every change a look. Watches of prefixes of further lengths
/// are tried one by one.
const LENGTHS_MAX: usize = 64;

/// Who watches what. Watches of one key and of one prefix are found by the key; those of other ranges are tried range by
/// range, at some ten nanoseconds each.
#[derive(Default)]
pub(super) struct Index {
    keys: HashMap<Bytes, Group>,
    /// By their length.
    prefixes: BTreeMap<usize, HashMap<Bytes, Group>>,
    ranges: HashMap<KeyRange, Group>,
    last_id: u64,
}

/// Those who watch the same.
#[derive(Default)]
struct Group {
    watchers: BTreeMap<u64, Arc<Signal>>,
    /// The last revision of which they were told: a revision is read as a whole, so once is enough.
    told: u64,
}

impl Group {
    fn raise(&mut self, revision: u64) {
        if self.told != revision {
            self.told = revision;
            self.watchers.values().for_each(|signal| signal.raise(revision));
        }
    }
}

impl Index {
    /// Adds a watcher, and answers by what it is removed.
    pub(super) fn insert(&mut self, range: KeyRange, signal: Arc<Signal>) -> u64 {
        self.last_id += 1;
        let group = if range.is_key() {
            self.keys.entry(range.start).or_default()
        } else if is_prefix(&range) && self.tells_apart(range.start.len()) {
            self.prefixes.entry(range.start.len()).or_default().entry(range.start).or_default()
        } else {
            self.ranges.entry(range).or_default()
        };
        group.watchers.insert(self.last_id, signal);
        self.last_id
    }

    /// Removes a watcher of a range.
    pub(super) fn remove(&mut self, range: &KeyRange, id: u64) {
        if range.is_key() {
            return leave(&mut self.keys, &range.start, id);
        }
        let length = range.start.len();
        if is_prefix(range)
            && let Some(prefixes) = self.prefixes.get_mut(&length)
        {
            leave(prefixes, &range.start, id);
            if prefixes.is_empty() {
                self.prefixes.remove(&length);
            }
        }
        // It may be older than what was told apart since.
        leave(&mut self.ranges, range, id);
    }

    fn tells_apart(&self, length: usize) -> bool {
        self.prefixes.len() < LENGTHS_MAX || self.prefixes.contains_key(&length)
    }

    /// Tells those whom a revision concerns.
    pub(super) fn matches(&mut self, entry: &Entry) {
        match entry {
            Entry::Whole(events) => self.matches_events(events),
            Entry::Large(summary) => self.matches_spans(summary),
        }
    }

    fn matches_events(&mut self, revision: &RevisionEvents) {
        for event in &revision.events {
            let key = &event.record.key;
            if let Some(group) = self.keys.get_mut(key) {
                group.raise(revision.revision);
            }
            for (length, groups) in self.prefixes.range_mut(..=key.len()) {
                if let Some(group) = groups.get_mut(&key[..*length]) {
                    group.raise(revision.revision);
                }
            }
            for (range, group) in &mut self.ranges {
                if range.contains(key) {
                    group.raise(revision.revision);
                }
            }
        }
    }

    fn matches_spans(&mut self, summary: &Summary) {
        for (key, group) in &mut self.keys {
            if summary.touches(key) {
                group.raise(summary.revision);
            }
        }
        for (prefix, group) in self.prefixes.values_mut().flatten() {
            if summary.concerns(&KeyRange::prefix(prefix.clone())) {
                group.raise(summary.revision);
            }
        }
        for (range, group) in &mut self.ranges {
            if summary.concerns(range) {
                group.raise(summary.revision);
            }
        }
    }

    /// Whether nobody watches anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.ranges.is_empty()
    }

    /// Tells all of them.
    pub(super) fn wake_all(&self, revision: u64) {
        let prefixes = self.prefixes.values().flat_map(HashMap::values);
        for group in self.keys.values().chain(prefixes).chain(self.ranges.values()) {
            group.watchers.values().for_each(|signal| signal.raise(revision));
        }
    }
}

/// Whether a range is all keys with a prefix.
fn is_prefix(range: &KeyRange) -> bool {
    KeyRange::prefix(range.start.clone()) == *range
}

fn leave<K: std::hash::Hash + Eq>(groups: &mut HashMap<K, Group>, key: &K, id: u64) {
    if let Some(group) = groups.get_mut(key) {
        group.watchers.remove(&id);
        if group.watchers.is_empty() {
            groups.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvorum_store::command::Record;
    use kvorum_store::{Event, EventKind};
    use proptest::prelude::*;
    use std::sync::atomic::Ordering;

    use super::*;

    fn changes(revision: u64, keys: &[Vec<u8>]) -> Entry {
        let event = |key: &Vec<u8>| {
            let record = Record { key: key.clone().into(), mod_revision: revision, ..Default::default() };
            Event { kind: EventKind::Put, record, previous: None }
        };
        Entry::Whole(Arc::new(RevisionEvents {
            revision,
            events: keys.iter().map(event).collect(),
            is_cut: false,
        }))
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let bytes = || prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 0..4);
        prop_oneof![
            bytes().prop_map(KeyRange::key),
            bytes().prop_map(KeyRange::prefix),
            (bytes(), bytes(), any::<bool>()).prop_map(|(start, end, unbounded)| {
                KeyRange { start: start.into(), end: end.into(), unbounded }
            }),
        ]
    }

    proptest! {
        /// Goal: a change is told to whom it concerns, and to nobody else, whatever comes and goes. Method: random
        /// ranges and keys, against a look at each range.
        #[test]
        fn who_is_concerned_is_told(
            ranges in prop::collection::vec((range(), any::<bool>()), 0..20),
            keys in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 1..5), 1..4),
        ) {
            let mut index = Index::default();
            let all: Vec<_> = ranges.iter().map(|(range, stays)| {
                let signal = Arc::new(Signal::default());
                (index.insert(range.clone(), signal.clone()), range, signal, *stays)
            }).collect();
            for (id, range, _, stays) in &all {
                if !stays {
                    index.remove(range, *id);
                }
            }
            index.matches(&changes(7, &keys));
            for (_, range, signal, stays) in &all {
                let concerned = *stays && keys.iter().any(|key| range.contains(key));
                prop_assert_eq!(signal.first.load(Ordering::Relaxed) == 7, concerned, "{:?}", range);
            }
            all.iter().filter(|(.., stays)| *stays).for_each(|(id, range, ..)| index.remove(range, *id));
            prop_assert!(index.is_empty());
        }
    }

    /// Goal: prefixes of more lengths than are told apart are told all the same, and removed. Method: one of each length.
    #[test]
    fn prefixes_of_any_length_are_told() {
        let mut index = Index::default();
        let all: Vec<_> = (0..2 * LENGTHS_MAX)
            .map(|length| {
                let (range, signal) = (KeyRange::prefix(vec![b'k'; length]), Arc::new(Signal::default()));
                (index.insert(range.clone(), signal.clone()), range, signal)
            })
            .collect();
        index.matches(&changes(7, &[vec![b'k'; LENGTHS_MAX + 9]]));
        let told = all.iter().filter(|(.., signal)| signal.first.load(Ordering::Relaxed) == 7).count();
        assert_eq!(told, LENGTHS_MAX + 10);
        all.iter().for_each(|(id, range, _)| index.remove(range, *id));
        assert!(index.is_empty());
    }
}
