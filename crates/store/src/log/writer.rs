//! The writer thread: drains the queue into a frame, writes it once, syncs it once, and completes
//! what was in it, in order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::error::LogError;
use super::files;
use super::frame::{self, HEADER_BYTES, Kind, Place};
use super::housekeeper::Housekeeper;
use super::options::LogOptions;
use super::output::Output;
use super::record::{self, Record};
use super::recovery::Recovered;
use super::segment::{HEAD_FRAME_BYTES, Head, SEAL_BYTES, Segment};
use super::shared::{Batch, Change, Op, Shared, Written};
use super::view::{View, next_index};
use crate::entry::LogId;
use crate::fatal::stop_process;

/// The buffer keeps so much between frames; an unusually large one is given back.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;

pub(super) struct Writer {
    shared: Arc<Shared>,
    housekeeper: Housekeeper,
    dir: PathBuf,
    identity: u64,
    options: LogOptions,
    /// The log as it is on disk.
    view: View,
    /// The sequence number of the next frame.
    sequence: u64,
    active: Active,
    buffer: Vec<u8>,
}

/// Where the writer goes on.
pub(super) struct Start {
    view: View,
    sequence: u64,
    active: Active,
}

impl Start {
    pub(super) fn after(log: &Recovered, identity: u64) -> Result<Start, LogError> {
        let last = log.segments.last().expect("recovery refuses a log without segments");
        let active =
            Active::new(last, identity).map_err(LogError::io("open log segment for writing", &last.path))?;
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
    fn new(segment: &Segment, identity: u64) -> io::Result<Active> {
        Ok(Active {
            number: segment.number,
            path: segment.path.clone(),
            output: Output::open(&segment.path, segment.end)?,
            bytes: segment.bytes,
            end: segment.end,
            seed: frame::seed(identity, segment.number),
        })
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
        let dir = dir.to_owned();
        Writer { shared, housekeeper, dir, identity, options, view, sequence, active, buffer: Vec::new() }
    }

    /// Works until the log is closed and everything queued is done.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.take_batch() {
            let before = self.view.bounds();
            let mut written = self.encode(&batch.ops);
            if self.buffer.len() > HEADER_BYTES {
                let frame_bytes = HEADER_BYTES + frame::padded(self.buffer.len() - HEADER_BYTES);
                self.make_room(frame_bytes as u64, before, batch.committed);
                written.offset = self.active.end;
                written.frame_bytes = frame_bytes as u64;
                self.write_frame(Kind::Records, batch.committed, written.entries);
                self.active.end += written.frame_bytes;
                if self.active.end > self.active.bytes / 2 {
                    self.housekeeper.want_spare();
                }
            }
            self.complete(batch, written);
        }
    }

    /// Puts the batch's records into the buffer.
    fn encode(&mut self, ops: &[Op]) -> Written {
        let mut written = Written::default();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        frame::begin(&mut self.buffer);
        for op in ops {
            match &op.change {
                Change::Append(entries) => {
                    for entry in entries {
                        record::put_entry(&mut self.buffer, entry);
                        require(self.view.append(entry.log_id));
                    }
                    written.first_index = written.first_index.or(entries.first().map(|e| e.log_id.index));
                    written.entries += entries.len();
                    continue;
                }
                Change::Vote(vote) => {
                    self.view.set_vote(*vote);
                    record::put(&mut self.buffer, Record::Vote(*vote));
                }
                Change::Truncate(last) => {
                    require(self.view.truncate_after(*last));
                    written.truncated_next = least(written.truncated_next, self.view.next_index());
                    record::put(&mut self.buffer, Record::Truncate(*last));
                }
                Change::Purge(upto) => {
                    require(self.view.purge(*upto));
                    record::put(&mut self.buffer, Record::Purge(*upto));
                }
                Change::Reset(upto) => {
                    self.view.reset(*upto);
                    written.truncated_next = least(written.truncated_next, self.view.next_index());
                    record::put(&mut self.buffer, Record::Reset(*upto));
                }
            }
        }
        written
    }

    /// Goes over to a new segment if the frame does not fit into this one. `before` is the log
    /// without the frame.
    fn make_room(&mut self, frame_bytes: u64, before: View, committed: Option<LogId>) {
        if self.active.end + frame_bytes + SEAL_BYTES <= self.active.bytes {
            return;
        }
        let (file, bytes) = self.housekeeper.take_spare(HEAD_FRAME_BYTES + frame_bytes + SEAL_BYTES);
        let number = self.active.number + 1;
        let head = Head { identity: self.identity, bytes, before, committed };
        let segment = match files::name_spare(&self.dir, file, &head, number, self.sequence) {
            Ok(segment) => segment,
            Err(error) => stop_process(format_args!("cannot begin log segment {number:016x}"), error),
        };
        // Only now that the next segment is there for good may this one say so: a sealed segment
        // without a successor has lost it. The seal takes the sequence number of the new head.
        let records = std::mem::take(&mut self.buffer);
        frame::begin(&mut self.buffer);
        self.write_frame(Kind::Seal, committed, 0);
        self.buffer = records;
        self.active = match Active::new(&segment, self.identity) {
            Ok(active) => active,
            Err(error) => stop_process(format_args!("cannot write log segment {number:016x}"), error),
        };
        self.shared.push_segment(segment);
    }

    /// Writes the buffer as the next frame and syncs it.
    fn write_frame(&mut self, kind: Kind, committed: Option<LogId>, entries: usize) {
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
        let result = active.output.write(&self.buffer, active.end);
        let written = Instant::now();
        if let Err(error) = result.and_then(|()| active.output.sync()) {
            stop_process(format_args!("cannot write log segment {}", active.path.display()), error);
        }
        self.sequence += 1;
        if let Some(observer) = &self.options.observer {
            observer.synced(self.buffer.len(), entries, written - started, written.elapsed());
        }
    }

    /// Makes known what is durable now, then calls the callbacks.
    fn complete(&mut self, batch: Batch, written: Written) {
        let purged = self.shared.complete(&batch, &written, &self.view);
        self.housekeeper.remove(purged);
        for op in batch.ops {
            (op.done)();
        }
    }
}

fn least(a: Option<u64>, b: u64) -> Option<u64> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// The handle checked every change before it queued it.
fn require(result: Result<(), &'static str>) {
    if let Err(reason) = result {
        stop_process("cannot write log", reason);
    }
}
