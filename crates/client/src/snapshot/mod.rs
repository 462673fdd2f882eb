//! Snapshot files: saving what a node streams, and making the data directory of a new cluster of it.
//!
//! A file is the 8 bytes [`MAGIC`], then `SnapshotChunk` messages, each behind its length as a varint,
//! exactly as the node sent them: a `begin`, then for each file its name and data, then an `end` with
//! all checksums. What a person must be able to rely on is checked on the way in and on the way out.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use std::time::Duration;
//! use kvorum_client::admin::AdminClient;
//! use kvorum_client::snapshot::{self, Progress};
//!
//! let show = |progress: Progress| println!("{} of {} bytes", progress.bytes, progress.total_bytes);
//! let node = AdminClient::new("127.0.0.1:2380", Duration::from_secs(10))?;
//! let saved = snapshot::save(&node, Path::new("backup.kvs"), &mut { show }).await?;
//! println!("revision {} of cluster {:016x}", saved.revision, saved.cluster_id);
//!
//! let restored = snapshot::restore(Path::new("backup.kvs"), Path::new("data"), &mut { show })?;
//! assert_eq!(restored.revision, saved.revision);
//! # Ok(())
//! # }
//! ```

mod check;
mod restore;
mod save;

use std::io;
use std::path::{Path, PathBuf};

pub use self::restore::{Restored, restore};
pub use self::save::{Saved, save};

/// The first bytes of a snapshot file; the last one is the version of the format.
pub const MAGIC: [u8; 8] = *b"KVORSNP\x01";

/// The largest chunk that is read from a file: nodes send about 1 MiB.
const CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How many files a snapshot may have: a store of several TiB has fewer.
const FILES_MAX: u32 = 100_000;

/// How far a snapshot is.
///
/// ```
/// use kvorum_client::snapshot::Progress;
///
/// let Progress { bytes, total_bytes } = Progress { bytes: 512, total_bytes: 2048 };
/// assert_eq!(100 * bytes / total_bytes, 25);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the store's files so far.
    pub bytes: u64,
    /// All of them.
    pub total_bytes: u64,
}

/// Why a snapshot cannot be saved or restored.
///
/// ```
/// use std::path::Path;
/// use kvorum_client::snapshot::{SnapshotError, restore};
///
/// let error = restore(Path::new("no such file"), Path::new("data"), &mut |_| {}).unwrap_err();
/// assert!(matches!(error, SnapshotError::Io { action: "open", .. }), "{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file system refused something.
    #[error("{action} {}: {problem}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's answer.
        problem: String,
    },
    /// The node did not send a whole and sound snapshot.
    #[error("the snapshot that {endpoint} sent is not sound: {problem}; nothing was kept, try again")]
    Stream {
        /// The node.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is no whole and sound snapshot.
    #[error("{} is damaged at byte {offset}: {problem}; restore from another file", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first sign of it is.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is something else.
    #[error("{} is no snapshot that this version can read; `kvorum snapshot save` makes them", .path.display())]
    NoSnapshot {
        /// The file.
        path: PathBuf,
    },
    /// The directory may hold another node's data.
    #[error("{} is not empty; give a directory that is empty or does not exist", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
}

impl SnapshotError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
        let path = path.to_owned();
        move |error| SnapshotError::Io { action, path, problem: error.to_string() }
    }
}

/// Makes a directory's entries durable.
fn sync_dir(path: &Path) -> Result<(), SnapshotError> {
    // The parent of a plain name is the empty path, which stands for the current directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = std::fs::File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(SnapshotError::io("sync the directory", path))
}
