//! Receiving a snapshot into a directory of its own, and verifying it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::chunk::{Begin, Chunk, ManifestCrc, SNAPSHOT_FORMAT};
use crate::db::{Caches, StoreOptions};
use crate::error::{OpenError, StoreError};
use crate::feature::{self, FEATURE_LEVEL_MAX};
use crate::files::{File, Files, How};
use crate::machine::Machine;
use crate::places::INCOMING;
use crate::state::sync_dir;
use crate::store::Store;
use crate::verify;

/// No snapshot has more files: with 64 MiB each that is more than one node holds.
const FILES_MAX: u32 = 100_000;
/// Our longest file names are far shorter.
const NAME_BYTES_MAX: usize = 64;
/// Numbers the directories of this process; those of earlier ones are removed when the store opens.
static RECEIVERS: AtomicU64 = AtomicU64::new(0);

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It was made by a newer release.
    #[error("the snapshot has format {0}, this release understands {SNAPSHOT_FORMAT}; upgrade this node")]
    Format(u32),
    /// It is of a cluster whose feature level is not known here.
    #[error("the snapshot is of {}", feature::unknown(*level, *known, ""))]
    FeatureLevel {
        /// The level it has.
        level: u32,
        /// The highest level that is known here.
        known: u32,
    },
    /// The sender does not keep to the protocol, or bytes were lost or changed on the way.
    #[error("the snapshot is not as announced: {0}; send it again")]
    Protocol(String),
    /// What was sent is not a state that can be read.
    #[error("the snapshot holds no sound state: {0}; take it from another member")]
    Unsound(String),
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn protocol<T>(what: impl Into<String>) -> Result<T, ReceiveError> {
    Err(ReceiveError::Protocol(what.into()))
}

/// Takes a snapshot chunk by chunk. Dropped before the end, it leaves nothing behind.
#[derive(Debug)]
pub struct SnapshotReceiver {
    dir: IncomingDir,
    feature_level_max: u32,
    begin: Option<Begin>,
    files: Vec<ReceivedFile>,
    open: Option<Arc<dyn File>>,
    received_bytes: u64,
}

#[derive(Debug)]
struct ReceivedFile {
    name: String,
    size_bytes: u64,
    received_bytes: u64,
    crc32c: u32,
}

/// A whole and verified snapshot, on disk. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    pub(crate) dir: IncomingDir,
    begin: Begin,
}

impl ReceivedSnapshot {
    /// What it holds.
    pub fn begin(&self) -> &Begin {
        &self.begin
    }
}

impl Store {
    /// Receives a snapshot into the data directory, to be installed here.
    pub fn receiver(&self) -> Result<SnapshotReceiver, ReceiveError> {
        let receiver = SnapshotReceiver::new_on(&self.shared.machine, &self.shared.dir)?;
        Ok(receiver.with_feature_level_max(self.shared.feature_level_max))
    }
}

impl SnapshotReceiver {
    /// Receives into the data directory.
    pub fn new(data_dir: &Path) -> Result<Self, ReceiveError> {
        SnapshotReceiver::new_on(&Machine::system(), data_dir)
    }

    /// The same on any machine.
    pub fn new_on(machine: &Machine, data_dir: &Path) -> Result<Self, ReceiveError> {
        let disk = machine.files.clone();
        let path = loop {
            let number = RECEIVERS.fetch_add(1, Ordering::Relaxed);
            let path = data_dir.join(format!("{INCOMING}{number}"));
            match disk.create_dir(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create directory", &path)(error).into()),
            }
        };
        let dir = IncomingDir { disk, path };
        Ok(SnapshotReceiver {
            dir,
            feature_level_max: FEATURE_LEVEL_MAX,
            begin: None,
            files: Vec::new(),
            open: None,
            received_bytes: 0,
        })
    }

    /// Refuses a state of a higher feature level than this.
    pub fn with_feature_level_max(self, feature_level_max: u32) -> Self {
        SnapshotReceiver { feature_level_max, ..self }
    }

    /// Takes the next chunk; the `End` answers the snapshot.
    pub fn chunk(mut self, chunk: Chunk) -> Result<Received, ReceiveError> {
        match chunk {
            Chunk::Begin(begin) => self.begin(begin)?,
            Chunk::File { name, size_bytes } => self.file(&name, size_bytes)?,
            Chunk::Data(data) => self.data(&data)?,
            Chunk::End { file_crc32c, crc32c } => {
                return self.end(&file_crc32c, crc32c).map(Received::Whole);
            }
        }
        Ok(Received::More(self))
    }

    /// What the snapshot holds; comes first, and once.
    pub fn begin(&mut self, begin: Begin) -> Result<(), ReceiveError> {
        if self.begin.is_some() {
            return protocol("it begins twice");
        }
        if begin.format_version != SNAPSHOT_FORMAT {
            return Err(ReceiveError::Format(begin.format_version));
        }
        let (level, known) = (begin.feature_level, self.feature_level_max);
        if level > known {
            return Err(ReceiveError::FeatureLevel { level, known });
        }
        if begin.files > FILES_MAX {
            return protocol(format!("{} files are more than the {FILES_MAX} allowed", begin.files));
        }
        self.begin = Some(begin);
        Ok(())
    }

