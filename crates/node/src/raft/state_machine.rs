//! The state machine, as openraft wants it: a thin coat over [`Store`] and the apply worker.
//!
//! The state is on disk, so a "snapshot" is no copy that is kept: building one flushes the store, so
//! that the log may be purged up to there, and a checkpoint is made when one is to be sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt as _};
use kvorum_store::{Checkpoint, Store};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::time::Instant;

use super::apply::Applier;
use super::snapshot::data::SnapshotData;
use super::snapshot::places::Snapshots;
use super::types::{
    LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig, raft_log_id, store_entry, stored_membership,
};
use crate::blocking::Blocking;

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// The state machine for openraft.
#[derive(Clone)]
pub struct StateMachine {
    store: Store,
    applier: Applier,
    snapshots: Snapshots,
    blocking: Blocking,
    /// Set once openraft runs. Before, it asks for a snapshot only to learn its position.
    serving: Arc<AtomicBool>,
}

impl StateMachine {
    /// Wraps an open store.
    pub fn new(store: Store, applier: Applier, snapshots: Snapshots, blocking: Blocking) -> Self {
        StateMachine { store, applier, snapshots, blocking, serving: Arc::default() }
    }

    /// From now on a snapshot that is asked for is one to be sent.
    pub fn serve_snapshots(&self) {
        self.serving.store(true, Ordering::Release);
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.store.applied().map(raft_log_id), stored_membership(self.store.membership())?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut run = Vec::new();
        let mut responders = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            run.push(store_entry(&entry));
            responders.push(responder);
        }
        if run.is_empty() {
            return Ok(());
        }
        let awaited = responders.iter().map(Option::is_some).collect();
        let outcomes = self.applier.apply(run, awaited).await?;
        for (responder, outcomes) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Outcomes(outcomes));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let SnapshotData::Incoming(received) = snapshot else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        let store = self.store.clone();
        let install = self.blocking.run(move || store.install(*received));
        install.await?.map_err(io::Error::other)?;
        self.applier.apply(Vec::new(), Vec::new()).await?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let Some(applied) = self.store.applied() else { return Ok(None) };
        if !self.serving.load(Ordering::Acquire) {
            return position(&self.store).map(Some);
        }
        // Held from before the checkpoint, which then cannot be behind what the log still has.
        let hold = self.snapshots.holds.hold(applied.index);
        match self.checkpoint().await {
            Ok(checkpoint) => {
                hold.made_at(checkpoint.applied().map_or(0, |id| id.index));
                let meta = SnapshotMeta {
                    last_log_id: checkpoint.applied().map(raft_log_id),
                    last_membership: stored_membership(checkpoint.membership().cloned())?,
                };
                Ok(Some(Snapshot { meta, snapshot: SnapshotData::Outgoing { checkpoint, hold } }))
            }
            Err(reason) => {
                let meta = SnapshotMeta {
                    last_log_id: Some(raft_log_id(applied)),
                    last_membership: stored_membership(self.store.membership())?,
                };
                Ok(Some(Snapshot { meta, snapshot: SnapshotData::Failed(reason) }))
            }
        }
    }
}

impl StateMachine {
    /// Makes a checkpoint, unless the last attempt failed just now. The error is why there is none.
    /// Damage to the store is no exception: a directory that vanished meanwhile looks the same, and what is
    /// damaged ends the process at the first read that meets it.
    async fn checkpoint(&self) -> Result<Arc<Checkpoint>, String> {
        self.snapshots.failures.may_try(Instant::now())?;
        match self.snapshots.checkpoint(&self.store).await {
            Ok(checkpoint) => {
                self.snapshots.failures.made();
                Ok(checkpoint)
            }
            Err(error) => Err(self.snapshots.failures.failed(&error, Instant::now())),
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    /// Whoever triggers one has flushed the store before. An error would end raft, and nothing is lost if
    /// the log is purged a little later.
    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let store = self.store.clone();
        let build = self.blocking.run(move || {
            position(&store).or_else(|error| {
                tracing::warn!(%error, "how far the store is flushed could not be read; trying again");
                let meta = SnapshotMeta {
                    last_log_id: None,
                    last_membership: stored_membership(store.membership())?,
                };
                Ok(Snapshot { meta, snapshot: SnapshotData::Position })
            })
        });
        build.await?
    }
}

/// How far the store is flushed. The membership may be newer than that position: openraft allows it.
fn position(store: &Store) -> io::Result<RaftSnapshot> {
    let meta = SnapshotMeta {
        last_log_id: store.flushed().map_err(io::Error::other)?.map(raft_log_id),
        last_membership: stored_membership(store.membership())?,
    };
    Ok(Snapshot { meta, snapshot: SnapshotData::Position })
}
