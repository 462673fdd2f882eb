//! One state: an open database in its directory, and what is known of it without reading.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rocksdb::DB;

use crate::auth::Auth;
use crate::db::{self, Caches, Recent};
use crate::entry::LogId;
use crate::error::{OpenError, StoreError};
use crate::files::Files;
use crate::layout::{self, Head, META, Malformed, meta};
use crate::limits::Limits;

/// An open state. A store has one; for a moment while a snapshot takes its place, two.
///
/// Fields are dropped in order: the directory goes, if it is to go, after the database is closed.
pub(crate) struct State {
    pub(crate) db: DB,
    pub(crate) number: u64,
    /// Held by whoever writes.
    pub(crate) writer: Mutex<Recent>,
    /// As of the last write that is in the database.
    published: Mutex<Published>,
    revision: AtomicU64,
    /// The revision that the write under way leads to; set before it begins. While it equals
    /// `revision`, what the database shows is that revision exactly.
    revision_writing: AtomicU64,
    compacted: AtomicU64,
    cluster_time_ms: AtomicU64,
    /// Who may do what: known before what was written under it can be read, see [`State::publish_auth`].
    auth: Mutex<Arc<Auth>>,
    /// [`Auth::fence`] of that.
    auth_fence: AtomicU64,
    auth_as_of: AtomicU64,
    /// No row of `deadlines` is below this one: where the search for due keys begins.
    pub(crate) due_from_ms: AtomicU64,
    pub(crate) installed: Option<LogId>,
    /// A cluster of a higher feature level is none for this node.
    pub(crate) feature_level_max: u32,
    pub(crate) limits: Limits,
    dir: StateDir,
}

/// What changes with each write, and is small.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) head: Head,
    pub(crate) membership: Option<(LogId, Bytes)>,
    pub(crate) space_alarms: BTreeSet<u64>,
    pub(crate) corrupt_alarms: BTreeSet<u64>,
    pub(crate) auth: Arc<Auth>,
}

impl State {
    /// Makes the empty state of a new store, in `path`, and closes it again.
    pub(crate) fn create(files: &dyn Files, path: &Path, caches: &Caches) -> Result<(), StoreError> {
        let db = db::create(path, caches)?;
        let context = "create state";
        db.put_opt(meta::HEAD, Head::EMPTY.encode(), &db::write_options())
            .map_err(StoreError::database(context, path))?;
        db::flush(&db)?;
        drop(db);
        sync_dir(files, path)
    }

    /// Opens the state in `path`.
    pub(crate) fn open(
        files: &Arc<dyn Files>,
        path: &Path,
        number: u64,
        caches: &Caches,
        feature_level_max: u32,
        limits: Limits,
    ) -> Result<State, OpenError> {
        let db = db::open(path, caches)?;
        let published = read_meta(&db, feature_level_max)?;
        let installed = match read_row(&db, meta::INSTALLED)? {
            Some(row) => Some(layout::decode_position(&row).map_err(|_| malformed(&db, meta::INSTALLED))?.0),
            None => None,
        };
        Ok(State {
            number,
            writer: Mutex::new(Recent::new(caches.recent_bytes, limits.recent_value_bytes_max)),
            revision: published.head.revision.into(),
            revision_writing: published.head.revision.into(),
            compacted: published.head.compacted.into(),
            cluster_time_ms: published.head.cluster_time_ms.into(),
            auth_fence: published.auth.fence().into(),
            auth_as_of: published.auth.as_of().into(),
            auth: Mutex::new(published.auth.clone()),
            published: Mutex::new(published),
            due_from_ms: AtomicU64::new(0),
            installed,
            feature_level_max,
            limits,
            dir: StateDir { files: files.clone(), path: path.to_owned(), remove: AtomicBool::new(false) },
            db,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir.path
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn revision_writing(&self) -> u64 {
        self.revision_writing.load(Ordering::Acquire)
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted.load(Ordering::Acquire)
    }

    pub(crate) fn cluster_time_ms(&self) -> u64 {
        self.cluster_time_ms.load(Ordering::Acquire)
    }

    pub(crate) fn published(&self) -> MutexGuard<'_, Published> {
        lock(&self.published)
    }

    pub(crate) fn head(&self) -> Head {
        self.published().head
    }

    /// Whether the machine's disk takes a write now, as far as that is known before.
    pub(crate) fn admit_write(&self) -> Result<(), StoreError> {
        self.dir.files.admit_state_write(self.path()).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => {
                StoreError::Full { path: self.path().to_owned(), detail: error.to_string() }
            }
            _ => StoreError::io("write to state", self.path())(error),
        })
    }

