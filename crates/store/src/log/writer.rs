//! The writer: drains the queue into a frame, writes it once, syncs it once, and completes what was in it,
//! in order. One step of it ends where it waits: for changes, for the next segment, for a sync.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::encode::encode;
use super::error::LogError;
use super::files;
use super::frame::{self, HEADER_BYTES, Kind, Place};
use super::housekeeper::Housekeeper;
use super::options::LogOptions;
use super::output::Output;
use super::queue::{Batch, Written};
use super::recovery::Recovered;
use super::segment::{HEAD_FRAME_BYTES, Head, SEAL_BYTES, Segment};
use super::shared::Shared;
use super::view::{View, next_index};
use crate::entry::LogId;
use crate::fatal::stop_process;
use crate::files::Files;
use crate::threads::{Next, Worker};

pub(super) struct Writer {
    shared: Arc<Shared>,
    housekeeper: Housekeeper,
    dir: PathBuf,
    identity: u64,
    options: LogOptions,
    /// The log as it is on disk, with what is being written.
    view: View,
    /// The sequence number of the next frame.
    sequence: u64,
    active: Active,
    buffer: Vec<u8>,
    stage: Stage,
}

/// How far the writer is with the batch at hand.
#[derive(Default)]
enum Stage {
    /// There is none.
    #[default]
    Idle,
    /// Its frame is in the buffer, and does not fit into the active segment.
    NoRoom(Job),
    /// The next segment is there for good, and the seal of the active one is written.
    Sealed(Sealed),
    /// Its frame is written.
    Written(Job, WrittenAt),
}

/// A batch on its way to the disk.
struct Job {
    batch: Batch,
    written: Written,
    /// The log without it.
    before: View,
}

/// A segment that is left, and the one that is next.
struct Sealed {
    job: Job,
    next: Segment,
    /// The batch's frame, while the buffer has the seal.
    frame: Vec<u8>,
    at: WrittenAt,
}

/// How long a write took, and when it ended.
struct WrittenAt {
    took: Duration,
    ended: Instant,
}

/// Where the writer goes on.
pub(super) struct Start {
    view: View,
    sequence: u64,
    active: Active,
}

impl Start {
    pub(super) fn after(files: &Arc<dyn Files>, log: &Recovered, identity: u64) -> Result<Start, LogError> {
        let last = log.segments.last().expect("recovery refuses a log without segments");
        let active = Active::new(files, last, identity)
            .map_err(LogError::io("open log segment for writing", &last.path))?;
        Ok(Start { view: log.view.clone(), sequence: log.sequence, active })
    }
}

/// The segment that is being written.
struct Active {
    number: u64,
    path: PathBuf,
    output: Output,
    bytes: u64,
    end: u64,
    seed: u32,
}

impl Active {
    fn new(files: &Arc<dyn Files>, segment: &Segment, identity: u64) -> io::Result<Active> {
        Ok(Active {
            number: segment.number,
            path: segment.path.clone(),
            output: Output::open(files, &segment.path, segment.end)?,
            bytes: segment.bytes,
            end: segment.end,
            seed: frame::seed(identity, segment.number),
        })
    }
}

