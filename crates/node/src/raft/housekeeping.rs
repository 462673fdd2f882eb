//! Keeps the log short: flushes the store when much of the log is not yet safe without it, and
//! purges what the store holds durably and no follower is likely to need.

use std::io;
use std::time::Duration;

use kvorum_store::StoreError;
use kvorum_store::log::Log;
use kvorum_store::space::SpaceState;
use openraft::async_runtime::WatchReceiver as _;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval};

use super::Raft;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How often the log is looked at. A client that finds its disks full may begin to delete at once,
/// and deleting takes the room that the log gives back.
const PERIOD: Duration = Duration::from_millis(250);

/// How often the store is flushed, or rewritten, on a disk that is low: each time makes small files.
const RELEASE_PERIOD: Duration = Duration::from_secs(5);

/// The log takes no more than this part of a small disk, whatever the flag says.
const LOG_SHARE: u64 = 4;
/// On a disk that is low the log takes this part of what it else would: deleting what is stored takes
/// room at first. What the log gives back stays promised to it.
const LOW_SHARE: u64 = 4;

/// Starts the task.
pub fn start(raft: Raft) {
    tokio::spawn(async move {
        let mut stopping = raft.watch_stopping();
        let mut ticks = interval(PERIOD);
        let mut released = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if let Err(error) = shorten_log(&raft).await {
                tracing::warn!(%error, "the log was not purged; trying again");
            }
            if let Err(error) = release_deleted(&raft, &mut released).await {
                tracing::warn!(%error, "the store was not flushed; trying again");
            }
        }
    });
}

/// How much log is kept on a disk of this size.
fn log_bytes_max(raft: &Raft, disk_bytes: u64) -> u64 {
    raft.inner.options.log_retain_bytes.min(disk_bytes / LOG_SHARE)
}

impl Raft {
    /// Looks at the disk. What the log may yet take is not free for anything else.
    pub(crate) fn space(&self) -> io::Result<SpaceState> {
        self.inner
            .space
            .check(|disk_bytes| log_bytes_max(self, disk_bytes).saturating_sub(self.inner.log.bytes()))
    }
}

/// With more log than is to be kept: flush, and purge the older half.
async fn shorten_log(raft: &Raft) -> Result<(), Error> {
    let inner = &raft.inner;
    let space = raft.space()?;
    let retain = log_bytes_max(raft, space.total_bytes) / if space.low { LOW_SHARE } else { 1 };
    let core = raft.core()?;
    if inner.log.bytes() <= retain {
        return Ok(());
    }
    let upto = oldest_to_keep(&inner.log, retain / 2).saturating_sub(1);
    if inner.store.flushed()?.is_none_or(|id| id.index < upto) {
        let store = inner.store.clone();
        spawn_blocking(move || store.flush()).await??;
    }
    // openraft purges only what it knows to be in a snapshot, and learns of it from a "built" one.
    let snapshot = core.raft.data_metrics().borrow_watched().snapshot.map(|id| id.index());
    if snapshot.is_none_or(|index| index < upto) {
        core.raft.trigger().snapshot().await?;
        return Ok(());
    }
    core.raft.trigger().purge_log(upto).await?;
    Ok(())
}

/// On a disk that is low, lets what was deleted leave it. Deletions wait in the store's memory until
/// it is flushed, and while nothing may grow, too few of them come to make RocksDB flush by itself,
/// or rewrite the table files that hold what they delete.
async fn release_deleted(raft: &Raft, last: &mut Option<Instant>) -> Result<(), Error> {
    let inner = &raft.inner;
    let space = raft.space()?;
    if !space.low || last.is_some_and(|last| last.elapsed() < RELEASE_PERIOD) {
        return Ok(());
    }
    *last = Some(Instant::now());
    let store = inner.store.clone();
    spawn_blocking(move || {
        // A flush that finds no room would leave the store unable to go on.
        let room = space.free_bytes > 2 * store.stats().memtable_bytes;
        if room && store.flushed()? != store.applied() {
            store.flush()?;
        }
        // What is left is written before what is there is removed: there must be room for it, and it
        // must be worth it.
        let left = store.logical_bytes();
        if left < store.stats().disk_bytes / 2 && left < space.free_bytes / 2 {
            store.rewrite();
        }
        Ok::<_, StoreError>(())
    })
    .await??;
    Ok(())
}

/// The first index behind which the log holds no more than so many bytes.
fn oldest_to_keep(log: &Log, bytes: u64) -> u64 {
    let state = log.state();
    let end = state.last.map_or(0, |id| id.index + 1);
    let (mut low, mut high) = (state.purged.map_or(0, |id| id.index + 1), end);
    while low < high {
        let middle = low + (high - low) / 2;
        if log.bytes_between(middle, end) > bytes { low = middle + 1 } else { high = middle }
    }
    low
}
