//! Reads of one key, now and at an older revision.

use rocksdb::{ErrorKind, ReadOptions, ReadTier};

use super::view::{View, decode_record};
use crate::command::Record;
use crate::db;
use crate::error::{ReadError, StoreError};
use crate::layout::CURRENT;
use crate::state::State;
use crate::store::Store;

/// What a key held at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// The store's revision at the moment of the read, at or above the one that was read at.
    pub revision: u64,
    /// The record, if the key existed.
    pub record: Option<Record>,
}

impl Store {
    /// The key now, as [`Store::get`] answers it, if that takes no read of the disk. None: it may take one.
    pub fn get_cached(&self, key: &[u8]) -> Result<Option<Get>, ReadError> {
        let state = self.state();
        if state.limits.repeatable {
            return Ok(None);
        }
        Ok(get_now(&state, key, ReadTier::BlockCache)?)
    }

    /// The key at a revision; 0: now. It may wait for the disk.
    pub fn get(&self, key: &[u8], revision: u64) -> Result<Get, ReadError> {
        let state = self.state();
        if revision == 0
            && let Some(get) = get_now(&state, key, ReadTier::All)?
        {
            return Ok(get);
        }
        let view = View::new(&state)?;
        let at = view.revision_at(revision)?;
        let record = view.record_at(key, at)?;
        Ok(Get { revision: view.head.revision, record })
    }
}

/// Reads a key without a snapshot. None: a write came in between, so that it is not certain which
/// revision the answer belongs to; or what is to be read is not in this tier.
fn get_now(state: &State, key: &[u8], tier: ReadTier) -> Result<Option<Get>, StoreError> {
    let revision = state.revision();
    let mut options = ReadOptions::default();
    options.set_read_tier(tier);
    let row = match state.db.get_pinned_cf_opt(db::family(&state.db, CURRENT), key, &options) {
        Err(error) if error.kind() == ErrorKind::Incomplete => return Ok(None),
        row => row.map_err(StoreError::database("read key", state.path()))?,
    };
    let record = row.map(|row| decode_record(state, key, &row)).transpose()?;
    // A record from before the revision has not changed since. Anything else belongs to it if no
    // later write had begun by now.
    let unchanged = record.as_ref().is_some_and(|record| record.mod_revision <= revision);
    let is_exact = unchanged || state.revision_writing() == revision;
    Ok(is_exact.then_some(Get { revision, record }))
}
