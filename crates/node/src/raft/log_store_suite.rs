//! Goal: the log keeps openraft's contract. Method: openraft's own suite, on a real log in a
//! directory of its own for each case.
//!
//! The suite takes two liberties that raft never takes and that our log and store refuse: it begins
//! a log in the middle, and applies entries that it never appended. So [`Filled`] puts blank entries
//! in front of the first one, and the state machine is a plain one in memory.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _};
use kvorum_store::log::{Log, LogOptions};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::types::{Entry, LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use crate::blocking::{Blocking, ThreadPool};

const NODE_ID: u64 = 1;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, ()>;

#[derive(Clone, Default)]
struct Memory {
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The last snapshot, which builder and state machine share.
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl RaftStateMachine<TypeConfig> for Memory {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.applied = Some(entry.log_id);
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(self.applied, membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcomes::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().expect("nobody panics") = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let meta = self.snapshot.lock().expect("nobody panics").clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Memory {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().expect("nobody panics") = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

/// A log whose first entries were made up, if the first one appended is none of the first.
struct Filled(LogStore);

impl RaftLogReader<TypeConfig> for Filled {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.0.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.0.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Filled {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let empty = self.0.get_log_state().await?.last_log_id.is_none();
        let missing = entries.first().filter(|_| empty).map(|first| first.log_id);
        let blank = |term| move |index| Entry::new_blank(LogId::new_term_index(term, index));
        let made_up = missing.map(|id| (0..id.index()).map(blank(id.committed_leader_id().term)));
        let all: Vec<Entry> = made_up.into_iter().flatten().chain(entries).collect();
        self.0.append(all, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.0.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.0.purge(log_id).await
    }
}

struct Stores;

impl StoreBuilder<TypeConfig, Filled, Memory, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, Filled, Memory), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary directory");
        let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
        let log = Log::open(dir.path(), NODE_ID, options).expect("a new log");
        Ok((dir, Filled(LogStore::new(log, Blocking::new(ThreadPool), 1 << 20, None)), Memory::default()))
    }
}

#[tokio::test]
async fn openrafts_suite_passes() {
    Suite::test_all(Stores).await.expect("the suite passes");
}
