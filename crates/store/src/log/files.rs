//! What the log does with files and directories, apart from writing frames.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::LogError;
use super::output::{BLOCK_BYTES, Output};
use super::segment::{self, HEAD_FRAME_BYTES, Head, SEAL_BYTES, Segment};
use super::view::View;
use crate::files::{File, Files, How, exists};

/// The log's directory in the data directory.
pub(crate) const DIR: &str = "log";

/// The name of the segment-to-be that is being filled with zeros.
pub(super) const SPARE: &str = "spare";

/// Zeros are written in steps of this and synced after each, so that an fsync of the log that comes
/// at the same time waits for one step and not for a whole segment.
const STEP_BYTES: usize = 1024 * 1024;

/// How long a segment is that has to hold so many bytes.
pub(super) fn segment_bytes(bytes: u64) -> u64 {
    bytes.max(HEAD_FRAME_BYTES + SEAL_BYTES).next_multiple_of(BLOCK_BYTES as u64)
}

/// A file of zeros in the making, to be a segment.
///
/// The zeros are written, not only reserved: in space that is merely reserved, each fdatasync has to
/// journal that another piece of it came into use. They go past the page cache as frames do: the
/// pages would cost as much processor time again as the frames that follow, which throw them away.
pub(super) struct Zeros {
    file: Arc<dyn File>,
    output: Output,
    step: Vec<u8>,
    offset: u64,
    bytes: u64,
}

impl Zeros {
    /// Begins a file of so many bytes.
    pub(super) fn begin(files: &Arc<dyn Files>, path: &Path, bytes: u64) -> io::Result<Zeros> {
        let file = files.open(path, How::Create)?;
        // All of the space first: a full disk is noticed before anything is written.
        file.preallocate(0, bytes)?;
        let output = Output::open(files, path, 0)?;
        Ok(Zeros { file, output, step: vec![0; STEP_BYTES.min(bytes as usize)], offset: 0, bytes })
    }

    /// How long it will be.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes and syncs the next stretch; answers the file when that was the last one.
    pub(super) fn step(&mut self) -> io::Result<Option<Arc<dyn File>>> {
        let step = self.step.len().min((self.bytes - self.offset) as usize);
        self.output.write(&self.step[..step], self.offset)?;
        self.output.sync()?;
        self.offset += step as u64;
        if self.offset < self.bytes {
            return Ok(None);
        }
        self.file.sync_all()?;
        Ok(Some(self.file.clone()))
    }
}

/// Makes a file of zeros at once.
fn create_zeros(files: &Arc<dyn Files>, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
    let mut zeros = Zeros::begin(files, path, bytes)?;
    loop {
        if let Some(file) = zeros.step()? {
            return Ok(file);
        }
    }
}

/// Whether there is a log in the data directory.
pub(super) fn log_exists(files: &dyn Files, data_dir: &Path) -> io::Result<bool> {
    exists(files, &data_dir.join(DIR))
}

/// Founds the log of an empty data directory: its directory gets its name only when the first
/// segment is durable, so that a log without segments is one that lost them.
pub(super) fn found(
    files: &Arc<dyn Files>,
    data_dir: &Path,
    identity: u64,
    segment_bytes: u64,
) -> Result<(), LogError> {
    let new = data_dir.join("log.new");
    let error = |context| LogError::io(context, &new);
    match files.remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error("remove unfinished log")(e)),
        _ => {}
    }
    files.create_dir(&new).map_err(error("create log directory"))?;
    let path = segment::path(&new, FIRST_SEGMENT);
    let make = || {
        let file = create_zeros(files, &path, segment_bytes)?;
        let head = Head { identity, bytes: segment_bytes, before: View::default(), committed: None };
        write_head(&*file, &head, FIRST_SEGMENT, FIRST_SEQUENCE)?;
        files.sync_dir(&new)?;
        files.rename(&new, &data_dir.join(DIR))?;
        files.sync_dir(data_dir)
    };
    make().map_err(error("create log"))
}

/// The number of a log's first segment, and the sequence number of its head.
const FIRST_SEGMENT: u64 = 1;
const FIRST_SEQUENCE: u64 = 1;

/// Writes a segment's head and syncs it. Answers where the first frame goes.
pub(super) fn write_head(file: &dyn File, head: &Head, number: u64, sequence: u64) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(HEAD_FRAME_BYTES as usize);
    head.encode(&mut buffer, number, sequence);
    file.write_at(&buffer, 0)?;
    file.sync_data()?;
    Ok(buffer.len() as u64)
}

/// Turns the spare into a segment: head first, then the name.
pub(super) fn name_spare(
    files: &dyn Files,
    dir: &Path,
    file: Arc<dyn File>,
    head: &Head,
    number: u64,
    sequence: u64,
) -> io::Result<Segment> {
    let end = write_head(&*file, head, number, sequence)?;
    let path = segment::path(dir, number);
    files.rename(&dir.join(SPARE), &path)?;
    files.sync_dir(dir)?;
    Ok(Segment::new(number, path, file, head, end))
}
