//! Opening a data directory, holding it, and changing whose disk it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::error::{DataDirError, io_error};
use super::identity::{DecodeError, Held, Identity, Origin, decode, encode};
use crate::files::{self, File, Files, How};
use crate::log;
use crate::machine::Machine;

const LOCK: &str = "LOCK";
/// The identity file in the data directory.
pub(super) const IDENTITY: &str = "identity";

/// An open data directory. It is released when this is dropped, or the process ends.
#[derive(Debug)]
pub struct DataDir {
    files: Arc<dyn Files>,
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: Arc<dyn File>,
    identity: Mutex<Option<Held>>,
}

impl DataDir {
    /// Opens a data directory, creating it if need be, and holds it against other processes.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::open_on(&Machine::system(), path)
    }

    /// The same on any machine.
    pub fn open_on(machine: &Machine, path: &Path) -> Result<DataDir, DataDirError> {
        let disk = &*machine.files;
        create(disk, path)?;
        let lock = lock(disk, path)?;
        // What is here counts from now on, also what a process has named that was killed before it synced the names.
        disk.sync_dir(path).map_err(io_error("sync data directory", path))?;
        let identity = read_identity(disk, path)?;
        let log = path.join(log::DIR);
        let has_log = || files::exists(disk, &log).map_err(io_error("look for log", &log));
        match identity {
            None if holds_data(disk, path)? => {
                return Err(DataDirError::NoIdentity { file: path.join(IDENTITY) });
            }
            Some(held) if held.identity.cluster_id != 0 && !has_log()? => {
                return Err(DataDirError::NoLog { dir: log });
            }
            _ => {}
        }
        Ok(DataDir {
            files: machine.files.clone(),
            path: path.to_owned(),
            _lock: lock,
            identity: Mutex::new(identity),
        })
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
        self.held().is_some_and(|held| held.origin != Origin::Joins)
    }

    /// Whether it founded its cluster closed, and nobody has [opened](Self::open_cluster) it.
    pub fn is_closed(&self) -> bool {
        self.held().is_some_and(|held| held.origin == Origin::FoundsClosed)
    }

    /// Gives an empty directory its identity, before anything else is written; an identity that is
    /// there stays. `node_id` is a fresh random number.
    pub fn create_identity(&self, node_id: u64) -> Result<Identity, DataDirError> {
        let mut held = self.held();
        if let Some(held) = *held {
            return Ok(held.identity);
        }
        let new =
            Held { identity: Identity { node_id, cluster_id: 0, incarnation: 0 }, origin: Origin::Joins };
        self.write(new)?;
        *held = Some(new);
        Ok(new.identity)
    }

    /// Says that a cluster which was founded closed is so no longer.
    pub fn open_cluster(&self) -> Result<(), DataDirError> {
        match self.identity() {
            Some(identity) if self.is_closed() => {
                self.set_cluster(identity.cluster_id, identity.incarnation, Origin::Founds).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// What a small file in the directory holds, if there is one.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        found(files::read_all(&*self.files, &self.path.join(name)))
    }

    /// Makes or replaces a small file; a crash leaves the old one or the new one. Durable when it returns.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.new"));
        let file = self.files.open(&temporary, How::Create)?;
        file.write_at(content, 0)?;
        file.sync_all()?;
        self.files.rename(&temporary, &self.path.join(name))?;
        self.files.sync_dir(&self.path)
    }

    /// Removes a file, for good when it returns.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove_file(&self.path.join(name))?;
        self.files.sync_dir(&self.path)
    }

    /// Says to which cluster the disk belongs from now on, and how it comes to it. It never changes from one cluster to
    /// another, and the incarnation never goes back.
    pub fn set_cluster(
        &self,
        cluster_id: u64,
        incarnation: u64,
        origin: Origin,
    ) -> Result<Identity, DataDirError> {
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
        assert_eq!(identity.node_id, old.node_id, "a node id names one disk for ever");
        let new = Held { identity, origin };
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
        let content = encode(held);
        assert!(decode(content.as_bytes()) == Ok(held), "an identity is read as it was written");
        let written = self.replace(IDENTITY, content.as_bytes());
        written.map_err(io_error("write identity", &self.path.join(IDENTITY)))
    }
}

/// Makes the directory where there is none. Until there is an identity in it, which nothing is acknowledged
/// without, all names on the way to it are made as durable as what will be in it: those that are made
/// here, and those that an attempt made which was cut short, or whoever restored a snapshot.
fn create(disk: &dyn Files, path: &Path) -> Result<(), DataDirError> {
    // What may not be looked at is not there, as far as this process is concerned.
    let exists = |path: &Path| files::exists(disk, path).unwrap_or(false);
    match disk.look(path).map_err(io_error("open data directory", path))? {
        Some(found) if !found.is_dir => {
            return Err(DataDirError::NotADirectory { path: path.to_owned() });
        }
        Some(_) if exists(&path.join(IDENTITY)) => return Ok(()),
        Some(_) | None => {}
    }
    let names = names(path, exists);
    disk.create_dir_all(path).map_err(io_error("create data directory", path))?;
    for Name { parent, is_new } in names {
        let synced = disk.sync_dir(parent);
        // A directory that was there before may be one that this process may not open.
        if is_new {
            synced.map_err(io_error("sync directory", parent))?;
        }
    }
    Ok(())
}

/// A directory's name on the way to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// The directory that holds the name, and has to be synced for it.
    pub(super) parent: &'a Path,
    /// The directory of that name does not exist yet.
    pub(super) is_new: bool,
}

/// Every name on the way to a directory, from the top.
pub(super) fn names(path: &Path, exists: impl Fn(&Path) -> bool) -> Vec<Name<'_>> {
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

fn lock(disk: &dyn Files, path: &Path) -> Result<Arc<dyn File>, DataDirError> {
    let not_writable = |source| DataDirError::NotWritable { path: path.to_owned(), source };
    let file = path.join(LOCK);
    let locked = disk.lock(&file).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => not_writable(error),
        _ => io_error("lock", &file)(error),
    });
    let Some(file) = locked? else {
        return Err(DataDirError::Locked { path: path.to_owned() });
    };
    // The lock file may be writable in a directory that is not.
    let probe = path.join("probe");
    disk.open(&probe, How::Create).and_then(|_| disk.remove_file(&probe)).map_err(not_writable)?;
    Ok(file)
}

/// Whether something is there that only a directory with an identity has.
fn holds_data(disk: &dyn Files, path: &Path) -> Result<bool, DataDirError> {
    for name in disk.list(path).map_err(io_error("read data directory", path))? {
        let name = name.to_string_lossy();
        if name == log::DIR || name.starts_with("state-") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_identity(disk: &dyn Files, path: &Path) -> Result<Option<Held>, DataDirError> {
    let file = path.join(IDENTITY);
    let bytes = found(files::read_all(disk, &file)).map_err(io_error("read identity", &file))?;
    let Some(bytes) = bytes else { return Ok(None) };
    match decode(&bytes) {
        Ok(held) => Ok(Some(held)),
        Err(DecodeError::Damage(reason)) => Err(DataDirError::Damage { file, reason }),
        Err(DecodeError::Newer(found)) => Err(DataDirError::Newer { file, found }),
    }
}

/// What was read, unless it is not there.
fn found<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
