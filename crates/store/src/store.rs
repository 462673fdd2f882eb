//! The handle to a node's state.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use rocksdb::{ReadOptions, ReadTier, WaitForCompactOptions};

use crate::apply::{self, Applying, Attempt, Run};
use crate::auth::Auth;
use crate::command::{Kind, Refused};
use crate::db::{self, Caches, StoreOptions};
use crate::entry::{Entry, LogId};
use crate::error::{OpenError, StoreError};
use crate::files::Files;
use crate::layout::{self, AUTH, CHANGES, CURRENT, DEADLINES, HISTORY, Head, meta};
use crate::limits::Limits;
use crate::machine::Machine;
use crate::places::{CHECKPOINTS, INCOMING, state_numbers, state_path};
use crate::state::{State, lock, sync_dir};

/// What RocksDB calls the number of files of a family that flushes have left.
const FILES_AT_LEVEL_0: &str = "rocksdb.num-files-at-level0";
/// So many of them are left as they are: as many as RocksDB leaves where it compacts by itself.
const FLUSHED_FILES_MAX: u64 = 3;

/// A handle to a node's state: cheap to clone, and safe to use from any thread. One thread applies
/// entries, any number read.
///
/// Architecture invariant: the store reads no clock and draws no random number. What entries do
/// depends on the entries before them alone, so that all members come to the same state.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) caches: Caches,
    /// Replaced as a whole when a snapshot is installed. Readers clone the `Arc` and let go of the
    /// lock, so that nobody waits for a reader.
    state: RwLock<Arc<State>>,
    /// Held while a snapshot is installed.
    pub(crate) installing: Mutex<()>,
    /// Numbers the checkpoints of this process.
    pub(crate) checkpoints: AtomicU64,
    /// See [`StoreOptions::feature_level_max`].
    pub(crate) feature_level_max: u32,
    /// See [`StoreOptions::limits`].
    pub(crate) limits: Limits,
    /// See [`StoreOptions::machine`].
    pub(crate) machine: Machine,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of table files.
    pub disk_bytes: u64,
    /// Bytes in the block cache, memtables included.
    pub cache_bytes: u64,
    /// Bytes of memtables.
    pub memtable_bytes: u64,
    /// Bytes that RocksDB has yet to compact.
    pub pending_compaction_bytes: u64,
    /// Bytes a second that RocksDB holds writes down to; 0: it does not.
    pub delayed_write_rate: u64,
    /// RocksDB lets no write through at present.
    pub writes_stopped: bool,
}

