//! The handle to the log.

use std::future::poll_fn;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use super::error::LogError;
use super::files::{self, DIR};
use super::housekeeper::Housekeeper;
use super::options::LogOptions;
use super::shared::{Plan, Shared};
use super::state::{Done, LogState, Pending, Vote};
use super::writer::{Start, Writer};
use super::{reader, recovery};
use crate::entry::{Entry, LogId};
use crate::fatal::stop_process;
use crate::machine::Machine;
use crate::threads::Running;

/// A handle to the log. When the last one is dropped, the log finishes what is queued and closes.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Set while there is no room for the next segment.
    full: Arc<AtomicBool>,
    identity: u64,
    writer: Option<Box<dyn Running>>,
}

impl Log {
    /// Opens the log in the data directory `dir`, founding it if there is none. `identity` is the
    /// node's id: files of another node are refused.
    pub fn open(dir: &Path, identity: u64, mut options: LogOptions) -> Result<Log, LogError> {
        options.segment_bytes =
            files::segment_bytes(options.segment_bytes.min(options.limits.segment_bytes_max));
        let log_dir = dir.join(DIR);
        let machine = options.machine.clone();
        let disk = &machine.files;
        if !files::log_exists(&**disk, dir).map_err(LogError::io("look for log", &log_dir))? {
            files::found(disk, dir, identity, options.segment_bytes)?;
        }
        let recovered = recovery::recover(&**disk, &log_dir, identity)?;
        let full = Arc::new(AtomicBool::new(false));
        let housekeeper = Housekeeper::start(
            &machine,
            &log_dir,
            options.segment_bytes,
            options.space.clone(),
            full.clone(),
        )
        .map_err(LogError::io("start a thread for the log in", &log_dir))?;
        let start = Start::after(disk, &recovered, identity)?;
        let shared = Arc::new(Shared::new(recovered, &options));
        let writer = Writer::new(shared.clone(), housekeeper, &log_dir, identity, options, start);
        let writer = machine
            .threads
            .start("log-writer", Box::new(writer))
            .map_err(LogError::io("start a thread for the log in", &log_dir))?;
        Ok(Log(Arc::new(Inner { shared, full, identity, writer: Some(writer) })))
    }

    /// Whether the data directory has a log. One that belongs to a cluster must have one.
    pub fn exists(dir: &Path) -> bool {
        files::log_exists(&*Machine::system().files, dir).unwrap_or(false)
    }

    /// Where the log stands, with everything that is queued.
    pub fn state(&self) -> LogState {
        self.0.shared.state()
    }

    /// Returns when the queue is below its bound.
    pub fn room(&self) -> impl Future<Output = ()> + Send {
        poll_fn(|context| self.0.shared.poll_room(context))
    }

    /// Appends entries, which must follow the last one without a hole. They can be read when this
    /// returns; `done` is called when they are durable, or overtaken by a truncation that is. It does
    /// not wait; whoever appends much awaits [`Log::room`] before.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        require(self.0.shared.append(entries, done));
    }

    /// Saves a vote.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.0.shared.save_vote(vote, done);
    }

    /// Drops all entries after `last`, which must be in the log; `None` drops all.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        require(self.0.shared.truncate_after(last, done));
    }

    /// Drops all entries up to `upto`. If the log ends before it, or has another entry there, it
    /// becomes empty and goes on after `upto`, as after an installed snapshot. Files go only when
    /// this is durable.
    pub fn purge(&self, upto: LogId, done: Done) {
        require(self.0.shared.purge(upto, done));
    }

    /// Remembers that entries up to `id` are committed. It goes to disk with the next change.
    pub fn set_committed(&self, id: LogId) {
        self.0.shared.set_committed(id);
    }

    /// What is queued or being written; `None` while everything is on disk.
    pub fn pending(&self) -> Option<Pending> {
        let completed = self.0.shared.pending()?;
        Some(Pending { completed, for_room: self.0.full.load(Ordering::Relaxed) })
    }

    /// What [`Log::read`] answers, if that takes no read of the disk.
    pub fn read_cached(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        let Plan { pieces, cached } = self.0.shared.plan(range, bytes_max);
        pieces.is_empty().then_some(cached)
    }

    /// The entries of the range that are in the log, as many as `bytes_max` payload bytes allow,
    /// and one at least if there is one. It may wait for the disk.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let Plan { pieces, cached } = self.0.shared.plan(range, bytes_max);
        if pieces.is_empty() {
            return Ok(cached);
        }
        let mut page = reader::read(&pieces, self.0.identity, bytes_max)?;
        for entry in cached {
            page.payload_bytes += entry.payload.len();
            if page.full || page.payload_bytes > bytes_max {
                break;
            }
            let last = page.entries.last().map(|last| last.log_id.index + 1);
            assert!(last.is_none_or(|next| next == entry.log_id.index), "what is read has no hole");
            page.entries.push(entry);
        }
        Ok(page.entries)
    }

    /// The term of the entry at an index, without a read of the disk; also of the last purged one.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.0.shared.term_of(index)
    }

    /// The index of the last durable entry, without a lock.
    pub fn durable_index(&self) -> Option<u64> {
        self.0.shared.durable_next().checked_sub(1)
    }

    /// Returns when the entry at `index`, which must have been appended, is durable.
    pub fn durable(&self, index: u64) -> impl Future<Output = ()> + Send {
        poll_fn(move |context| self.poll_durable(index, context.waker()))
    }

    /// The same for a [`Worker`](crate::threads::Worker): ready, or the waker is woken when it is.
    pub fn poll_durable(&self, index: u64, waker: &Waker) -> Poll<()> {
        self.0.shared.poll_durable(index, waker)
    }

    /// Bytes of the log, on disk and queued.
    pub fn bytes(&self) -> u64 {
        self.0.shared.used_bytes()
    }

    /// About how many bytes of log lie between two entries; exact to some 16 KiB.
    pub fn bytes_between(&self, from: u64, to: u64) -> u64 {
        self.0.shared.bytes_between(from, to)
    }

    /// Bytes of changes that wait for the writer.
    pub fn queued_bytes(&self) -> usize {
        self.0.shared.queued_bytes()
    }

    /// Bytes of entries in the cache.
    pub fn cached_bytes(&self) -> usize {
        self.0.shared.cached_bytes()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        // A callback may hold the last handle: then the writer goes on by itself.
        if let Some(writer) = self.writer.take() {
            writer.join();
        }
    }
}

/// A change that breaks the log's rules comes from a broken invariant of the caller: the log must
/// not be written any more.
fn require(result: Result<(), &'static str>) {
    if let Err(reason) = result {
        stop_process("cannot change log", reason);
    }
}
