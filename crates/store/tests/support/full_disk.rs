//! A disk that is full now and then, as far as the state is concerned.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvorum_store::Machine;
use kvorum_store::files::{File, Files, Found, How, Room};

/// Refuses every other write to the state or so, by the bits of a number.
#[derive(Debug)]
pub struct FullNowAndThen {
    system: Arc<dyn Files>,
    pattern: AtomicU64,
}

impl FullNowAndThen {
    /// This machine with such a disk.
    pub fn machine(pattern: u64) -> Machine {
        let system = Machine::system();
        let files = FullNowAndThen { system: system.files.clone(), pattern: pattern.into() };
        Machine { files: Arc::new(files), ..system }
    }
}

impl Files for FullNowAndThen {
    fn admit_state_write(&self, _: &Path) -> io::Result<()> {
        let pattern = self.pattern.load(Ordering::Relaxed);
        self.pattern.store(pattern.rotate_left(1), Ordering::Relaxed);
        if pattern & 1 == 1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        self.system.open(path, how)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        self.system.lock(path)
    }

    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        self.system.look(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.system.list(dir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.system.create_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.system.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.system.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.system.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.system.remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.system.sync_dir(dir)
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        self.system.room(dir)
    }
}
