//! Why a data directory cannot be used.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works on it.
    #[error("data directory {} is in use by another process; stop that one, or choose another --data-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It is something else.
    #[error("data directory {} is not a directory; choose another --data-dir", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Its files cannot be made or changed.
    #[error("data directory {} is not writable: {source}; change its owner or permissions, or choose another --data-dir", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot {context} {}: {source}; check the disk and the path", path.display())]
    Io {
        /// What was tried, verb and object.
        context: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The identity does not hold what was written.
    #[error("identity file {} is damaged: {reason}; replace this member with an empty data directory", file.display())]
    Damage {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A newer release wrote the identity.
    #[error("identity file {} has format {found}, newer than this release understands; upgrade this node", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// There is data, but not whose.
    #[error("identity file {} is missing, but the directory holds data; put the file back, or replace this member with an empty data directory", file.display())]
    NoIdentity {
        /// The file.
        file: PathBuf,
    },
    /// The disk belongs to a cluster, but has no log.
    #[error("log {} is missing, but this disk belongs to a cluster and may have voted; put the directory back, or replace this member with an empty data directory", dir.display())]
    NoLog {
        /// The log's directory.
        dir: PathBuf,
    },
    /// It is a disk of another cluster.
    #[error("data directory {} belongs to cluster {found:016x}, not to {wanted:016x}; choose the right --data-dir", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it belongs to.
        found: u64,
        /// The cluster that was asked for.
        wanted: u64,
    },
}

/// A bare I/O error with what was being done to which path.
pub(super) fn io_error(context: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { context, path, source }
}
