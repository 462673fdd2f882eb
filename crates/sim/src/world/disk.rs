//! The disk of a host: real files in memory, what the power would take of them, and how the disk is ill.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvorum_store::files::{File, Files, Found, How, Room};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::clock::{Clock, MILLISECOND, Micros, SECOND};
use super::journal::{Journal, SECTOR_BYTES, bytes_below};
use super::trace::Trace;

/// How large a disk is.
const TOTAL_BYTES: u64 = 512 << 20;
/// What is used is told in pieces of this: what RocksDB has made of a state is not the same to the byte in each run.
const ROOM_STEP_BYTES: u64 = 4 << 20;
/// Between two looks at how much is used, where the disk is nearly full and where it has much room: to look at every file
/// takes its time.
const LOOK_PERIOD: Micros = 100 * MILLISECOND;
const ROOMY_LOOK_PERIOD: Micros = 5 * SECOND;
/// A disk with less than this takes no write to a state: it is about what a flush makes of few rows.
const STATE_ROOM_BYTES: u64 = 64 << 10;
/// How long a sync takes, at least and at most.
const SYNC: (Micros, Micros) = (100, 1500);

/// What is asked of a disk, of which any may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Op {
    /// To read what a file holds.
    Read,
    /// To write to a file, or to change names.
    Write,
    /// To make that durable.
    Sync,
}

/// All of them.
pub const OPS: [Op; 3] = [Op::Read, Op::Write, Op::Sync];

/// How the system says that a disk has failed.
const EIO: i32 = 5;

/// A disk.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
    state: Mutex<State>,
    is_frozen: AtomicBool,
    healed: Notify,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    journal: Journal,
    /// A sync is under way until then.
    syncs_until: Micros,
    /// Syncs do not end before.
    hangs_until: Micros,
    /// Each sync takes up to so much longer.
    slow: Micros,
    total_bytes: u64,
    /// When it was looked at how much is used, and what was found.
    used: (Micros, u64),
    /// What fails, one call in two.
    fails: BTreeSet<Op>,
}

impl Disk {
    /// An empty one, of which a node has this directory.
    pub fn new(dir: PathBuf, random: StdRng, clock: Arc<Clock>, trace: Arc<Trace>) -> Arc<Disk> {
        let state = State {
            random,
            journal: Journal::new(dir.with_extension("attic")),
            syncs_until: 0,
            hangs_until: 0,
            slow: 0,
            total_bytes: TOTAL_BYTES,
            used: (0, 0),
            fails: BTreeSet::new(),
        };
        let (state, is_frozen) = (Mutex::new(state), AtomicBool::new(false));
        Arc::new(Disk { dir, clock, trace, state, is_frozen, healed: Notify::new() })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// No sync ends before then.
    pub fn hang_until(&self, until: Micros) {
        self.with(|state| state.hangs_until = state.hangs_until.max(until));
    }

    /// Each sync takes up to so much longer.
    pub fn slow_down(&self, by: Micros) {
        self.with(|state| state.slow = by);
    }

    /// Something else takes all of it but so much.
    pub fn fill_up(&self, left_bytes: u64) {
        self.with(|state| state.used = (0, 0));
        let used_bytes = self.used_bytes().unwrap_or_default();
        self.with(|state| state.total_bytes = (used_bytes + left_bytes).min(TOTAL_BYTES));
    }

    /// From now on calls of this kind may fail, or none of them does.
    pub fn set_failing(&self, op: Op, fails: bool) {
        self.with(|state| if fails { state.fails.insert(op) } else { state.fails.remove(&op) });
    }

    /// Whether something was written, and its sync is not over.
    pub fn is_syncing(&self) -> bool {
        let now = self.clock.now();
        self.with(|state| state.syncs_until > now)
    }

    /// Copies what the power would leave at least of a directory, if it went now. None: nothing would go.
    pub fn copy_durable(&self, dir: &Path, to: &Path) -> io::Result<Option<()>> {
        self.with(|state| match state.journal.is_unsynced(dir) {
            true => state.journal.copy_durable(dir, to).map(Some),
            false => Ok(None),
        })
    }

    /// It is as it should be.
    pub fn heal(&self) {
        self.with(|state| {
            state.fails.clear();
            (state.hangs_until, state.slow) = (0, 0);
            state.total_bytes = TOTAL_BYTES;
        });
        self.healed.notify_waiters();
    }

    /// Returns when it is as it should be again: a sync that hung is over then.
    pub(super) async fn healed(&self) {
        self.healed.notified().await;
    }

    /// Refuses everything: its process is being taken apart.
    pub(super) fn freeze(&self) {
        self.is_frozen.store(true, Ordering::Relaxed);
    }

    pub(super) fn thaw(&self) {
        self.is_frozen.store(false, Ordering::Relaxed);
    }

    /// What the process has written is there, synced or not: the machine has it.
    pub(super) fn process_killed(&self) {}

    /// What was not synced may be gone.
    pub(super) fn power_lost(&self) -> io::Result<()> {
        self.with(|state| state.journal.power_lost(&mut state.random))
    }

    fn used_bytes(&self) -> io::Result<u64> {
        let now = self.clock.now();
        let ((looked, used_bytes), total_bytes) = self.with(|state| (state.used, state.total_bytes));
        let period = if total_bytes < TOTAL_BYTES { LOOK_PERIOD } else { ROOMY_LOOK_PERIOD };
        if used_bytes > 0 && now < looked + period {
            return Ok(used_bytes);
        }
        let used_bytes = bytes_below(&self.dir)?.next_multiple_of(ROOM_STEP_BYTES);
        self.with(|state| state.used = (now, used_bytes));
        Ok(used_bytes)
    }

    /// Whether a call is answered.
    fn check_alive(&self) -> io::Result<()> {
        match self.is_frozen.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the process is dead")),
            false => Ok(()),
        }
    }

