//! What the log does with files and directories, apart from writing frames.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::error::LogError;
use super::output::{BLOCK_BYTES, Output};
use super::segment::{self, HEAD_FRAME_BYTES, Head, SEAL_BYTES, Segment};
use super::view::View;

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

/// Makes a file of zeros, ready to be a segment.
///
/// The zeros are written, not only reserved: in space that is merely reserved, each fdatasync has to
/// journal that another piece of it came into use. They go past the page cache as frames do: the
/// pages would cost as much processor time again as the frames that follow, which throw them away.
pub(super) fn create_zeros(path: &Path, bytes: u64) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    extend_zeros(&file, path, 0, bytes)?;
    Ok(file)
}

/// Writes zeros over a stretch of a file, growing it when need be, and syncs data and size.
pub(super) fn extend_zeros(file: &File, path: &Path, from: u64, to: u64) -> io::Result<()> {
    // All of the space first: a full disk is noticed before anything is written.
    fallocate(file, FallocateFlags::empty(), from, to - from)?;
    let mut output = Output::open(path, from)?;
    let zeros = vec![0; STEP_BYTES.min((to - from) as usize)];
    let mut offset = from;
    while offset < to {
        let step = zeros.len().min((to - offset) as usize);
        output.write(&zeros[..step], offset)?;
        output.sync()?;
        offset += step as u64;
    }
    file.sync_all()
}

/// Makes renames, new files and removals in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether there is a log in the data directory.
pub(super) fn log_exists(data_dir: &Path) -> bool {
    data_dir.join(DIR).exists()
}

/// Founds the log of an empty data directory: its directory gets its name only when the first
/// segment is durable, so that a log without segments is one that lost them.
pub(super) fn found(data_dir: &Path, identity: u64, segment_bytes: u64) -> Result<(), LogError> {
    let new = data_dir.join("log.new");
    let error = |context| LogError::io(context, &new);
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error("remove unfinished log")(e)),
        _ => {}
    }
    fs::create_dir(&new).map_err(error("create log directory"))?;
    let path = segment::path(&new, FIRST_SEGMENT);
    let make = || {
        let file = create_zeros(&path, segment_bytes)?;
        let head = Head { identity, bytes: segment_bytes, before: View::default(), committed: None };
        write_head(&file, &head, FIRST_SEGMENT, FIRST_SEQUENCE)?;
        sync_dir(&new)?;
        fs::rename(&new, data_dir.join(DIR))?;
        sync_dir(data_dir)
    };
    make().map_err(error("create log"))
}

/// The number of a log's first segment, and the sequence number of its head.
const FIRST_SEGMENT: u64 = 1;
const FIRST_SEQUENCE: u64 = 1;

/// Writes a segment's head and syncs it. Answers where the first frame goes.
pub(super) fn write_head(file: &File, head: &Head, number: u64, sequence: u64) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(HEAD_FRAME_BYTES as usize);
    head.encode(&mut buffer, number, sequence);
    file.write_all_at(&buffer, 0)?;
    file.sync_data()?;
    Ok(buffer.len() as u64)
}

/// Turns the spare into a segment: head first, then the name.
pub(super) fn name_spare(
    dir: &Path,
    file: File,
    head: &Head,
    number: u64,
    sequence: u64,
) -> io::Result<Segment> {
    let end = write_head(&file, head, number, sequence)?;
    let path = segment::path(dir, number);
    fs::rename(dir.join(SPARE), &path)?;
    sync_dir(dir)?;
    Ok(Segment::new(number, path, file, head, end))
}