impl Worker for Writer {
    /// Works until the log is closed and everything queued is done.
    fn step(&mut self, waker: &Waker) -> Next {
        match std::mem::take(&mut self.stage) {
            Stage::Idle => self.begin(waker),
            Stage::NoRoom(job) => self.seal(job, waker),
            Stage::Sealed(sealed) => self.go_over(sealed),
            Stage::Written(job, at) => self.complete(job, &at),
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        housekeeper: Housekeeper,
        dir: &Path,
        identity: u64,
        options: LogOptions,
        start: Start,
    ) -> Writer {
        let Start { view, sequence, active } = start;
        Writer {
            shared,
            housekeeper,
            dir: dir.to_owned(),
            identity,
            options,
            view,
            sequence,
            active,
            buffer: Vec::new(),
            stage: Stage::Idle,
        }
    }

    /// Takes what has queued up, and writes it if it fits into the active segment.
    fn begin(&mut self, waker: &Waker) -> Next {
        let batch = match self.shared.poll_batch(waker) {
            Poll::Pending => return Next::Woken,
            Poll::Ready(None) => return Next::Ended,
            Poll::Ready(Some(batch)) => batch,
        };
        let before = self.view.bounds();
        let written = encode(&batch.ops, &mut self.view, &mut self.buffer);
        let job = Job { batch, written, before };
        if self.buffer.len() == HEADER_BYTES {
            self.report(job);
            return Next::Again;
        }
        if self.active.end + self.frame_bytes() + SEAL_BYTES <= self.active.bytes {
            self.write_records(job)
        } else {
            self.seal(job, waker)
        }
    }

    /// Bytes of the frame in the buffer.
    fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + frame::padded(self.buffer.len() - HEADER_BYTES)) as u64
    }

    /// Makes the next segment of the spare, and writes the seal of the active one.
    fn seal(&mut self, job: Job, waker: &Waker) -> Next {
        let bytes_min = HEAD_FRAME_BYTES + self.frame_bytes() + SEAL_BYTES;
        let Poll::Ready(spare) = self.housekeeper.poll_spare(bytes_min, waker) else {
            self.stage = Stage::NoRoom(job);
            return Next::Woken;
        };
        assert!(spare.bytes >= bytes_min, "the spare is as long as it was asked for");
        let number = self.active.number + 1;
        let Job { before, batch, .. } = &job;
        let head = Head {
            identity: self.identity,
            bytes: spare.bytes,
            before: before.clone(),
            committed: batch.committed,
        };
        let files = &*self.options.machine.files;
        let next = match files::name_spare(files, &self.dir, spare.file, &head, number, self.sequence) {
            Ok(segment) => segment,
            Err(error) => stop_process(format_args!("cannot begin log segment {number:016x}"), error),
        };
        // Only now that the next segment is there for good may this one say so: a sealed segment
        // without a successor has lost it. The seal takes the sequence number of the new head.
        let frame = std::mem::take(&mut self.buffer);
        frame::begin(&mut self.buffer);
        let at = self.write_frame(Kind::Seal, batch.committed);
        self.stage = Stage::Sealed(Sealed { job, next, frame, at });
        Next::after(self.sync_takes())
    }

    /// Goes over to the next segment, and writes there.
    fn go_over(&mut self, sealed: Sealed) -> Next {
        let Sealed { job, next, frame, at } = sealed;
        self.sync(&at, 0);
        self.buffer = frame;
        self.active = match Active::new(&self.options.machine.files, &next, self.identity) {
            Ok(active) => active,
            Err(error) => stop_process(format_args!("cannot write log segment {:016x}", next.number), error),
        };
        self.shared.push_segment(next);
        self.write_records(job)
    }

    /// Writes the batch's frame behind the last one.
    fn write_records(&mut self, mut job: Job) -> Next {
        job.written.offset = self.active.end;
        job.written.frame_bytes = self.frame_bytes();
        let end = self.active.end + job.written.frame_bytes;
        assert!(end + SEAL_BYTES <= self.active.bytes, "every segment keeps room for its seal");
        let at = self.write_frame(Kind::Records, job.batch.committed);
        self.active.end = end;
        self.stage = Stage::Written(job, at);
        Next::after(self.sync_takes())
    }

    fn sync_takes(&self) -> Duration {
        self.options.machine.files.sync_takes()
    }

    /// Writes the buffer as the next frame.
    #[expect(clippy::disallowed_methods, reason = "for the observer's durations, on which nothing depends")]
    fn write_frame(&mut self, kind: Kind, committed: Option<LogId>) -> WrittenAt {
        let active = &mut self.active;
        let place = Place {
            kind,
            sequence: self.sequence,
            segment: active.number,
            committed_next: next_index(committed),
            offset: active.end,
        };
        frame::finish(&mut self.buffer, place, active.seed);
        let started = Instant::now();
        if let Err(error) = active.output.write(&self.buffer, active.end) {
            stop_process(format_args!("cannot write log segment {}", active.path.display()), error);
        }
        let ended = Instant::now();
        WrittenAt { took: ended - started, ended }
    }

    /// Makes the frame durable that was written last.
    fn sync(&mut self, at: &WrittenAt, entries: usize) {
        if let Err(error) = self.active.output.sync() {
            stop_process(format_args!("cannot write log segment {}", self.active.path.display()), error);
        }
        self.sequence += 1;
        if let Some(observer) = &self.options.observer {
            observer.synced(self.buffer.len(), entries, at.took, at.ended.elapsed());
        }
    }

    /// Makes the batch durable.
    fn complete(&mut self, job: Job, at: &WrittenAt) -> Next {
        self.sync(at, job.written.entries);
        if self.active.end > self.active.bytes / 2 {
            self.housekeeper.want_spare();
        }
        self.report(job);
        Next::Again
    }

    /// Makes known what is durable now, then calls the callbacks.
    fn report(&mut self, job: Job) {
        let purged = self.shared.complete(&job.batch, &job.written, &self.view);
        self.housekeeper.remove(purged);
        for op in job.batch.ops {
            (op.done)();
        }
    }
}
