//! The disk, as all but RocksDB reaches it.
//!
//! The log, the data directory, the ballast and snapshots work through [`Files`], a value that is passed in.
//! In production it is the operating system; a simulation puts in its place a disk that is slow or hangs, fills
//! up, fails, or loses what was not synced. RocksDB opens its own files in the same directory by itself.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// To be read; it must be there.
    Read,
    /// To be written; it must be there.
    Write,
    /// To be written past the page cache, in whole blocks from aligned memory; it must be there. A file system
    /// that cannot do so refuses with [`io::ErrorKind::InvalidInput`] or [`io::ErrorKind::Unsupported`],
    /// now or at the first write.
    WriteDirect,
    /// To be read and written; made if it is not there, and emptied if it is.
    Create,
    /// To be written; it must not be there.
    CreateNew,
}

/// What is found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// How long the file is.
    pub bytes: u64,
}

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// Bytes of all of it.
    pub total_bytes: u64,
}

/// A disk. What was written, and names that were made, changed or removed, outlast a crash only once file and
/// directory are synced.
pub trait Files: Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>>;
    /// Opens a file, made if it is not there, and holds it against all others until it is dropped. None: another
    /// holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>>;
    /// What is at a path, if anything is.
    fn look(&self, path: &Path) -> io::Result<Option<Found>>;
    /// The names in a directory, unordered.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Makes a directory that is not there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory, and those above it, where they are not there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or a directory another name, over what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// What the file system of a directory has.
    fn room(&self, dir: &Path) -> io::Result<Room>;

    /// Asked before RocksDB, which opens its own files, is given a batch for the state in `dir`, or is to flush it. A
    /// simulation refuses here what its disk would refuse; of a real disk RocksDB hears by itself.
    fn admit_state_write(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        Ok(())
    }

    /// How long whoever has written waits before it syncs. A simulation says so how long the sync takes, as its
    /// own syncs end at once; those of a real disk take the time themselves.
    fn sync_takes(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Fills the buffer from a place on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes from a place on.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes durable what was written, and what is needed to read it.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes all of the file durable.
    fn sync_all(&self) -> io::Result<()>;
    /// How long it is.
    fn bytes(&self) -> io::Result<u64>;
    /// Takes room for a stretch of the file, which is made as long as that if it is shorter.
    fn preallocate(&self, from: u64, bytes: u64) -> io::Result<()>;
}

/// Reads all of a file that is known to be small.
pub(crate) fn read_all(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, How::Read)?;
    let mut content = vec![0; file.bytes()? as usize];
    file.read_at(&mut content, 0)?;
    Ok(content)
}

/// Whether anything is at a path.
pub(crate) fn exists(files: &dyn Files, path: &Path) -> io::Result<bool> {
    Ok(files.look(path)?.is_some())
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemFiles;

#[derive(Debug)]
struct SystemFile(fs::File);

impl Files for SystemFiles {
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        match how {
            How::Read => options.read(true),
            How::Write => options.write(true),
            How::WriteDirect => options.write(true).custom_flags(OFlags::DIRECT.bits() as i32),
            How::Create => options.read(true).write(true).create(true).truncate(true),
            How::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(SystemFile(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(Found { is_dir: found.is_dir(), bytes: found.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|item| Ok(item?.file_name())).collect()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let disk = statvfs(dir)?;
        Ok(Room {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

impl File for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn preallocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::empty(), from, bytes)?)
    }
}
