//! The data directory: held by one process, and of one disk's identity.
//!
//! `LOCK` is empty and locked while a process works on the directory. `identity` says whose disk it
//! is, as lines of text:
//!
//! ```text
//! kvorum identity
//! format 1
//! node 00c0ffee00c0ffee
//! cluster 0000000000000000
//! incarnation 0
//! crc32c 01234567
//! ```
//!
//! The checksum covers the lines before it. A disk that has begun to found its cluster has a line `founds`
//! before the checksum, which older releases do not read; it goes when the disk joins a cluster.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::log;

const LOCK: &str = "LOCK";
const IDENTITY: &str = "identity";
/// The format of the identity file that this build writes, and the only one it reads.
const FORMAT_VERSION: u32 = 1;

/// Whose disk it is. A node id names one disk for ever; it is never made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The disk's node id.
    pub node_id: u64,
    /// The cluster it belongs to; 0: none yet.
    pub cluster_id: u64,
    /// The cluster's incarnation, raised by a recovery from a lost quorum.
    pub incarnation: u64,
}

/// An open data directory. It is released when this is dropped, or the process ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    identity: Mutex<Option<Held>>,
}

/// What the identity file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    identity: Identity,
    founds: bool,
}

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

impl DataDir {
    /// Opens a data directory, creating it if need be, and holds it against other processes.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        create(path)?;
        let lock = lock(path)?;
        let identity = read_identity(path)?;
        match identity {
            None if holds_data(path)? => {
                return Err(DataDirError::NoIdentity { file: path.join(IDENTITY) });
            }
            Some(held) if held.identity.cluster_id != 0 && !log::Log::exists(path) => {
                return Err(DataDirError::NoLog { dir: path.join(log::DIR) });
            }
            _ => {}
        }
        Ok(DataDir { path: path.to_owned(), _lock: lock, identity: Mutex::new(identity) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose disk it is; `None` until [`create_identity`](Self::create_identity).
    pub fn identity(&self) -> Option<Identity> {
        self.held().map(|held| held.identity)
    }

    /// Whether it has begun to found its cluster, and has not joined it.
    pub fn founds(&self) -> bool {
        self.held().is_some_and(|held| held.founds)
    }

    /// Gives an empty directory its identity, before anything else is written; an identity that is
    /// there stays. `node_id` is a fresh random number.
    pub fn create_identity(&self, node_id: u64) -> Result<Identity, DataDirError> {
        let mut held = self.held();
        if let Some(held) = *held {
            return Ok(held.identity);
        }
        let new = Held { identity: Identity { node_id, cluster_id: 0, incarnation: 0 }, founds: false };
        self.write(new)?;
        *held = Some(new);
        Ok(new.identity)
    }

    /// Says to which cluster the disk belongs from now on. It never changes from one cluster to
    /// another, and the incarnation never goes back.
    pub fn set_cluster(&self, cluster_id: u64, incarnation: u64) -> Result<Identity, DataDirError> {
        self.set(cluster_id, incarnation, false)
    }

    /// The same of a disk that is about to found the cluster.
    pub fn found_cluster(&self, cluster_id: u64, incarnation: u64) -> Result<Identity, DataDirError> {
        self.set(cluster_id, incarnation, true)
    }

    fn set(&self, cluster_id: u64, incarnation: u64, founds: bool) -> Result<Identity, DataDirError> {
        let mut held = self.held();
        let Some(before) = *held else {
            return Err(DataDirError::NoIdentity { file: self.path.join(IDENTITY) });
        };
        let old = before.identity;
        if old.cluster_id != 0 && old.cluster_id != cluster_id {
            let path = self.path.clone();
            return Err(DataDirError::OtherCluster { path, found: old.cluster_id, wanted: cluster_id });
        }
        let identity = Identity { cluster_id, incarnation: incarnation.max(old.incarnation), ..old };
        let new = Held { identity, founds };
        if new != before {
            self.write(new)?;
            *held = Some(new);
        }
        Ok(identity)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.identity.lock().expect("no thread panics while it holds this lock")
    }

    /// Replaces the identity file; a crash leaves the old one or the new one.
    fn write(&self, held: Held) -> Result<(), DataDirError> {
        let path = self.path.join(IDENTITY);
        let temporary = self.path.join("identity.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(encode(held).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_error("write identity", &path))
    }
}

/// Makes the directory where there is none. Until there is an identity in it, which nothing is acknowledged
/// without, all names on the way to it are made as durable as what will be in it: those that are made
/// here, and those that an attempt made which was cut short, or whoever restored a snapshot.
fn create(path: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(DataDirError::NotADirectory { path: path.to_owned() });
        }
        Ok(_) if path.join(IDENTITY).exists() => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("open data directory", path)(error)),
    }
    let names = names(path, Path::exists);
    fs::create_dir_all(path).map_err(io_error("create data directory", path))?;
    for Name { parent, is_new } in names {
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        // A directory that was there before may be one that this process may not open.
        if is_new {
            synced.map_err(io_error("sync directory", parent))?;
        }
    }
    Ok(())
}