impl Store {
    /// Opens the state in the data directory `dir`, or makes an empty one if there is none. The
    /// caller holds the directory's lock.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Store, OpenError> {
        let caches = Caches::new(&options);
        let StoreOptions { feature_level_max, limits, machine, .. } = options;
        let files = &machine.files;
        let newest = tidy(&**files, dir)?;
        let number = match newest {
            Some(number) => number,
            None => {
                // A state has its name only once it is whole.
                let incoming = dir.join(format!("{INCOMING}first"));
                State::create(&**files, &incoming, &caches)?;
                let path = state_path(dir, 1);
                files.rename(&incoming, &path).map_err(StoreError::io("rename state to", &path))?;
                sync_dir(&**files, dir)?;
                1
            }
        };
        let state = State::open(files, &state_path(dir, number), number, &caches, feature_level_max, limits)?;
        let shared = Shared {
            dir: dir.to_owned(),
            caches,
            state: RwLock::new(Arc::new(state)),
            installing: Mutex::new(()),
            checkpoints: AtomicU64::new(0),
            feature_level_max,
            limits,
            machine,
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Applies entries in order, and answers what became of their commands. On a full disk it waits a while for room,
    /// so it is for whoever has a thread of its own. Every failure is final: the process has to stop.
    #[expect(clippy::disallowed_methods, reason = "who must not wait calls `try_apply`")]
    pub fn apply(&self, run: &[Entry]) -> Result<Run, StoreError> {
        let mut applying = Applying::default();
        loop {
            match self.try_apply(run, &mut applying)? {
                Attempt::Done(run) => return Ok(run),
                Attempt::Full { wait } => std::thread::sleep(wait),
            }
        }
    }

    /// The same for a [`Worker`](crate::threads::Worker): on a full disk it answers when to try again, with the same
    /// run and what attempts before have come to. It does so for a while; then that is a failure too.
    pub fn try_apply(&self, run: &[Entry], applying: &mut Applying) -> Result<Attempt, StoreError> {
        apply::attempt(&self.state(), run, applying)
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Option<LogId> {
        self.state().head().applied
    }

    /// The last membership that was applied, and the entry it came with.
    pub fn membership(&self) -> Option<(LogId, Bytes)> {
        self.state().published().membership.clone()
    }

    /// The cluster's feature level, as of the last applied entry: what may be proposed.
    pub fn feature_level(&self) -> u32 {
        self.state().head().feature_level
    }

    /// The revision of the last change; 1 in an empty store.
    pub fn revision(&self) -> u64 {
        self.state().revision()
    }

    /// The oldest revision that can be read; 0 before the first compaction.
    pub fn compacted(&self) -> u64 {
        self.state().compacted()
    }

    /// The time that the last batch was applied at.
    pub fn cluster_time_ms(&self) -> u64 {
        self.state().cluster_time_ms()
    }

    /// Whether any key has a deadline.
    pub fn has_deadlines(&self) -> bool {
        self.state().head().deadlines > 0
    }

    /// Whether `CompactStep` commands are still to be proposed.
    pub fn compaction_backlog(&self) -> bool {
        self.state().head().compaction_backlog()
    }

    /// The nodes whose alarm for lack of space stands.
    pub fn space_alarms(&self) -> Vec<u64> {
        self.state().published().space_alarms.iter().copied().collect()
    }

    /// The nodes whose data differs from what a majority holds.
    pub fn corrupt_alarms(&self) -> Vec<u64> {
        self.state().published().corrupt_alarms.iter().copied().collect()
    }

    /// Whether this node's data differs from what a majority holds.
    pub fn is_corrupt(&self, node_id: u64) -> bool {
        self.state().published().corrupt_alarms.contains(&node_id)
    }

    /// Who may do what. What was read before this was read under rights no newer.
    pub fn auth(&self) -> Arc<Auth> {
        self.state().auth()
    }

    /// [`Auth::fence`] of that: 0 where nobody is refused.
    pub fn auth_fence(&self) -> u64 {
        self.state().auth_fence()
    }

    /// [`Auth::as_of`] of that: 0 where nobody is looked at.
    pub fn auth_as_of(&self) -> u64 {
        self.state().auth_as_of()
    }

    /// Why a command would be refused for lack of space, were it applied now and changed something.
    pub fn refuse_growth(&self, command: &Kind) -> Option<Refused> {
        apply::refuse_growth(command, &self.state().published())
    }

    /// How many logical bytes the store may hold; 0: no limit.
    pub fn quota_bytes(&self) -> u64 {
        self.state().head().quota_bytes
    }

    /// How many logical bytes the store holds, history included. The same on all members.
    pub fn logical_bytes(&self) -> u64 {
        self.state().head().logical_bytes
    }

    /// How many keys there are now.
    pub fn keys(&self) -> u64 {
        self.state().head().keys
    }

    /// Makes all that is applied durable. Answers what [`Store::flushed`] then does.
    pub fn flush(&self) -> Result<Option<LogId>, StoreError> {
        let state = self.state();
        state.admit_write()?;
        if state.limits.repeatable {
            db::flush_in_order(&state.db)?;
            merge_files(&state);
        } else {
            db::flush(&state.db)?;
        }
        flushed(&state)
    }

    /// The last entry whose effects are durable: the log may be purged up to it.
    pub fn flushed(&self) -> Result<Option<LogId>, StoreError> {
        flushed(&self.state())
    }

    /// If this state was made from a snapshot, the last entry in that. Only then may the log be
    /// behind the state.
    pub fn installed(&self) -> Option<LogId> {
        self.state().installed
    }

    /// Makes the state of a restored snapshot that of a new cluster: `membership` becomes the last
    /// applied one, as of the last applied entry, and what only concerned the old cluster's members
    /// is forgotten: sessions too, as `session_key`, 32 bytes that were just drawn, takes the place of the key that
    /// they were signed with. Durable when it returns.
    pub fn found_from(&self, membership: &[u8], session_key: &[u8]) -> Result<(), StoreError> {
        let state = self.state();
        let _writer = lock(&state.writer);
        let mut published = state.published().clone();
        let log_id = published.head.applied.unwrap_or_default();
        published.head.applied = Some(log_id);
        published.head.commands_applied = 0;
        published.membership = Some((log_id, Bytes::copy_from_slice(membership)));
        published.space_alarms.clear();
        published.corrupt_alarms.clear();
        published.auth = Arc::new(published.auth.with_session_key(session_key));
        let mut batch = rocksdb::WriteBatch::default();
        batch.put(meta::HEAD, published.head.encode());
        batch.put(meta::MEMBERSHIP, layout::encode_position(log_id, membership));
        batch.put(meta::SPACE_ALARMS, layout::encode_alarms([].iter()));
        batch.delete(meta::CORRUPT_ALARMS);
        if published.auth.revision() > 0 {
            batch.put(AUTH, layout::encode_auth(published.auth.head()));
        }
        state
            .db
            .write_opt(batch, &db::write_options())
            .map_err(StoreError::database("write membership", state.path()))?;
        state.publish_auth(&published.auth);
        state.publish(published);
        db::flush(&state.db)
    }

    /// Rewrites all table files without what was deleted, which gives its room back. It takes as
    /// long as writing all that is left, and as much room until it is done.
    pub fn rewrite(&self) {
        let state = self.state();
        for name in [CURRENT, HISTORY, CHANGES, DEADLINES] {
            state.db.compact_range_cf::<&[u8], &[u8]>(db::family(&state.db, name), None, None);
        }
        wait_until_at_rest(&state);
    }

    /// Figures for metrics.
    pub fn stats(&self) -> StoreStats {
        let state = self.state();
        let sum = |name: &str| -> u64 {
            let value =
                |family| state.db.property_int_value_cf(db::family(&state.db, family), name).ok().flatten();
            db::FAMILIES.into_iter().filter_map(value).sum()
        };
        let whole = |name: &str| state.db.property_int_value(name).ok().flatten().unwrap_or_default();
        StoreStats {
            disk_bytes: sum("rocksdb.total-sst-files-size"),
            cache_bytes: self.shared.caches.blocks.get_usage() as u64,
            memtable_bytes: self.shared.caches.memtables.get_usage() as u64,
            pending_compaction_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
            delayed_write_rate: whole("rocksdb.actual-delayed-write-rate"),
            writes_stopped: whole("rocksdb.is-write-stopped") != 0,
        }
    }

    /// The state as it is now; a snapshot that is installed meanwhile does not pull it away.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a state in the place of the present one, and answers the old one.
    pub(crate) fn replace_state(&self, state: Arc<State>) -> Arc<State> {
        let mut place = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        assert!(state.number > place.number, "a newer state takes the place of an older one");
        std::mem::replace(&mut *place, state)
    }
}

/// RocksDB answers before its thread has let go of the memtables and files that it has replaced, and until then
/// they count. Where the same history is to be the same steps, what hangs on such a figure waits for it.
fn wait_until_at_rest(state: &State) {
    if state.limits.repeatable
        && let Err(error) = state.db.wait_for_compact(&WaitForCompactOptions::default())
    {
        tracing::warn!(%error, "could not wait until RocksDB is at rest");
    }
}

/// Where RocksDB compacts nothing by itself, each flush would leave one more file that every read has to look into.
fn merge_files(state: &State) {
    wait_until_at_rest(state);
    for name in db::FAMILIES {
        let family = db::family(&state.db, name);
        let files = state.db.property_int_value_cf(family, FILES_AT_LEVEL_0).ok().flatten();
        if files.is_some_and(|files| files > FLUSHED_FILES_MAX) {
            state.db.compact_range_cf::<&[u8], &[u8]>(family, None, None);
        }
    }
    wait_until_at_rest(state);
}

fn flushed(state: &State) -> Result<Option<LogId>, StoreError> {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::Persisted);
    let row = state
        .db
        .get_opt(meta::HEAD, &options)
        .map_err(StoreError::database("read flushed position", state.path()))?;
    let head = row.and_then(|row| Head::decode(&row).ok());
    Ok(head.ok_or_else(|| StoreError::malformed(state.path(), "it has no `head` row"))?.applied)
}

/// Removes what a crash has left, and answers the number of the state to use. States get their
/// names when they are whole, so the highest number is the one.
fn tidy(files: &dyn Files, dir: &Path) -> Result<Option<u64>, StoreError> {
    let numbers = state_numbers(files, dir)?;
    let newest = numbers.iter().copied().max();
    let old = numbers.into_iter().filter(|number| Some(*number) != newest).map(|n| state_path(dir, n));
    let mut garbage: Vec<PathBuf> = old.collect();
    for name in files.list(dir).map_err(StoreError::io("read directory", dir))? {
        if name == CHECKPOINTS || name.to_str().is_some_and(|name| name.starts_with(INCOMING)) {
            garbage.push(dir.join(name));
        }
    }
    for path in garbage {
        files.remove_dir_all(&path).map_err(StoreError::io("remove directory", &path))?;
    }
    Ok(newest)
}
