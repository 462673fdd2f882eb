//! Checkpoints: the state at one moment, in files that no longer change.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::db;
use crate::entry::LogId;
use crate::error::{OpenError, StoreError};
use crate::files::Files;
use crate::layout::Head;
use crate::places::CHECKPOINTS;
use crate::state::read_meta;
use crate::store::Store;

/// A copy of the state as it was at one moment. It shares the files of the state it was made from,
/// so it costs little, until that has been compacted away from under it. Dropping it removes it.
#[derive(Debug)]
pub struct Checkpoint {
    disk: Arc<dyn Files>,
    /// See [`Limits::chunk_bytes`](crate::Limits::chunk_bytes).
    chunk_bytes: usize,
    path: PathBuf,
    feature_level: u32,
    applied: Option<LogId>,
    membership: Option<(LogId, Bytes)>,
    revision: u64,
    files: Vec<(String, u64)>,
}

impl Store {
    /// Makes a checkpoint of what is applied by now, or a little more.
    pub fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        let state = self.state();
        let parent = self.shared.dir.join(CHECKPOINTS);
        let disk = &self.shared.machine.files;
        disk.create_dir_all(&parent).map_err(StoreError::io("create directory", &parent))?;
        let path = parent.join(self.shared.checkpoints.fetch_add(1, Ordering::Relaxed).to_string());
        // From here on an early return removes what is there.
        let mut checkpoint = Checkpoint {
            disk: disk.clone(),
            chunk_bytes: self.shared.limits.chunk_bytes.max(1),
            path,
            feature_level: 0,
            applied: None,
            membership: None,
            revision: 0,
            files: Vec::new(),
        };
        // A checkpoint flushes by itself, in whatever order.
        if state.limits.repeatable {
            db::flush_in_order(&state.db)?;
        }
        let failed = |error| StoreError::database("make checkpoint", state.path())(error);
        rocksdb::checkpoint::Checkpoint::new(&state.db)
            .and_then(|maker| maker.create_checkpoint(&checkpoint.path))
            .map_err(failed)?;

        // The applied position comes from the checkpoint itself: the state has gone on.
        let db = db::open_read_only(&checkpoint.path, &self.shared.caches)?;
        let meta = read_meta(&db, state.feature_level_max).map_err(|error| match error {
            OpenError::Store(error) => error,
            OpenError::FeatureLevel { .. } => StoreError::malformed(&checkpoint.path, error.to_string()),
        })?;
        drop(db);
        let Head { feature_level, applied, revision, .. } = meta.head;
        checkpoint.feature_level = feature_level;
        checkpoint.applied = applied;
        checkpoint.revision = revision;
        checkpoint.membership = meta.membership;
        checkpoint.files = files(&**disk, &checkpoint.path)?;
        Ok(checkpoint)
    }
}

impl Checkpoint {
    /// The disk that it is on.
    pub(super) fn disk(&self) -> &dyn Files {
        &*self.disk
    }

    /// How it is to be cut into chunks.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's feature level as of then.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// The last entry that was applied to it.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The membership as of then.
    pub fn membership(&self) -> Option<&(LogId, Bytes)> {
        self.membership.as_ref()
    }

    /// Its revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The names and sizes of its files.
    pub fn files(&self) -> &[(String, u64)] {
        &self.files
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // The next open removes it.
            tracing::warn!(path = %self.path.display(), %error, "could not remove a checkpoint");
        }
    }
}

/// What a copy needs of a closed database: not its lock, nor, since no write goes through it, its log.
fn files(disk: &dyn Files, path: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let failed = |error| StoreError::io("read checkpoint", path)(error);
    let mut files = Vec::new();
    for name in disk.list(path).map_err(failed)? {
        let name = name.to_string_lossy().into_owned();
        let belongs = name == "CURRENT"
            || name == "IDENTITY"
            || name.starts_with("MANIFEST-")
            || name.starts_with("OPTIONS-")
            || name.ends_with(".sst");
        if belongs {
            let found = disk.look(&path.join(&name)).map_err(failed)?;
            let bytes = found.map(|found| found.bytes).ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
            files.push((name, bytes));
        }
    }
    // RocksDB numbers the files of one flush in no order that two runs have in common; their sizes have one.
    files.sort_unstable_by(|(name, bytes), (other, others)| (bytes, name).cmp(&(others, other)));
    Ok(files)
}
