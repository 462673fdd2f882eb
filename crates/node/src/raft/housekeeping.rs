//! Keeps the log short: flushes the store when much of the log is not yet safe without it, and
//! purges what the store holds durably and no follower is likely to need.

use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_store::StoreError;
use kvorum_store::log::Log;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, interval};

use super::disk::LOG_SHARE;
use super::types::LogId;
use super::{Core, Raft};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How often the log is looked at. A client that finds its disks full may begin to delete at once,
/// and deleting takes the room that the log gives back.
const PERIOD: Duration = Duration::from_millis(250);

/// How often the store is flushed, or rewritten, on a disk that is low: each time makes small files.
const RELEASE_PERIOD: Duration = Duration::from_secs(5);

/// On a disk that is low the log takes this part of what it else would: deleting what is stored takes
/// room at first. What the log gives back stays promised to it.
const LOW_SHARE: u64 = 4;

/// For a member that gets a snapshot the log may grow beyond what is kept, up to its part of a small disk,
/// as long as the disk has this many times the reserve free: nobody else is to be refused a write for it.
const HOLD_RESERVES: u64 = 2;
/// A member that gets a snapshot has caught up when it lacks no more than this part of what is kept: from
/// there on it is a follower like any other.
const CAUGHT_UP_SHARE: u64 = 8;

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

/// With more log than is to be kept: flush, and purge the older half, or what of it nobody needs who gets
/// a snapshot.
async fn shorten_log(raft: &Raft) -> Result<(), Error> {
    let inner = &raft.inner;
    let core = raft.core()?;
    let space = raft.look_at_disk().await?;
    let retain = raft.log_bytes_max(space.total_bytes) / if space.low { LOW_SHARE } else { 1 };
    let near = oldest_to_keep(&inner.log, retain / CAUGHT_UP_SHARE);
    inner.snapshots.holds.follow(Instant::now(), matched(core).as_ref(), near);
    if inner.log.bytes() <= retain {
        return Ok(());
    }
    let upto = oldest_to_keep(&inner.log, retain / 2).saturating_sub(1);
    let roomy = !space.low && space.free_bytes >= HOLD_RESERVES * inner.space.options().reserve_bytes;
    let may_hold = roomy && inner.log.bytes() <= space.total_bytes / LOG_SHARE;
    let upto = match inner.snapshots.holds.purge_max() {
        Some(held) if may_hold => upto.min(held),
        _ => upto,
    };
    if inner.log.state().purged.is_some_and(|purged| purged.index >= upto) {
        return Ok(());
    }
    let store = inner.store.clone();
    inner
        .blocking
        .run(move || match store.flushed()? {
            Some(flushed) if flushed.index >= upto => Ok(()),
            _ => store.flush().map(drop),
        })
        .await??;
    // openraft purges only what it knows to be in a snapshot, and learns of it from a "built" one.
    let snapshot = core.raft.data_metrics().borrow_watched().snapshot.map(|id| id.index());
    if snapshot.is_none_or(|index| index < upto) {
        core.raft.trigger().snapshot().await?;
    }
    // The one before this is purged to at once: where more is written in a period than is kept, the next
    // one is behind again by the next look.
    if let Some(index) = snapshot {
        core.raft.trigger().purge_log(upto.min(index)).await?;
    }
    Ok(())
}

/// How far each follower's log is known to be, where this node leads.
fn matched(core: &Core) -> Option<BTreeMap<u64, u64>> {
    let metrics = core.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index());
    metrics.replication.as_ref().map(|all| all.iter().map(|(id, at)| (*id, index(at))).collect())
}

/// On a disk that is low, lets what was deleted leave it. Deletions wait in the store's memory until
/// it is flushed, and while nothing may grow, too few of them come to make RocksDB flush by itself,
/// or rewrite the table files that hold what they delete.
async fn release_deleted(raft: &Raft, last: &mut Option<Instant>) -> Result<(), Error> {
    let inner = &raft.inner;
    let space = raft.look_at_disk().await?;
    if !space.low || last.is_some_and(|last| last.elapsed() < RELEASE_PERIOD) {
        return Ok(());
    }
    *last = Some(Instant::now());
    let store = inner.store.clone();
    inner
        .blocking
        .run(move || {
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