    /// The next file.
    pub fn file(&mut self, name: &str, size_bytes: u64) -> Result<(), ReceiveError> {
        let Some(begin) = self.begin else { return protocol("a file comes before the beginning") };
        self.end_file()?;
        if !is_plain(name) {
            return protocol(format!("{name:?} is no plain file name"));
        }
        if self.files.len() as u32 >= begin.files {
            return protocol("there are more files than announced");
        }
        let announced: u64 = self.files.iter().map(|file| file.size_bytes).sum();
        if size_bytes > begin.total_bytes - announced {
            return protocol("the files are longer than announced");
        }
        let path = self.dir.path.join(name);
        let disk = &self.dir.disk;
        let open = disk.open(&path, How::CreateNew).map_err(StoreError::io("create snapshot file", &path))?;
        self.open = Some(open);
        self.files.push(ReceivedFile { name: name.to_owned(), size_bytes, received_bytes: 0, crc32c: 0 });
        Ok(())
    }

    /// The next bytes of the file.
    pub fn data(&mut self, data: &Bytes) -> Result<(), ReceiveError> {
        let (Some(open), Some(file)) = (&self.open, self.files.last_mut()) else {
            return protocol("data comes before a file");
        };
        if data.len() as u64 > file.size_bytes - file.received_bytes {
            return protocol(format!("{} is longer than announced", file.name));
        }
        open.write_at(data, file.received_bytes)
            .map_err(StoreError::io("write snapshot file", &self.dir.path.join(&file.name)))?;
        file.received_bytes += data.len() as u64;
        file.crc32c = crc32c::crc32c_append(file.crc32c, data);
        self.received_bytes += data.len() as u64;
        let announced = self.begin.map_or(0, |begin| begin.total_bytes);
        assert!(self.received_bytes <= announced, "files are refused that are longer than announced");
        Ok(())
    }

    /// How much has come.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The checksums; comes last. Reads everything back and makes it durable.
    pub fn end(mut self, file_crc32c: &[u32], crc32c: u32) -> Result<ReceivedSnapshot, ReceiveError> {
        self.end_file()?;
        let Some(begin) = self.begin else { return protocol("it ends before it begins") };
        if self.files.len() != begin.files as usize || self.files.len() != file_crc32c.len() {
            return protocol("files are missing");
        }
        if self.received_bytes != begin.total_bytes {
            return protocol("the files are shorter than announced");
        }
        let mut crc = ManifestCrc::default();
        for (file, sent) in self.files.iter().zip(file_crc32c) {
            if file.crc32c != *sent {
                return protocol(format!("the checksum of {} differs", file.name));
            }
            crc.file(&file.name, file.size_bytes, file.crc32c);
        }
        if crc.0 != crc32c {
            return protocol("the checksum over all files differs");
        }
        self.check_content(&begin)?;
        sync_dir(&*self.dir.disk, &self.dir.path)?;
        Ok(ReceivedSnapshot { dir: self.dir, begin })
    }

    /// Reads the state through. The sender's checksums say that the files arrived as it read them,
    /// not that they were sound there; and what is installed takes the place of a state that is.
    fn check_content(&self, begin: &Begin) -> Result<(), ReceiveError> {
        // Blocks are read once each: no need for a cache of the usual size.
        let caches = Caches::new(&StoreOptions { cache_bytes: 0, ..StoreOptions::default() });
        let unsound = |error: OpenError| ReceiveError::Unsound(error.to_string());
        let (head, finding) = verify::read_received(&self.dir.path, &caches).map_err(unsound)?;
        if let Some(finding) = finding {
            return Err(ReceiveError::Unsound(finding.to_string()));
        }
        if (head.applied, head.revision) != (begin.applied, begin.revision) {
            return protocol("it holds another position than announced");
        }
        // The sender may be of a release that says nothing of levels, or it may not have said the truth.
        if head.feature_level > self.feature_level_max {
            let (level, known) = (head.feature_level, self.feature_level_max);
            return Err(ReceiveError::FeatureLevel { level, known });
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ReceiveError> {
        let (Some(open), Some(file)) = (self.open.take(), self.files.last()) else { return Ok(()) };
        if file.received_bytes != file.size_bytes {
            return protocol(format!("{} is shorter than announced", file.name));
        }
        let path = self.dir.path.join(&file.name);
        open.sync_all().map_err(StoreError::io("sync snapshot file", &path))?;
        Ok(())
    }
}

/// How far a snapshot has come.
#[derive(Debug)]
pub enum Received {
    /// There is more to come.
    More(SnapshotReceiver),
    /// This is it.
    Whole(ReceivedSnapshot),
}

/// A name that stays in the directory it is created in.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(plain)
}

/// The directory of a snapshot that is not in place yet.
#[derive(Debug)]
pub(crate) struct IncomingDir {
    disk: Arc<dyn Files>,
    pub(crate) path: PathBuf,
}

impl Drop for IncomingDir {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // The next open removes it.
            tracing::warn!(path = %self.path.display(), %error, "could not remove an unfinished snapshot");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no file name leads out of the directory. Method: a table.
    #[test]
    fn only_plain_names_are_taken() {
        for name in ["CURRENT", "000012.sst", "MANIFEST-000005", "OPTIONS-000007"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/a", "a\\b", "a\0", ".hidden", "-", "é", &"a".repeat(65)] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
