//! A thread beside the writer for what may take long: filling the next segment with zeros, and
//! removing purged ones.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::files::{self, SPARE};
use crate::fatal::stop_process;
use crate::space::Space;

/// How long to wait before trying again to make a segment on a full disk.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// The thread and what it works on. Dropping it ends the thread.
pub(super) struct Housekeeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

struct Desk {
    jobs: Mutex<Jobs>,
    /// The jobs changed, either side's.
    changed: Condvar,
    dir: PathBuf,
    segment_bytes: u64,
    space: Option<Space>,
    /// Set while there is no room for the next segment.
    full: Arc<AtomicBool>,
}

#[derive(Default)]
struct Jobs {
    spare: Spare,
    /// Purged segments, oldest first. Bounded by the number of segments.
    remove: Vec<PathBuf>,
    closing: bool,
}

/// The segment-to-be.
#[derive(Default)]
enum Spare {
    #[default]
    None,
    Wanted,
    Ready(File),
}

impl Housekeeper {
    pub(super) fn start(
        dir: &Path,
        segment_bytes: u64,
        space: Option<Space>,
        full: Arc<AtomicBool>,
    ) -> io::Result<Housekeeper> {
        let desk = Arc::new(Desk {
            jobs: Mutex::default(),
            changed: Condvar::new(),
            dir: dir.to_owned(),
            segment_bytes,
            space,
            full,
        });
        let on_thread = desk.clone();
        let thread =
            std::thread::Builder::new().name("log-files".to_owned()).spawn(move || on_thread.run())?;
        Ok(Housekeeper { desk, thread: Some(thread) })
    }

    /// Asks for a spare, unless there is one or it is being made.
    pub(super) fn want_spare(&self) {
        let mut jobs = self.desk.lock();
        if matches!(jobs.spare, Spare::None) {
            jobs.spare = Spare::Wanted;
            self.desk.changed.notify_all();
        }
    }

    /// Takes the spare; waits for it, on a full disk until there is room. The file has at least
    /// `bytes_min` bytes.
    pub(super) fn take_spare(&self, bytes_min: u64) -> (File, u64) {
        let bytes_min = files::segment_bytes(bytes_min);
        self.want_spare();
        let mut jobs = self.desk.lock();
        let file = loop {
            match std::mem::take(&mut jobs.spare) {
                Spare::Ready(file) => break file,
                other => jobs.spare = other,
            }
            jobs = self.desk.wait(jobs);
        };
        drop(jobs);
        let bytes = self.desk.segment_bytes;
        if bytes >= bytes_min {
            return (file, bytes);
        }
        // A single write larger than a segment, which is rare: it gets a segment of its own size.
        let path = self.desk.dir.join(SPARE);
        self.desk.until_there_is_room(|| files::extend_zeros(&file, &path, bytes, bytes_min));
        (file, bytes_min)
    }

    /// Hands over purged segments, oldest first.
    pub(super) fn remove(&self, paths: Vec<PathBuf>) {
        if !paths.is_empty() {
            self.desk.lock().remove.extend(paths);
            self.desk.changed.notify_all();
        }
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.desk.lock().closing = true;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's housekeeping thread panicked");
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().expect("no thread panics while it holds this lock")
    }

    fn wait<'a>(&self, jobs: MutexGuard<'a, Jobs>) -> MutexGuard<'a, Jobs> {
        self.changed.wait(jobs).expect("no thread panics while it holds this lock")
    }

    fn run(&self) {
        let mut jobs = self.lock();
        loop {
            if !jobs.remove.is_empty() {
                let paths = std::mem::take(&mut jobs.remove);
                drop(jobs);
                self.remove(&paths);
            } else if jobs.closing {
                return;
            } else if matches!(jobs.spare, Spare::Wanted) {
                drop(jobs);
                self.make_spare();
            } else {
                jobs = self.wait(jobs);
                continue;
            }
            jobs = self.lock();
        }
    }

    /// Oldest first, so that a crash in between leaves no hole in the numbers.
    fn remove(&self, paths: &[PathBuf]) {
        for path in paths {
            if let Err(error) = fs::remove_file(path) {
                stop_process(format_args!("cannot remove purged log segment {}", path.display()), error);
            }
        }
        if let Err(error) = files::sync_dir(&self.dir) {
            stop_process(format_args!("cannot sync log directory {}", self.dir.display()), error);
        }
    }

    /// Makes the spare, or on a full disk waits a little; the caller comes again, after removing
    /// what was purged in the meantime.
    fn make_spare(&self) {
        let path = self.dir.join(SPARE);
        match files::create_zeros(&path, self.segment_bytes) {
            Ok(file) => {
                self.full.store(false, Ordering::Relaxed);
                self.lock().spare = Spare::Ready(file);
                self.changed.notify_all();
            }
            Err(error) if is_full(&error) => {
                // What was reserved for it so far is better left to others.
                let _ = fs::remove_file(&path);
                self.make_room(&error);
                let jobs = self.lock();
                let waited = self.changed.wait_timeout_while(jobs, FULL_DISK_RETRY, |jobs| {
                    !jobs.closing && jobs.remove.is_empty()
                });
                drop(waited.expect("no thread panics while it holds this lock"));
            }
            Err(error) => stop_process(format_args!("cannot make log segment {}", path.display()), error),
        }
    }

    fn until_there_is_room(&self, mut make: impl FnMut() -> io::Result<()>) {
        loop {
            match make() {
                Ok(()) => return self.full.store(false, Ordering::Relaxed),
                Err(error) if is_full(&error) => {
                    self.make_room(&error);
                    std::thread::sleep(FULL_DISK_RETRY);
                }
                Err(error) => stop_process("cannot enlarge log segment", error),
            }
        }
    }

    fn make_room(&self, error: &io::Error) {
        self.full.store(true, Ordering::Relaxed);
        tracing::error!(
            dir = %self.dir.display(), %error,
            "no room for the next log segment: writes wait; free space on this disk"
        );
        if let Some(space) = &self.space {
            space.release_ballast();
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