    /// The same, and whether the disk does what it is asked.
    fn check(&self, op: Op) -> io::Result<()> {
        self.check_alive()?;
        let fails = self.with(|state| state.fails.contains(&op) && state.random.random_bool(0.5));
        if !fails {
            return Ok(());
        }
        self.trace.note("disk error", &[op as u64], &[]);
        Err(io::Error::from_raw_os_error(EIO))
    }

    /// What of these bytes is written before the disk fails.
    fn some_of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let sectors = bytes.len() as u64 / SECTOR_BYTES;
        let written = self.with(|state| state.random.random_range(0..=sectors));
        &bytes[..(written * SECTOR_BYTES) as usize]
    }

    /// Whether there is room for so many bytes more. Only who is told that the disk is full looks closely.
    fn check_room(&self, more_bytes: u64) -> io::Result<()> {
        let total_bytes = self.with(|state| state.total_bytes);
        if total_bytes < TOTAL_BYTES && more_bytes > 0 && self.used_bytes()? + more_bytes > total_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A disk as the store has it.
#[derive(Debug)]
pub struct DiskFiles(Arc<Disk>);

impl DiskFiles {
    /// The files of a disk.
    pub fn new(disk: Arc<Disk>) -> DiskFiles {
        DiskFiles(disk)
    }

    fn opened(&self, path: &Path, file: fs::File) -> DiskFile {
        let is_log = path.parent().is_some_and(|dir| dir.ends_with("log"));
        DiskFile { disk: self.0.clone(), file: Arc::new(file), is_log }
    }

    /// Opens a file to be read and written, and takes note where that makes it.
    fn open_or_make(&self, path: &Path) -> io::Result<DiskFile> {
        if !fs::exists(path)? {
            self.0.check_room(1)?;
        }
        let mut options = fs::File::options();
        options.read(true).write(true);
        match options.clone().create_new(true).open(path) {
            Ok(file) => {
                self.0.with(|state| state.journal.made(path))?;
                Ok(self.opened(path, file))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(self.opened(path, options.open(path)?))
            }
            Err(error) => Err(error),
        }
    }
}

impl Files for DiskFiles {
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn File>> {
        self.0.check_alive()?;
        let mut options = fs::File::options();
        let file = match how {
            How::Read => self.opened(path, options.read(true).open(path)?),
            // What memory cannot do past its cache, it does with it. To know what it overwrites it reads.
            How::Write | How::WriteDirect => self.opened(path, options.read(true).write(true).open(path)?),
            How::Create => {
                let file = self.open_or_make(path)?;
                file.empty()?;
                file
            }
            How::CreateNew if fs::exists(path)? => return Err(io::ErrorKind::AlreadyExists.into()),
            How::CreateNew => self.open_or_make(path)?,
        };
        Ok(Arc::new(file))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
        self.0.check_alive()?;
        let opened = self.open_or_make(path)?;
        match opened.file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(opened))),
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
        let names: io::Result<Vec<OsString>> = fs::read_dir(dir)?.map(|item| Ok(item?.file_name())).collect();
        let mut names = names?;
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.check(Op::Write)?;
        fs::create_dir(path)?;
        self.0.with(|state| state.journal.made(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        path.parent().map_or(Ok(()), |parent| self.create_dir_all(parent))?;
        self.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.check(Op::Write)?;
        self.0.with(|state| state.journal.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.check(Op::Write)?;
        self.0.with(|state| state.journal.remove(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.check(Op::Write)?;
        self.0.with(|state| state.journal.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.check(Op::Sync)?;
        self.0.with(|state| state.journal.synced_dir(dir))
    }

    fn room(&self, _: &Path) -> io::Result<Room> {
        let total_bytes = self.0.with(|state| state.total_bytes);
        let free_bytes = total_bytes.saturating_sub(self.0.used_bytes()?);
        // What fills it up is another's: the disk is as large as it was.
        Ok(Room { free_bytes, total_bytes: TOTAL_BYTES })
    }

    /// RocksDB's own calls do not come by here, so what they would meet is met before.
    fn admit_state_write(&self, _: &Path) -> io::Result<()> {
        self.0.check(Op::Write)?;
        self.0.check_room(STATE_ROOM_BYTES)
    }

    fn sync_takes(&self) -> Duration {
        let now = self.0.clock.now();
        let takes = self.0.with(|state| {
            let takes = state.random.random_range(SYNC.0..=SYNC.1 + state.slow);
            let takes = takes + state.hangs_until.saturating_sub(now);
            state.syncs_until = now + takes;
            takes
        });
        Duration::from_micros(takes)
    }
}

#[derive(Debug)]
struct DiskFile {
    disk: Arc<Disk>,
    file: Arc<fs::File>,
    is_log: bool,
}

impl DiskFile {
    fn empty(&self) -> io::Result<()> {
        let bytes = self.bytes()?;
        if bytes > 0 {
            self.disk.with(|state| state.journal.writes(&self.file, 0, bytes))?;
        }
        self.file.set_len(0)
    }

    fn sync(&self) -> io::Result<()> {
        match self.disk.check(Op::Sync) {
            Ok(()) => self.disk.with(|state| state.journal.synced(&self.file)),
            Err(error) => {
                self.disk.with(|state| state.journal.sync_failed(&self.file, &mut state.random))?;
                Err(error)
            }
        }
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.check(Op::Read)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.check_alive()?;
        let error = self.disk.check(Op::Write).err();
        let bytes = if error.is_some() { self.disk.some_of(bytes) } else { bytes };
        let count = bytes.len() as u64;
        // What snapshots hold is not the same to the byte in each run, so only the log's frames are told.
        if self.is_log {
            self.disk.trace.note("write log", &[offset], bytes);
        }
        self.disk.check_room((offset + count).saturating_sub(self.bytes()?))?;
        self.disk.with(|state| state.journal.writes(&self.file, offset, count))?;
        self.file.write_all_at(bytes, offset)?;
        error.map_or(Ok(()), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn preallocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        self.disk.check(Op::Write)?;
        let (length, to) = (self.bytes()?, from + bytes);
        if to > length {
            self.disk.check_room(to - length)?;
            self.disk.with(|state| state.journal.writes(&self.file, length, 0))?;
            self.file.set_len(to)?;
        }
        Ok(())
    }
}
