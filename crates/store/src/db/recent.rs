//! Records that were written lately, for the writes that overwrite them: a look-up here costs a
//! tenth of one in RocksDB, which is what a put costs most in applying it.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::layout::RecordHead;

/// What an entry takes beside its key and value: the head, two allocations, and its place in the table.
const ENTRY_BYTES: usize = 144;
/// A guess at the usual entry, for the first size of the table.
const USUAL_BYTES: u64 = 512;

/// A part of `current`, as it is in the database. It belongs to whoever writes to that: a write that
/// went by it would leave it wrong.
pub(crate) struct Recent {
    records: Cache<Box<[u8]>, RecentRecord, ByBytes>,
    value_bytes_max: usize,
}

/// A record without its key.
#[derive(Clone)]
pub(crate) struct RecentRecord {
    pub(crate) head: RecordHead,
    /// A copy: a slice of an entry of the log would hold all of that entry in memory.
    pub(crate) value: Arc<[u8]>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<[u8]>, RecentRecord> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, record: &RecentRecord) -> u64 {
        (key.len() + record.value.len() + ENTRY_BYTES) as u64
    }
}

impl Recent {
    /// Keeps no more than so many bytes, and no larger values than that.
    pub(crate) fn new(bytes_max: u64, value_bytes_max: usize) -> Recent {
        let records = Cache::with_weighter((bytes_max / USUAL_BYTES) as usize, bytes_max, ByBytes);
        Recent { records, value_bytes_max }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&RecentRecord> {
        self.records.get(key)
    }

    /// The database now holds this record.
    pub(crate) fn written(&mut self, key: &[u8], head: RecordHead, value: &[u8]) {
        if value.len() > self.value_bytes_max {
            self.deleted(key);
            return;
        }
        // Nobody else may be reading a value that is overwritten in place, and the weight stays.
        if let Some(mut record) = self.records.get_mut(key)
            && record.value.len() == value.len()
            && let Some(place) = Arc::get_mut(&mut record.value)
        {
            place.copy_from_slice(value);
            record.head = head;
            return;
        }
        self.records.insert(key.into(), RecentRecord { head, value: value.into() });
    }

    /// The database does not hold the key any more.
    pub(crate) fn deleted(&mut self, key: &[u8]) {
        self.records.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(mod_revision: u64) -> RecordHead {
        RecordHead { create_revision: 1, mod_revision, version: 1, deadline_ms: 0 }
    }

    /// Goal: what is kept is what was written last, within its bound. Method: more keys than fit, some
    /// overwritten with values of the same and of other lengths, some deleted, one too large.
    #[test]
    fn the_last_write_is_kept_within_the_bound() {
        let mut recent = Recent::new(64 << 10, 4096);
        for revision in 1..=1000_u64 {
            recent.written(&revision.to_be_bytes(), head(revision), &[1; 100]);
            recent.written(b"hot", head(revision), &vec![revision as u8; 100 + (revision / 300) as usize]);
            let hot = recent.get(b"hot").unwrap();
            assert_eq!((hot.head.mod_revision, hot.value[0]), (revision, revision as u8));
        }
        assert!(recent.records.weight() <= 64 << 10);
        assert!(recent.records.len() > 100);
        recent.deleted(b"hot");
        assert!(recent.get(b"hot").is_none());
        recent.written(b"hot", head(7), &[1; 10]);
        recent.written(b"hot", head(8), &[1; 4097]);
        assert!(recent.get(b"hot").is_none(), "an older record must not stand in for one too large");
    }
}
