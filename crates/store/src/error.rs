//! What can go wrong in the store, and what to do about it.

use std::path::{Path, PathBuf};

use crate::entry::{LogId, PayloadError};
use crate::feature;

/// The store cannot go on. Whoever applies entries stops the process on any of these: the state
/// in memory and on disk may no longer agree, and going on would make replicas differ.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file does not hold what was written to it.
    #[error("{} is damaged ({detail}); replace this member, its data cannot be repaired in place", .file.display())]
    Damage {
        /// The damaged file, or the state's directory where RocksDB does not say which file it is.
        file: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file system refused.
    #[error("cannot {context} {}: {source}; check the disk and restart the node", .path.display())]
    Io {
        /// What was being done, as verb and object.
        context: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// RocksDB refused.
    #[error("cannot {context}: {detail}; check the disk and restart the node")]
    Database {
        /// What was being done, as verb and object.
        context: &'static str,
        /// RocksDB's own words.
        detail: String,
    },
    /// The disk is full. What was to be written may be written when there is room.
    #[error("cannot write to the state in {}: the disk is full ({detail}); free space on it and start the node again", .path.display())]
    Full {
        /// The state's directory.
        path: PathBuf,
        /// In the words of who refused it.
        detail: String,
    },
    /// An entry of the log cannot be read by this release.
    #[error("cannot apply entry {log_id}: {source}")]
    Entry {
        /// Which one.
        log_id: LogId,
        /// Why.
        source: PayloadError,
    },
    /// An entry raises the cluster to a feature level that is not known here.
    #[error("entry {log_id} raises the cluster to {}", feature::unknown(*level, *known, release))]
    FeatureLevel {
        /// Which one.
        log_id: LogId,
        /// The level.
        level: u32,
        /// The highest level that is known here.
        known: u32,
        /// The release that raised it.
        release: String,
    },
    /// The entry is not the one after the last applied one.
    #[error(
        "entry {found} does not follow the last applied index {applied:?}; log and state are not of one piece, replace this member"
    )]
    OutOfOrder {
        /// The last applied index.
        applied: Option<u64>,
        /// The entry at hand.
        found: LogId,
    },
}

/// Why a state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is of a cluster whose feature level is not known here.
    #[error("the state in {} is of {}", .path.display(), feature::unknown(*level, *known, release))]
    FeatureLevel {
        /// The state's directory.
        path: PathBuf,
        /// The level it has.
        level: u32,
        /// The highest level that is known here.
        known: u32,
        /// The release that knows it; empty: not said.
        release: String,
    },
    /// It is damaged or could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a read was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision was compacted away.
    #[error("revision {requested} is compacted, the oldest one that can be read is {compacted}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The oldest revision that can be read.
        compacted: u64,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} does not exist yet, the current one is {current}")]
    Future {
        /// What was asked for.
        requested: u64,
        /// The current revision.
        current: u64,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// A bare I/O error with what was being done to which path.
    pub(crate) fn io(context: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { context, path, source }
    }

    /// A RocksDB error with what was being done, sorted into damage and the rest. A file that is
    /// missing or too short is as damaged as one with a wrong checksum.
    pub(crate) fn database(context: &'static str, dir: &Path) -> impl FnOnce(rocksdb::Error) -> StoreError {
        let dir = dir.to_owned();
        move |error| {
            let kind = error.kind();
            let detail = error.into_string();
            let missing = detail.contains("No such file");
            match (kind, named_file(&detail, &dir)) {
                (rocksdb::ErrorKind::Corruption, file) => {
                    StoreError::Damage { file: file.unwrap_or(dir), detail }
                }
                (rocksdb::ErrorKind::IOError, Some(file)) if missing => StoreError::Damage { file, detail },
                _ => StoreError::Database { context, detail },
            }
        }
    }

    /// A record that no release of ours wrote, in a block whose checksum is right.
    pub(crate) fn malformed(dir: &Path, detail: impl Into<String>) -> StoreError {
        StoreError::Damage { file: dir.to_owned(), detail: detail.into() }
    }
}

/// The file that an error message of RocksDB speaks of. It names files by their whole path, by
/// their bare name, or, for table files, by their number.
fn named_file(message: &str, dir: &Path) -> Option<PathBuf> {
    let is_name_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    for word in message.split(|c: char| !(is_name_part(c) || c == '/')) {
        let name = word.trim_end_matches(['.', '-']).rsplit('/').next().unwrap_or_default();
        let known = name.ends_with(".sst") || name.starts_with("MANIFEST-") || name == "CURRENT";
        if known {
            return Some(dir.join(name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whatever way RocksDB names a file, the operator learns its path. Method: its messages.
    #[test]
    fn files_are_found_in_messages() {
        let cases = [
            (
                "Corruption: block checksum mismatch: stored = 1, computed = 2  in /d/state-1/000012.sst offset 0 size 4",
                "000012.sst",
            ),
            (
                "IO error: No such file or directory: While open: /d/state-1/MANIFEST-000005: No such file",
                "MANIFEST-000005",
            ),
            ("Corruption: CURRENT file does not end with newline", "CURRENT"),
        ];
        for (message, name) in cases {
            assert_eq!(
                named_file(message, Path::new("/d/state-1")),
                Some(Path::new("/d/state-1").join(name))
            );
        }
        assert_eq!(named_file("Corruption: no meta-nextfile entry in descriptor", Path::new("/d")), None);
    }
}
