//! Ranges of keys as bounds of iterators.

use rocksdb::{DB, DBRawIterator, ReadOptions};

use super::families::family;
use crate::command::KeyRange;
use crate::layout::CURRENT;

/// A half-open range of user keys without special cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) lower: Vec<u8>,
    /// None: there is no end.
    pub(crate) upper: Option<Vec<u8>>,
}

impl Bounds {
    pub(crate) fn of(range: &KeyRange) -> Bounds {
        let lower = range.start.to_vec();
        if range.is_key() {
            return Bounds { upper: Some(successor(&lower)), lower };
        }
        let upper = (!range.unbounded).then(|| range.end.to_vec());
        Bounds { lower, upper }
    }

    /// RocksDB takes a lower bound above the upper one amiss.
    pub(crate) fn is_empty(&self) -> bool {
        self.upper.as_ref().is_some_and(|upper| *upper <= self.lower)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        *key >= self.lower[..] && self.upper.as_ref().is_none_or(|upper| *key < upper[..])
    }

    /// Confines an iterator over user keys.
    pub(crate) fn confine(&self, options: &mut ReadOptions) {
        let Bounds { lower, upper } = self;
        match upper {
            // An empty range: nothing lies below the empty key.
            _ if self.is_empty() => options.set_iterate_upper_bound(Vec::new()),
            Some(upper) => options.set_iterate_range(lower.clone()..upper.clone()),
            None => options.set_iterate_range(lower.clone()..),
        }
    }
}

/// The smallest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}

/// Iterates over the range as it is in `current` now.
pub(crate) fn iterate_current<'db>(db: &'db DB, range: &KeyRange) -> DBRawIterator<'db> {
    let mut options = ReadOptions::default();
    Bounds::of(range).confine(&mut options);
    db.raw_iterator_cf_opt(family(db, CURRENT), options)
}