/// A directory's name on the way to another.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    /// The directory that holds the name, and has to be synced for it.
    parent: &'a Path,
    /// The directory of that name does not exist yet.
    is_new: bool,
}

/// Every name on the way to a directory, from the top.
fn names(path: &Path, exists: impl Fn(&Path) -> bool) -> Vec<Name<'_>> {
    let mut names: Vec<_> = path
        .ancestors()
        .filter_map(|dir| {
            let parent = dir.parent()?;
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Some(Name { parent, is_new: !exists(dir) })
        })
        .collect();
    names.reverse();
    names
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let not_writable = |source| DataDirError::NotWritable { path: path.to_owned(), source };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK))
        .map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DataDirError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path.join(LOCK))(error)),
    }
    // The lock file may be writable in a directory that is not.
    let probe = path.join("probe");
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(not_writable)?;
    Ok(file)
}

/// Whether something is there that only a directory with an identity has.
fn holds_data(path: &Path) -> Result<bool, DataDirError> {
    for entry in fs::read_dir(path).map_err(io_error("read data directory", path))? {
        let name = entry.map_err(io_error("read data directory", path))?.file_name();
        let name = name.to_string_lossy();
        if name == log::DIR || name.starts_with("state-") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_identity(path: &Path) -> Result<Option<Held>, DataDirError> {
    let file = path.join(IDENTITY);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read identity", &file)(error)),
    };
    match decode(&bytes) {
        Ok(held) => Ok(Some(held)),
        Err(DecodeError::Damage(reason)) => Err(DataDirError::Damage { file, reason }),
        Err(DecodeError::Newer(found)) => Err(DataDirError::Newer { file, found }),
    }
}

fn encode(held: Held) -> String {
    let Identity { node_id, cluster_id, incarnation } = held.identity;
    let founds = if held.founds { "founds\n" } else { "" };
    let lines = format!(
        "kvorum identity\nformat {FORMAT_VERSION}\nnode {node_id:016x}\ncluster {cluster_id:016x}\n\
         incarnation {incarnation}\n{founds}"
    );
    let crc = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc32c {crc:08x}\n")
}

#[derive(Debug, PartialEq, Eq)]
enum DecodeError {
    Damage(&'static str),
    Newer(u32),
}

fn decode(bytes: &[u8]) -> Result<Held, DecodeError> {
    use DecodeError::Damage;
    let text = std::str::from_utf8(bytes).map_err(|_| Damage("it is not text"))?;
    let (lines, crc) = text.rsplit_once("crc32c ").ok_or(Damage("it has no checksum"))?;
    if crc != format!("{:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return Err(Damage("its checksum is wrong"));
    }
    let mut lines = lines.lines();
    if lines.next() != Some("kvorum identity") {
        return Err(Damage("it is no identity"));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.split_once(' '));
        line.filter(|(found, _)| *found == name).map(|(_, value)| value).ok_or(Damage("a field is missing"))
    };
    let number = |value: &str, radix| u64::from_str_radix(value, radix).map_err(|_| Damage("no number"));
    let format = number(field("format")?, 10)? as u32;
    if format != FORMAT_VERSION {
        return Err(DecodeError::Newer(format));
    }
    let identity = Identity {
        node_id: number(field("node")?, 16)?,
        cluster_id: number(field("cluster")?, 16)?,
        incarnation: number(field("incarnation")?, 10)?,
    };
    Ok(Held { identity, founds: lines.next() == Some("founds") })
}

fn io_error(context: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { context, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no directory that is made can be lost with what is in it. Method: which parents are synced, for
    /// paths of which less and less exists.
    #[test]
    fn every_directory_that_is_made_is_synced_in_its_parent() {
        /// A path, the directories that exist, and the parents of the others, from the top.
        type Case = (&'static str, &'static [&'static str], &'static [&'static str]);
        let cases: [Case; 7] = [
            ("/var/lib/kvorum/data", &["/", "/var", "/var/lib"], &["/var/lib", "/var/lib/kvorum"]),
            ("/var/lib/kvorum/data", &["/"], &["/", "/var", "/var/lib", "/var/lib/kvorum"]),
            ("/var/lib", &["/", "/var", "/var/lib"], &[]),
            ("data", &[], &["."]),
            ("a/b/c", &["a"], &["a", "a/b"]),
            ("a/b/c", &[], &[".", "a", "a/b"]),
            ("./a", &["."], &["."]),
        ];
        for (path, existing, synced) in cases {
            let names = names(Path::new(path), |dir| existing.iter().any(|known| Path::new(known) == dir));
            let new: Vec<_> = names.iter().filter(|name| name.is_new).map(|name| name.parent).collect();
            assert_eq!(new, synced.iter().map(Path::new).collect::<Vec<_>>(), "{path} in {existing:?}");
            // What an attempt made that was cut short is synced as well.
            assert_eq!(names.len(), names_of(path), "{path}");
        }
        fn names_of(path: &str) -> usize {
            Path::new(path)
                .components()
                .filter(|part| matches!(part, std::path::Component::Normal(_)))
                .count()
                + usize::from(path.starts_with('.'))
        }
    }

    /// Goal: an identity is there for ever, and only its own cluster is accepted. Method: reopen
    /// after every step.
    #[test]
    fn an_identity_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.identity(), None);
        dir.create_identity(7).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked { .. })));
        drop(dir);

        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.create_identity(8).unwrap().node_id, 7);
        fs::create_dir(path.join(log::DIR)).unwrap();
        dir.set_cluster(0xc1, 2).unwrap();
        dir.set_cluster(0xc1, 1).unwrap();
        assert!(matches!(dir.set_cluster(0xc2, 2), Err(DataDirError::OtherCluster { found: 0xc1, .. })));
        drop(dir);
        let identity = Identity { node_id: 7, cluster_id: 0xc1, incarnation: 2 };
        assert_eq!(DataDir::open(&path).unwrap().identity(), Some(identity));

        fs::remove_dir(path.join(log::DIR)).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::NoLog { .. })));
    }

    /// Goal: how a disk came to its cluster outlasts a restart, and one that joined does not found. Method: reopen
    /// after every step.
    #[test]
    fn a_disk_that_joins_does_not_found() {
        let parent = tempfile::tempdir().unwrap();
        let open = || DataDir::open(parent.path()).unwrap();
        open().create_identity(7).unwrap();
        fs::create_dir(parent.path().join(log::DIR)).unwrap();
        assert!(!open().founds());
        open().found_cluster(0xc1, 1).unwrap();
        assert!(open().founds());
        assert_eq!(open().identity(), Some(Identity { node_id: 7, cluster_id: 0xc1, incarnation: 1 }));
        open().set_cluster(0xc1, 1).unwrap();
        assert!(!open().founds());
    }

    /// Goal: a changed identity is never taken for another. Method: every byte, changed and cut.
    #[test]
    fn a_damaged_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        DataDir::open(dir.path()).unwrap().create_identity(7).unwrap();
        let file = dir.path().join(IDENTITY);
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(matches!(decode(&bad), Err(DecodeError::Damage(_))), "byte {at}");
            assert!(matches!(decode(&good[..at]), Err(DecodeError::Damage(_))), "cut at {at}");
        }
        fs::write(&file, &good[1..]).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }

    /// Goal: what is no data directory is said to be none. Method: a file, a log without identity.
    #[test]
    fn other_things_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory { .. })));
        fs::create_dir(dir.path().join(log::DIR)).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::NoIdentity { .. })));
    }
}
