//! A disk in memory that knows what was synced.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kvorum_store::files::{File, Files, Found, How, Room};
use rand::RngExt as _;
use rand::rngs::StdRng;

/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk. What was not synced is lost, or not, when the power goes.
#[derive(Debug)]
pub struct Memory {
    root: Mutex<Dir>,
    /// Bytes that may be taken in all.
    total_bytes: AtomicU64,
    sync_takes: Duration,
    fails: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir(Dir),
    File(Content),
}

/// A directory as it is, and as it is on the disk.
#[derive(Clone, Debug, Default)]
struct Dir(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    now: BTreeMap<OsString, Node>,
    synced: BTreeMap<OsString, Node>,
}

/// A file, likewise.
#[derive(Clone, Debug, Default)]
struct Content(Arc<Mutex<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    synced: Vec<u8>,
    held: bool,
}

impl Memory {
    pub fn new(total_bytes: u64, sync_takes: Duration) -> Arc<Memory> {
        let root = Mutex::new(Dir::default());
        Arc::new(Memory { root, total_bytes: total_bytes.into(), sync_takes, fails: Arc::default() })
    }

    /// From now on no sync succeeds.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    pub fn set_total_bytes(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// The power goes: of what was written and not synced each sector stays or goes, and names that were not
    /// synced go.
    pub fn lose_power(&self, random: &mut StdRng) {
        lock(&self.root).lose_power(random);
    }

    fn used_bytes(&self) -> u64 {
        lock(&self.root).used_bytes()
    }

    fn dir(&self, path: &Path) -> io::Result<Dir> {
        let mut dir = lock(&self.root).clone();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let node = lock(&dir.0).now.get(name).cloned();
            dir = match node {
                Some(Node::Dir(dir)) => dir,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(dir)
    }

    /// The directory that a path is in, and its name there.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(Dir, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        lock(&dir.0).now.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Dir {
    fn lose_power(&self, random: &mut StdRng) {
        let mut names = lock(&self.0);
        names.now = names.synced.clone();
        for node in names.now.values() {
            match node {
                Node::Dir(dir) => dir.lose_power(random),
                Node::File(file) => file.lose_power(random),
            }
        }
    }

    fn used_bytes(&self) -> u64 {
        let bytes = |node: &Node| match node {
            Node::Dir(dir) => dir.used_bytes(),
            Node::File(file) => lock(&file.0).now.len() as u64,
        };
        lock(&self.0).now.values().map(bytes).sum()
    }
}

impl Content {
    fn lose_power(&self, random: &mut StdRng) {
        let mut bytes = lock(&self.0);
        let Bytes { now, synced, held } = &mut *bytes;
        let share = [0.0, 0.5, 1.0][random.random_range(0..3)];
        let length = synced.len();
        let sectors = now[..length.min(now.len())].chunks(SECTOR_BYTES);
        for (written, kept) in sectors.zip(synced.chunks_mut(SECTOR_BYTES)) {
            if written.len() == kept.len() && random.random_bool(share) {
                kept.copy_from_slice(written);
            }
        }
        *now = synced.clone();
        *held = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Files for Memory {
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        let room = self.room(path)?;
        let (dir, name) = self.place(path)?;
        let mut names = lock(&dir.0);
        let file = match (names.now.get(name).cloned(), how) {
            (Some(Node::Dir(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), How::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(file)), How::Create) => {
                lock(&file.0).now.clear();
                file
            }
            (Some(Node::File(file)), _) => file,
            (None, How::Create | How::CreateNew) => {
                let file = Content::default();
                names.now.insert(name.to_owned(), Node::File(file.clone()));
                file
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(Open { content: file, fails: self.fails.clone(), holds: false, room }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        if self.look(path)?.is_none() {
            self.open(path, How::Create)?;
        }
        let (dir, name) = self.place(path)?;
        let Some(Node::File(content)) = lock(&dir.0).now.get(name).cloned() else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        if std::mem::replace(&mut lock(&content.0).held, true) {
            return Ok(None);
        }
        let room = self.room(path)?;
        Ok(Some(Arc::new(Open { content, fails: self.fails.clone(), holds: true, room })))
    }

    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        if path.file_name().is_none() {
            return Ok(Some(Found { is_dir: true, bytes: 0 }));
        }
        let (dir, name) = match self.place(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            place => place?,
        };
        let found = match lock(&dir.0).now.get(name) {
            None => None,
            Some(Node::Dir(_)) => Some(Found { is_dir: true, bytes: 0 }),
            Some(Node::File(file)) => Some(Found { is_dir: false, bytes: lock(&file.0).now.len() as u64 }),
        };
        Ok(found)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        Ok(lock(&self.dir(dir)?.0).now.keys().cloned().collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        let mut names = lock(&dir.0);
        if names.now.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.now.insert(name.to_owned(), Node::Dir(Dir::default()));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.look(path)?.is_some() {
            return Ok(());
        }
        self.create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        self.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (dir, name) = self.place(from)?;
        let node = lock(&dir.0).now.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let (dir, name) = self.place(to)?;
        lock(&dir.0).now.insert(name.to_owned(), node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        failed(&self.fails)?;
        let dir = self.dir(dir)?;
        let mut names = lock(&dir.0);
        names.synced = names.now.clone();
        Ok(())
    }

    fn room(&self, _: &Path) -> io::Result<Room> {
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        Ok(Room { free_bytes: total_bytes.saturating_sub(self.used_bytes()), total_bytes })
    }

    fn sync_takes(&self) -> Duration {
        self.sync_takes
    }
}

fn failed(fails: &AtomicBool) -> io::Result<()> {
    if fails.load(Ordering::Relaxed) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
}

#[derive(Debug)]
struct Open {
    content: Content,
    fails: Arc<AtomicBool>,
    holds: bool,
    /// What there was when it was opened.
    room: Room,
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.holds {
            lock(&self.content.0).held = false;
        }
    }
}

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = lock(&self.content.0);
        let from = offset as usize;
        let found = bytes.now.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = lock(&self.content.0);
        let (from, to) = (offset as usize, offset as usize + written.len());
        if bytes.now.len() < to {
            bytes.now.resize(to, 0);
        }
        bytes.now[from..to].copy_from_slice(written);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        failed(&self.fails)?;
        let mut bytes = lock(&self.content.0);
        bytes.synced = bytes.now.clone();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.content.0).now.len() as u64)
    }

    fn preallocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        let mut content = lock(&self.content.0);
        let to = from + bytes;
        if to.saturating_sub(content.now.len() as u64) > self.room.free_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if (content.now.len() as u64) < to {
            content.now.resize(to as usize, 0);
        }
        Ok(())
    }
}