    /// Says which revision the write that begins now leads to.
    pub(crate) fn announce(&self, head: &Head) {
        assert!(head.revision >= self.revision_writing(), "revisions never go back");
        self.revision_writing.store(head.revision, Ordering::Release);
    }

    /// Makes known who may do what from the write on that begins now. Whoever has read something of that write finds
    /// rights that are no older than it: what was written once a right was taken is not read by it.
    pub(crate) fn publish_auth(&self, auth: &Arc<Auth>) {
        let mut place = lock(&self.auth);
        if !Arc::ptr_eq(&place, auth) {
            assert!(auth.revision() >= place.revision(), "rights never go back");
            *place = auth.clone();
            self.auth_fence.store(auth.fence(), Ordering::Release);
            self.auth_as_of.store(auth.as_of(), Ordering::Release);
        }
    }

    pub(crate) fn auth(&self) -> Arc<Auth> {
        lock(&self.auth).clone()
    }

    pub(crate) fn auth_fence(&self) -> u64 {
        self.auth_fence.load(Ordering::Acquire)
    }

    pub(crate) fn auth_as_of(&self) -> u64 {
        self.auth_as_of.load(Ordering::Acquire)
    }

    /// Makes known what a write that is in the database has changed.
    pub(crate) fn publish(&self, published: Published) {
        let head = published.head;
        assert!(head.revision >= self.revision(), "a read must not show an older revision than one before");
        assert!(head.compacted >= self.compacted(), "what is compacted stays so");
        *self.published() = published;
        self.compacted.store(head.compacted, Ordering::Release);
        self.cluster_time_ms.store(head.cluster_time_ms, Ordering::Release);
        self.revision.store(head.revision, Ordering::Release);
    }

    /// Makes known that a read has shown this revision, of a write that is in the database and may not
    /// be published yet: no later read may answer with an older one.
    pub(crate) fn show(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// Another state has taken this one's place: its directory goes with the last reader.
    pub(crate) fn retire(&self) {
        self.dir.remove.store(true, Ordering::Release);
    }
}

/// The meta rows of a database, whose feature level is at most `feature_level_max`.
pub(crate) fn read_meta(db: &DB, feature_level_max: u32) -> Result<Published, OpenError> {
    let Some(row) = read_row(db, meta::HEAD)? else {
        return Err(StoreError::malformed(db.path(), "it has no `head` row").into());
    };
    if let Some(level) = Head::feature_level(&row).filter(|level| *level > feature_level_max) {
        let row = read_row(db, meta::FEATURE_LEVEL)?.unwrap_or_default();
        let release = layout::decode_feature_level(&row).map_or("", |(_, release)| release).to_owned();
        let path = db.path().to_owned();
        return Err(OpenError::FeatureLevel { path, level, known: feature_level_max, release });
    }
    let head = Head::decode(&row).map_err(|_| malformed(db, meta::HEAD))?;
    let membership = match read_row(db, meta::MEMBERSHIP)? {
        None => None,
        Some(row) => {
            let (log_id, bytes) =
                layout::decode_position(&row).map_err(|_| malformed(db, meta::MEMBERSHIP))?;
            Some((log_id, Bytes::copy_from_slice(bytes)))
        }
    };
    let space_alarms = read_alarms(db, meta::SPACE_ALARMS)?;
    let corrupt_alarms = read_alarms(db, meta::CORRUPT_ALARMS)?;
    let auth = Arc::new(Auth::read(db)?);
    Ok(Published { head, membership, space_alarms, corrupt_alarms, auth })
}

fn read_alarms(db: &DB, key: &[u8]) -> Result<BTreeSet<u64>, StoreError> {
    let row = read_row(db, key)?;
    let ids = row.map_or(Ok(Vec::new()), |row| layout::decode_alarms(&row));
    Ok(ids.map_err(|Malformed| malformed(db, key))?.into_iter().collect())
}

fn read_row(db: &DB, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    db.get_cf(db::family(db, META), key).map_err(StoreError::database("read meta", db.path()))
}

fn malformed(db: &DB, key: &[u8]) -> StoreError {
    StoreError::malformed(db.path(), format!("its row `{}` cannot be read", String::from_utf8_lossy(key)))
}

/// A panic while a lock was held has left nothing half done: what the locks guard is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(files: &dyn Files, path: &Path) -> Result<(), StoreError> {
    files.sync_dir(path).map_err(StoreError::io("sync directory", path))
}

/// The directory of a state.
struct StateDir {
    files: Arc<dyn Files>,
    path: PathBuf,
    remove: AtomicBool,
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.remove.load(Ordering::Acquire)
            && let Err(error) = self.files.remove_dir_all(&self.path)
        {
            // The next open removes it.
            tracing::warn!(path = %self.path.display(), %error, "could not remove a replaced state");
        }
    }
}
