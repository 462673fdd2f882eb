//! Putting a received snapshot in the place of the state.

use std::sync::Arc;

use super::receiver::ReceivedSnapshot;
use crate::db;
use crate::error::{OpenError, StoreError};
use crate::layout::{self, meta};
use crate::places::state_path;
use crate::state::{State, lock, sync_dir};
use crate::store::Store;

impl Store {
    /// Makes the snapshot this store's state; every handle sees it afterwards. What the store held
    /// before is gone, and what it has in memory of it (a watch's ring, say) is the caller's to drop.
    /// Every failure is final: the process has to stop.
    pub fn install(&self, snapshot: ReceivedSnapshot) -> Result<(), OpenError> {
        let _installing = lock(&self.shared.installing);
        let old = self.state();
        let _writer = lock(&old.writer);
        let caches = &self.shared.caches;
        let files = &self.shared.machine.files;

        // The mark is in the snapshot before that is in place, so that no crash can part them.
        let incoming = &snapshot.dir.path;
        let db = db::open(incoming, caches)?;
        if let Some(applied) = snapshot.begin().applied {
            db.put_opt(meta::INSTALLED, layout::encode_position(applied, &[]), &db::write_options())
                .map_err(StoreError::database("mark snapshot", incoming))?;
        }
        db::flush(&db)?;
        drop(db);
        sync_dir(&**files, incoming)?;

        // With this name it is the state; the older one goes with its last reader, or, after a
        // crash, when the store is opened.
        let number = old.number + 1;
        let path = state_path(&self.shared.dir, number);
        files.rename(incoming, &path).map_err(StoreError::io("rename snapshot to", &path))?;
        sync_dir(&**files, &self.shared.dir)?;
        let state =
            State::open(files, &path, number, caches, self.shared.feature_level_max, self.shared.limits)?;
        self.replace_state(Arc::new(state)).retire();
        Ok(())
    }
}
