//! The raft log, as openraft wants it: a thin coat over [`kvorum_store::log::Log`].
//!
//! Votes, appends, truncations and purges go through the log's one ordered queue. Nothing here holds up
//! the thread that raft shares with everything else: what is not in the log's cache is read on another
//! one, and an append to a full queue awaits room.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use kvorum_store::log::Log;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::types::{
    Entry, LogId, TypeConfig, Vote, raft_entry, raft_log_id, raft_vote, store_entry, store_log_id,
    stored_vote,
};
use crate::blocking::Blocking;
use crate::observer::Observer;

/// The log for openraft; a clone reads and writes the same log.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
    blocking: Blocking,
    append_bytes_max: usize,
    observer: Option<Arc<dyn Observer>>,
}

impl LogStore {
    /// Wraps an open log. One append to another member carries so many bytes, or a single larger entry.
    pub fn new(
        log: Log,
        blocking: Blocking,
        append_bytes_max: usize,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        LogStore { log, blocking, append_bytes_max, observer }
    }

    /// An error ends raft, and with it the process: a log that can't be read holds what others may need,
    /// and the next start, which reads all of it, refuses it by the same name.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = match self.log.read_cached(range.clone(), bytes_max) {
            Some(entries) => entries,
            None => {
                let log = self.log.clone();
                let read = self.blocking.run(move || log.read(range, bytes_max));
                read.await?.map_err(io::Error::other)?
            }
        };
        entries.into_iter().map(raft_entry).collect()
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(half_open(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, self.append_bytes_max).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.state().vote.map(raft_vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        let last_purged_log_id = state.purged.map(raft_log_id);
        Ok(LogState { last_log_id: state.last.map(raft_log_id).or(last_purged_log_id), last_purged_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        let stored = stored_vote(vote);
        self.log.save_vote(stored, Box::new(move || _ = done.send(())));
        wait(durable).await?;
        if let Some(observer) = &self.observer {
            observer.voted(stored);
        }
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.log.set_committed(store_log_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| store_entry(&entry)).collect();
        self.log.room().await;
        let (observer, last) = (self.observer.clone(), entries.last().map(|entry| entry.log_id));
        let done = move || {
            if let (Some(observer), Some(last)) = (observer, last) {
                observer.appended(last);
            }
            callback.io_completed(Ok(()));
        };
        self.log.append(entries, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        let last = last_log_id.as_ref().map(store_log_id);
        if let Some(observer) = &self.observer {
            observer.cut(last, self.log.state().last);
        }
        self.log.truncate_after(last, Box::new(move || _ = done.send(())));
        wait(durable).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        let upto = store_log_id(&log_id);
        // It becomes empty where it lacks that entry.
        if let Some(observer) = &self.observer
            && self.log.term_of(upto.index).is_none_or(|term| term != upto.term)
        {
            observer.cut(Some(upto), self.log.state().last);
        }
        self.log.purge(upto, Box::new(move || _ = done.send(())));
        wait(durable).await
    }
}

/// Waits for the log thread. It ends only with the process or when the log is closed.
async fn wait(durable: oneshot::Receiver<()>) -> io::Result<()> {
    durable.await.map_err(|_| io::Error::other("the raft log was closed"))
}
