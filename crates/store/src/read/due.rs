//! The keys that are due, for the leader, which proposes their deletion.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::ReadOptions;

use crate::command::DueKey;
use crate::db;
use crate::error::StoreError;
use crate::layout::{DEADLINES, decode_deadline, decode_deadline_key};
use crate::state::State;
use crate::store::Store;

impl Store {
    /// Keys whose deadline is not after `now_ms`, the earliest first, at most `max`.
    pub fn due(&self, now_ms: u64, max: usize) -> Result<Vec<DueKey>, StoreError> {
        due(&self.state(), now_ms, max)
    }
}

fn due(state: &State, now_ms: u64, max: usize) -> Result<Vec<DueKey>, StoreError> {
    // Read before the iterator is made: rows that come later than this moment lie after it.
    let cluster_time_ms = state.cluster_time_ms();
    let from_ms = state.due_from_ms.load(Ordering::Acquire);
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from_ms.to_be_bytes());
    if let Some(after_now) = now_ms.checked_add(1) {
        options.set_iterate_upper_bound(after_now.to_be_bytes());
    }
    let mut rows = state.db.raw_iterator_cf_opt(db::family(&state.db, DEADLINES), options);
    let malformed = |_| StoreError::malformed(state.path(), "a row of `deadlines` is no deadline");
    rows.seek_to_first();
    let mut keys = Vec::new();
    // Nothing lies below the first row, nor, without one, below the end of the search; what is
    // added meanwhile lies after the cluster time.
    let mut from_ms = now_ms.min(cluster_time_ms);
    while let Some((key, row)) = rows.item() {
        let (deadline_ms, key) = decode_deadline_key(key).map_err(malformed)?;
        if keys.is_empty() {
            from_ms = from_ms.min(deadline_ms);
        }
        if keys.len() >= max {
            break;
        }
        let mod_revision = decode_deadline(row).map_err(malformed)?;
        keys.push(DueKey { key: Bytes::copy_from_slice(key), mod_revision });
        rows.next();
    }
    rows.status().map_err(StoreError::database("read deadlines", state.path()))?;
    state.due_from_ms.fetch_max(from_ms, Ordering::AcqRel);
    Ok(keys)
}
