//! Why a log cannot be used.

use std::io;
use std::path::{Path, PathBuf};

/// Why the log could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("cannot {context} {}: {source}; check the disk and the directory's permissions, then start again", path.display())]
    Io {
        /// What was tried, verb and object.
        context: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("log segment {} is damaged at byte {offset}: {reason}; entries this node acknowledged may be lost, so it does not start: replace this member with an empty data directory", file.display())]
    Damage {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file is not there.
    #[error("log segment {} is missing: {reason}; entries this node acknowledged may be lost, so it does not start: put the file back, or replace this member with an empty data directory", file.display())]
    Missing {
        /// The missing file.
        file: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// A file was written for another disk.
    #[error("log segment {} belongs to node {found:016x}, this data directory to node {expected:016x}; put back this node's own files", file.display())]
    Identity {
        /// The foreign file.
        file: PathBuf,
        /// Whose it is.
        found: u64,
        /// Whose it should be.
        expected: u64,
    },
    /// A file was written by a newer release.
    #[error("log segment {} has format {found}, newer than this release understands; upgrade this node", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u8,
    },
}

impl LogError {
    pub(super) fn io(context: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        move |source| LogError::Io { context, path, source }
    }

    pub(super) fn damage(file: &Path, offset: u64, reason: impl Into<String>) -> LogError {
        LogError::Damage { file: file.to_owned(), offset, reason: reason.into() }
    }
}
