//! The state as a run of entries leaves it, on the way to the database: what every command works on.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteOptions;

use super::event::{Event, EventKind, RevisionEvents, delete_event};
use super::overlay::{Overlay, Slot};
use super::rows::Rows;
use crate::command::{Outcome, Record};
use crate::db::{self, Recent};
use crate::error::StoreError;
use crate::layout::{CURRENT, Head, RecordHead};
use crate::state::{Published, State};

/// The state as the run at hand leaves it, on the way to the database.
pub(super) struct Applier<'db> {
    pub(super) state: &'db State,
    pub(super) overlay: Overlay<'db>,
    pub(super) rows: Rows<'db>,
    /// Its head is that of the last commit; the present one is in `rows`.
    pub(super) published: Published,
    pub(super) events: Vec<Arc<RevisionEvents>>,
    /// How many bytes of records before their changes the events of this run may still tell.
    pub(super) previous_room: usize,
    /// Whether there was no room for one in the revision that is being made.
    pub(super) is_cut: bool,
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
        let current = db::family(&state.db, CURRENT);
        let overlay = Overlay::new(&state.db, current, recent, state.limits.held_bytes_max);
        // A put's row in `current` and, when it overwrites, in `history` take about its own bytes.
        let rows = Rows::new(&state.db, published.head, 2 * payload_bytes);
        let (events, outcomes) = (Vec::new(), Vec::new());
        let previous_room = state.limits.previous_told_bytes_max;
        Applier {
            state,
            overlay,
            rows,
            published,
            events,
            previous_room,
            is_cut: false,
            outcomes,
            write_options,
        }
    }

    /// The cluster's feature level as of the entry at hand: what its commands may rely on.
    pub(super) fn feature_level(&self) -> u32 {
        self.rows.head.feature_level
    }

    /// Deletes a key if it exists. With `wanted`, whoever asked for it is told what was there.
    pub(super) fn delete(&mut self, key: Bytes, wanted: bool) -> Result<Option<Event>, StoreError> {
        let slot = self.overlay.slot(&key)?;
        let Some(old) = slot.record() else { return Ok(None) };
        self.rows.delete(&key, old);
        let previous = previous(slot, &key, wanted, &mut self.previous_room, &mut self.is_cut);
        *slot = Slot::Deleted;
        Ok(Some(delete_event(key, self.rows.next_revision(), previous)))
    }

    /// Writes a record over what the key held, from which `new` makes the one that comes.
    pub(super) fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        wanted: bool,
        new: impl FnOnce(Option<RecordHead>, u64) -> RecordHead,
    ) -> Result<Event, StoreError> {
        let slot = self.overlay.slot(&key)?;
        let old = slot.record();
        let new = new(old.map(|(old, _)| old), self.rows.next_revision());
        self.rows.put(&key, old, new, &value);
        let previous = previous(slot, &key, wanted, &mut self.previous_room, &mut self.is_cut);
        *slot = Slot::Written(new, value.clone());
        Ok(Event { kind: EventKind::Put, record: new.into_record(key, value), previous })
    }

    /// Ends a command that made these changes.
    pub(super) fn end_revision(&mut self, events: Vec<Event>) {
        assert_eq!(events.len(), self.rows.changes(), "watchers are told of each row that changes, once");
        if !events.is_empty() {
            let revision = self.rows.next_revision();
            self.events.push(Arc::new(RevisionEvents { revision, events, is_cut: self.is_cut }));
        }
        self.is_cut = false;
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

/// The record that a change replaces, if there is one: for whoever asked for it, and for watchers as long as there is
/// room to tell them.
fn previous(
    slot: &Slot<'_>,
    key: &Bytes,
    wanted: bool,
    room: &mut usize,
    is_cut: &mut bool,
) -> Option<Record> {
    let (_, value_bytes) = slot.head()?;
    if wanted || has_room(value_bytes, room, is_cut) { slot.to_record(key) } else { None }
}

/// Takes so many bytes from the room for what was there before the changes of a run; if there are not as many, the
/// revision is told without.
pub(super) fn has_room(bytes: usize, room: &mut usize, is_cut: &mut bool) -> bool {
    match room.checked_sub(bytes) {
        Some(left) => *room = left,
        None => *is_cut = true,
    }
    !*is_cut
}
