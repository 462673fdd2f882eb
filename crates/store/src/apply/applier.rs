//! The state as a run of entries leaves it, on the way to the database: what every command works on.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteOptions;

use super::event::{Event, RevisionEvents, delete_event};
use super::overlay::{Overlay, Slot};
use super::rows::Rows;
use crate::command::{Outcome, Record};
use crate::db::{self, Recent};
use crate::error::StoreError;
use crate::layout::{CURRENT, Head};
use crate::state::{Published, State};

/// The state as the run at hand leaves it, on the way to the database.
pub(super) struct Applier<'db> {
    pub(super) state: &'db State,
    pub(super) overlay: Overlay<'db>,
    pub(super) rows: Rows<'db>,
    /// Its head is that of the last commit; the present one is in `rows`.
    pub(super) published: Published,
    pub(super) events: Vec<Arc<RevisionEvents>>,
    /// For each entry so far, for each of its commands so far, what became of it.
    pub(super) outcomes: Vec<Vec<Outcome>>,
    write_options: WriteOptions,
}

impl<'db> Applier<'db> {
    pub(super) fn new(
        state: &'db State,
        published: Published,
        recent: &'db mut Recent,
        payload_bytes: usize,
        write_options: WriteOptions,
    ) -> Self {
        let overlay = Overlay::new(&state.db, db::family(&state.db, CURRENT), recent);
        // A put's row in `current` and, when it overwrites, in `history` take about its own bytes.
        let rows = Rows::new(&state.db, published.head, 2 * payload_bytes);
        let (events, outcomes) = (Vec::new(), Vec::new());
        Applier { state, overlay, rows, published, events, outcomes, write_options }
    }

    /// The cluster's feature level as of the entry at hand: what its commands may rely on.
    pub(super) fn feature_level(&self) -> u32 {
        self.rows.head.feature_level
    }

    /// Deletes a key if it exists.
    pub(super) fn delete(&mut self, key: Bytes) -> Result<Option<Event>, StoreError> {
        let slot = self.overlay.slot(&key)?;
        let Some(old) = slot.record() else { return Ok(None) };
        self.rows.delete(&key, old);
        let previous: Option<Record> = slot.to_record(&key);
        *slot = Slot::Deleted;
        Ok(Some(delete_event(key, self.rows.next_revision(), previous)))
    }

    /// Ends a command that made these changes.
    pub(super) fn end_revision(&mut self, events: Vec<Event>) {
        assert_eq!(events.len(), self.rows.changes(), "watchers are told of each row that changes, once");
        if !events.is_empty() {
            let revision = self.rows.next_revision();
            self.events.push(Arc::new(RevisionEvents { revision, events }));
        }
        self.rows.end_revision();
    }

    /// Writes what has gathered.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        for (key, slot) in self.overlay.changed() {
            self.rows.set_current(key, slot.record());
        }
        let head = self.rows.head;
        let before = &self.published.head;
        assert!(head.revision >= before.revision, "revisions never go back");
        assert!(head.cluster_time_ms >= before.cluster_time_ms, "cluster time never goes back");
        assert!(head.feature_level >= before.feature_level, "the feature level never falls");
        let index = |head: &Head| head.applied.map(|applied| applied.index);
        assert!(index(&head) >= index(before), "entries are applied in order");
        self.state.announce(&head);
        self.state.publish_auth(&self.published.auth);
        self.state.admit_write()?;
        db::write(&self.state.db, self.rows.take(), &self.write_options)?;
        self.published.head = head;
        self.state.publish(self.published.clone());
        self.overlay.written();
        Ok(())
    }
}
