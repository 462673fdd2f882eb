//! A worker beside the writer for what may take long: filling the next segment with zeros, and
//! removing purged ones.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::files::{self, SPARE, Zeros};
use crate::fatal::stop_process;
use crate::files::{File, Files};
use crate::machine::Machine;
use crate::space::Space;
use crate::threads::{Next, Running, Worker};

/// How long to wait before trying again to make a segment on a full disk.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// The writer's side of it. Dropping it ends the worker.
pub(super) struct Housekeeper {
    desk: Arc<Desk>,
    running: Option<Box<dyn Running>>,
}

/// What both sides share. The lock is held for moments, never across I/O.
struct Desk {
    jobs: Mutex<Jobs>,
    segment_bytes: u64,
}

#[derive(Default)]
struct Jobs {
    /// How long a segment-to-be is wanted; 0: none is.
    spare_bytes: u64,
    /// The segment-to-be.
    spare: Option<Spare>,
    /// Purged segments, oldest first. Bounded by the number of segments.
    remove: Vec<PathBuf>,
    closing: bool,
    /// The worker, while it waits for a job.
    worker: Option<Waker>,
    /// The writer, while it waits for the spare.
    writer: Option<Waker>,
}

/// A file of zeros, ready to be a segment.
pub(super) struct Spare {
    pub(super) file: Arc<dyn File>,
    pub(super) bytes: u64,
}

impl Jobs {
    /// Whether a spare is wanted and there is none that is as long as that.
    fn lacks_spare(&self) -> bool {
        self.spare_bytes > self.spare.as_ref().map_or(0, |spare| spare.bytes)
    }
}

impl Housekeeper {
    pub(super) fn start(
        machine: &Machine,
        dir: &Path,
        segment_bytes: u64,
        space: Option<Space>,
        full: Arc<AtomicBool>,
    ) -> io::Result<Housekeeper> {
        let desk = Arc::new(Desk { jobs: Mutex::default(), segment_bytes });
        let keeper = Keeper {
            desk: desk.clone(),
            files: machine.files.clone(),
            dir: dir.to_owned(),
            space,
            full,
            filling: None,
        };
        let running = machine.threads.start("log-files", Box::new(keeper))?;
        Ok(Housekeeper { desk, running: Some(running) })
    }

    /// Asks for a spare, unless there is one or it is being made.
    pub(super) fn want_spare(&self) {
        let waker = self.desk.want(self.desk.segment_bytes, &mut self.desk.lock());
        wake(waker);
    }

    /// Takes the spare, of at least `bytes_min` bytes. Where there is none the writer is woken when it is made,
    /// on a full disk when there is room.
    pub(super) fn poll_spare(&self, bytes_min: u64, writer: &Waker) -> Poll<Spare> {
        let mut jobs = self.desk.lock();
        let worker = self.desk.want(files::segment_bytes(bytes_min), &mut jobs);
        if !jobs.lacks_spare()
            && let Some(spare) = jobs.spare.take()
        {
            jobs.spare_bytes = 0;
            return Poll::Ready(spare);
        }
        jobs.writer = Some(writer.clone());
        drop(jobs);
        wake(worker);
        Poll::Pending
    }

    /// Hands over purged segments, oldest first.
    pub(super) fn remove(&self, paths: Vec<PathBuf>) {
        if paths.is_empty() {
            return;
        }
        let mut jobs = self.desk.lock();
        jobs.remove.extend(paths);
        let worker = jobs.worker.take();
        drop(jobs);
        wake(worker);
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        let mut jobs = self.desk.lock();
        jobs.closing = true;
        let worker = jobs.worker.take();
        drop(jobs);
        wake(worker);
        if let Some(running) = self.running.take() {
            running.join();
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().expect("no thread panics while it holds this lock")
    }

    /// Wants a spare of so many bytes, and at least of the usual size. Answers whom to wake for it.
    fn want(&self, bytes: u64, jobs: &mut Jobs) -> Option<Waker> {
        jobs.spare_bytes = jobs.spare_bytes.max(bytes).max(self.segment_bytes);
        if jobs.lacks_spare() { jobs.worker.take() } else { None }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The worker.
struct Keeper {
    desk: Arc<Desk>,
    files: Arc<dyn Files>,
    dir: PathBuf,
    space: Option<Space>,
    /// Set while there is no room for the next segment.
    full: Arc<AtomicBool>,
    /// The spare that is being made.
    filling: Option<Zeros>,
}

impl Worker for Keeper {
    /// Removes what was purged first: on a full disk that is what makes room for the spare.
    fn step(&mut self, waker: &Waker) -> Next {
        let mut jobs = self.desk.lock();
        if !jobs.remove.is_empty() {
            let paths = std::mem::take(&mut jobs.remove);
            drop(jobs);
            self.remove(&paths);
            return Next::Again;
        }
        if jobs.closing {
            return Next::Ended;
        }
        if !jobs.lacks_spare() {
            jobs.worker = Some(waker.clone());
            return Next::Woken;
        }
        let bytes = jobs.spare_bytes;
        drop(jobs);
        self.make_spare(bytes)
    }
}

impl Keeper {
    /// Oldest first, so that a crash in between leaves no hole in the numbers.
    fn remove(&self, paths: &[PathBuf]) {
        for path in paths {
            if let Err(error) = self.files.remove_file(path) {
                stop_process(format_args!("cannot remove purged log segment {}", path.display()), error);
            }
        }
        if let Err(error) = self.files.sync_dir(&self.dir) {
            stop_process(format_args!("cannot sync log directory {}", self.dir.display()), error);
        }
    }

    /// Makes a part of the spare, or on a full disk waits a little: the next step removes what was
    /// purged in the meantime.
    fn make_spare(&mut self, bytes: u64) -> Next {
        let path = self.dir.join(SPARE);
        match self.fill(&path, bytes) {
            Ok(None) => Next::after(self.files.sync_takes()),
            Ok(Some(spare)) => {
                self.full.store(false, Ordering::Relaxed);
                let mut jobs = self.desk.lock();
                jobs.spare = Some(spare);
                let writer = jobs.writer.take();
                drop(jobs);
                wake(writer);
                Next::Again
            }
            Err(error) if is_full(&error) => {
                // What was reserved for it so far is better left to others.
                self.filling = None;
                let _ = self.files.remove_file(&path);
                self.make_room(&error);
                Next::After(FULL_DISK_RETRY)
            }
            Err(error) => stop_process(format_args!("cannot make log segment {}", path.display()), error),
        }
    }

    /// Fills a part of the spare with zeros; answers it when it is whole.
    fn fill(&mut self, path: &Path, bytes: u64) -> io::Result<Option<Spare>> {
        let mut zeros = match self.filling.take().filter(|zeros| zeros.bytes() == bytes) {
            Some(zeros) => zeros,
            // A write larger than a segment is rare: it gets one of its own size, in the place of the spare.
            None => {
                self.desk.lock().spare = None;
                Zeros::begin(&self.files, path, bytes)?
            }
        };
        let file = zeros.step()?;
        if file.is_none() {
            self.filling = Some(zeros);
        }
        Ok(file.map(|file| Spare { file, bytes }))
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
