//! Opens the log: reads every segment, drops a torn last frame, refuses anything else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::LogError;
use super::files::SPARE;
use super::frame::{self, ALIGN_BYTES, HEADER_BYTES, Header, HeaderRead, Kind, SECTOR_BYTES};
use super::record::{Record, Records};
use super::scanner::{Scanned, Scanner, Source};
use super::segment::{self, Head, Segment, Segments};
use super::view::{View, next_index};
use crate::files::{File, Files, How};

/// Recovery reads everything: few large reads.
const READ_BYTES: usize = 1024 * 1024;
/// The step in which unused space is searched.
const ZEROS_BYTES: u64 = 4096;

/// What the disk holds.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) view: View,
    pub(super) segments: Segments,
    /// The sequence number of the next frame.
    pub(super) sequence: u64,
    /// Entries below this index are known to be committed.
    pub(super) committed_next: u64,
    /// The last segment's last frame, if it has one but its head.
    last_frame: Option<Stretch>,
}

/// A stretch of a segment.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    offset: u64,
    bytes: u64,
}

/// Reads the log in `dir` and makes it ready to be appended to.
pub(super) fn recover(files: &dyn Files, dir: &Path, identity: u64) -> Result<Recovered, LogError> {
    let (log, leftover) = replay(files, dir, identity)?;
    if let Some(last) = log.segments.last() {
        leftover.map_or(Ok(()), |leftover| clear(files, &last.path, leftover))?;
        settle(files, dir, &last.path, log.last_frame)?;
    }
    remove_spare(files, dir)?;
    Ok(log)
}

/// Reads the log in `dir` and changes nothing.
pub(super) fn check(files: &dyn Files, dir: &Path, identity: u64) -> Result<(), LogError> {
    replay(files, dir, identity).map(|_| ())
}

/// Reads what the log in `dir` holds, and changes nothing.
pub(super) fn view(files: &dyn Files, dir: &Path, identity: u64) -> Result<View, LogError> {
    replay(files, dir, identity).map(|(log, _)| log.view)
}

fn replay(files: &dyn Files, dir: &Path, identity: u64) -> Result<(Recovered, Option<Stretch>), LogError> {
    let numbers = segment_numbers(files, dir)?;
    let mut log = Recovered::default();
    let mut leftover = None;
    for (at, number) in numbers.iter().copied().enumerate() {
        let path = segment::path(dir, number);
        let (file, file_bytes) = open(files, &path)?;
        let source = Source { file: &*file, path: &path, file_bytes, segment: number };
        let (head, header) = read_head(&source)?;
        check_head(&source, &head, &header, identity, &mut log)?;
        log.last_frame = None;
        log.segments.push(Segment::new(number, path.clone(), file.clone(), &head, header.frame_bytes()));
        let stop = read_frames(&source, identity, &mut log)?;
        if at + 1 == numbers.len() {
            leftover = check_end(&source, identity, &log, stop)?;
        } else if let Stop::Torn(_) = stop {
            let reason = "a frame is incomplete, although a segment follows";
            return Err(LogError::damage(&path, log.end(), reason));
        }
    }
    check_whole(dir, &log)?;
    Ok((log, leftover))
}

/// Opens a segment's file to read it. Answers its length, too.
pub(super) fn open(files: &dyn Files, path: &Path) -> Result<(Arc<dyn File>, u64), LogError> {
    let file = files.open(path, How::Read).map_err(LogError::io("open log segment", path))?;
    let file_bytes = file.bytes().map_err(LogError::io("read size of log segment", path))?;
    Ok((file, file_bytes))
}

/// The numbers of the segments, ascending.
pub(super) fn segment_numbers(files: &dyn Files, dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    for name in files.list(dir).map_err(LogError::io("read log directory", dir))? {
        numbers.extend(name.to_str().and_then(segment::number));
    }
    numbers.sort_unstable();
    let missing = |number, reason: &str| {
        Err(LogError::Missing { file: segment::path(dir, number), reason: reason.to_owned() })
    };
    if numbers.is_empty() {
        return missing(1, "the log directory is there without any segment");
    }
    if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return missing(gap[0] + 1, "there are segments before and after it");
    }
    Ok(numbers)
}

/// Reads a segment's head. The file must be as long as it says.
pub(super) fn read_head(source: &Source<'_>) -> Result<(Head, Header), LogError> {
    let mut scanner = Scanner::new(source, segment::head_seed(source.segment), 0, HEADER_BYTES);
    let Scanned::Frame { header, payload, .. } = scanner.next()? else {
        return Err(LogError::damage(source.path, 0, "the segment's head is not there"));
    };
    let head = Head::decode(payload).map_err(|reason| LogError::damage(source.path, 0, reason))?;
    if head.bytes != source.file_bytes {
        let reason = format!("the file has {} bytes instead of {}", source.file_bytes, head.bytes);
        return Err(LogError::damage(source.path, source.file_bytes.min(head.bytes), reason));
    }
    Ok((head, header))
}

/// Compares a segment's head with what was read so far.
fn check_head(
    source: &Source<'_>,
    head: &Head,
    header: &Header,
    identity: u64,
    log: &mut Recovered,
) -> Result<(), LogError> {
    if head.identity != identity {
        let file = source.path.to_owned();
        return Err(LogError::Identity { file, found: head.identity, expected: identity });
    }
    match log.segments.last() {
        None => log.view = head.before.clone(),
        Some(previous) => {
            // The head is intact, so what does not fit is missing from the segment before.
            let (before, view) = (&head.before, &log.view);
            if header.sequence != log.sequence
                || (before.purged(), before.last(), before.vote())
                    != (view.purged(), view.last(), view.vote())
            {
                let reason = "frames at its end are missing, as the next segment shows";
                return Err(LogError::damage(&previous.path, previous.end, reason));
            }
        }
    }
    log.sequence = header.sequence + 1;
    log.committed_next = log.committed_next.max(header.committed_next);
    Ok(())
}

/// What ended a segment.
#[derive(Debug)]
enum Stop {
    Zeros,
    Sealed,
    Torn(Header),
}

/// Replays a segment's frames.
fn read_frames(source: &Source<'_>, identity: u64, log: &mut Recovered) -> Result<Stop, LogError> {
    let seed = frame::seed(identity, source.segment);
    let mut scanner = Scanner::new(source, seed, log.end(), READ_BYTES);
    scanner.expect_sequence(log.sequence);
    loop {
        match scanner.next()? {
            Scanned::End => return Ok(Stop::Zeros),
            // A seal has the sequence number of the next segment's head.
            Scanned::Frame { header, .. } if header.kind == Kind::Seal => return Ok(Stop::Sealed),
            Scanned::Frame { header, offset, payload } => {
                log.sequence = header.sequence + 1;
                log.committed_next = log.committed_next.max(header.committed_next);
                log.replay(payload, offset, header.frame_bytes())
                    .map_err(|reason| LogError::damage(source.path, offset, reason))?;
            }
            Scanned::Torn(header) => {
                log.committed_next = log.committed_next.max(header.committed_next);
                return Ok(Stop::Torn(header));
            }
        }
    }
}

impl Recovered {
    fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.end)
    }

    fn replay(&mut self, payload: &[u8], offset: u64, frame_bytes: u64) -> Result<(), &'static str> {
        let mut first_index = None;
        for record in Records(payload) {
            match record? {
                Record::Entry { id, .. } => {
                    self.view.append(id)?;
                    first_index = first_index.or(Some(id.index));
                }
                Record::Vote(vote) => self.view.set_vote(vote),
                Record::Truncate(last) => {
                    self.view.truncate_after(last)?;
                    self.segments.note_truncation(self.view.next_index());
                }
                Record::Purge(upto) => self.view.purge(upto)?,
                Record::Reset(upto) => {
                    self.view.reset(upto);
                    self.segments.note_truncation(self.view.next_index());
                }
                Record::Committed(_) => return Err("a record is out of place"),
            }
        }
        self.segments.note_frame(offset, frame_bytes, first_index);
        self.last_frame = Some(Stretch { offset, bytes: frame_bytes });
        Ok(())
    }
}

/// Looks at what stands behind the log's end: nothing, or what a torn frame left.
fn check_end(
    source: &Source<'_>,
    identity: u64,
    log: &Recovered,
    stop: Stop,
) -> Result<Option<Stretch>, LogError> {
    let end = log.end();
    let torn_end = match stop {
        Stop::Sealed => {
            let dir = source.path.parent().unwrap_or(Path::new(""));
            let file = segment::path(dir, source.segment + 1);
            return Err(LogError::Missing { file, reason: "the segment before it is complete".to_owned() });
        }
        Stop::Torn(header) => Some(end + header.frame_bytes()),
        Stop::Zeros => None,
    };
    let Some(remains) = find_remains(source, identity, log.sequence, end)? else { return Ok(None) };
    let sector_end = (end / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64;
    match torn_end {
        Some(torn_end) if remains.last >= torn_end => {
            Err(LogError::damage(source.path, remains.last, "there is something behind the log's end"))
        }
        // A header is lost only together with all that the frame had in that sector.
        None if remains.first < sector_end => {
            Err(LogError::damage(source.path, end, "a frame header was overwritten with zeros"))
        }
        _ => Ok(Some(Stretch { offset: end, bytes: remains.last + 1 - end })),
    }
}

/// Makes the space behind the log's end zeros again. A crash in between leaves a torn frame, too.
fn clear(files: &dyn Files, path: &Path, leftover: Stretch) -> Result<(), LogError> {
    tracing::warn!(
        file = %path.display(),
        offset = leftover.offset,
        bytes = leftover.bytes,
        "dropped the log's last write, which a crash had cut short before it was acknowledged"
    );
    let zeros = vec![0; leftover.bytes as usize];
    let clear = || {
        let file = files.open(path, How::Write)?;
        file.write_at(&zeros, leftover.offset)?;
        file.sync_data()
    };
    clear().map_err(LogError::io("clear torn frame in log segment", path))
}

/// Makes durable what the log is going to say that it holds. A process that was killed between a write and its sync,
/// or whose sync has failed, leaves a frame that the system shows as long as the machine has power. The frame is
/// written again as it is, since after a sync that failed the system may take it for written.
fn settle(files: &dyn Files, dir: &Path, path: &Path, last_frame: Option<Stretch>) -> Result<(), LogError> {
    let settle = || {
        let file = files.open(path, How::Write)?;
        if let Some(Stretch { offset, bytes }) = last_frame {
            let mut frame = vec![0; bytes as usize];
            files.open(path, How::Read)?.read_at(&mut frame, offset)?;
            file.write_at(&frame, offset)?;
        }
        file.sync_data()
    };
    settle().map_err(LogError::io("make durable the last frame of log segment", path))?;
    files.sync_dir(dir).map_err(LogError::io("sync log directory", dir))
}

/// The first and the last byte behind the log's end that is not zero.
struct Remains {
    first: u64,
    last: u64,
}

/// Searches the rest of the file. A frame with a later sequence number there means that the log went
/// on, and that what ended it is damage.
fn find_remains(
    source: &Source<'_>,
    identity: u64,
    sequence: u64,
    end: u64,
) -> Result<Option<Remains>, LogError> {
    let seed = frame::seed(identity, source.segment);
    let mut scanner = Scanner::new(source, seed, end, READ_BYTES);
    let mut remains: Option<Remains> = None;
    let mut offset = end;
    while offset < source.file_bytes {
        // Nearly always all of it is zeros: large steps through those.
        let rest = source.file_bytes - offset;
        let step = ZEROS_BYTES.min(rest);
        if frame::is_zero(scanner.bytes(offset, step as usize)?) {
            offset += step;
            continue;
        }
        let bytes = ALIGN_BYTES.min(rest as usize);
        let block = scanner.bytes(offset, bytes)?;
        if !frame::is_zero(block) {
            if let Some(block) = block.first_chunk()
                && let HeaderRead::Valid(header) = Header::read(block, seed)
                && header.sequence > sequence
            {
                let reason = format!("a frame is missing here: a later one stands at byte {offset}");
                return Err(LogError::damage(source.path, end, reason));
            }
            let first = block.iter().position(|byte| *byte != 0).map_or(offset, |at| offset + at as u64);
            let last = block.iter().rposition(|byte| *byte != 0).map_or(offset, |at| offset + at as u64);
            remains = Some(Remains { first: remains.map_or(first, |remains| remains.first), last });
        }
        offset += bytes as u64;
    }
    Ok(remains)
}

/// Checks that nothing is missing at either end.
fn check_whole(dir: &Path, log: &Recovered) -> Result<(), LogError> {
    if let Some(first) = log.segments.first()
        && next_index(first.last_before) > log.view.first_index()
    {
        return Err(LogError::Missing {
            file: segment::path(dir, first.number.saturating_sub(1)),
            reason: format!("entries from {} on are not purged", log.view.first_index()),
        });
    }
    if log.committed_next > log.view.next_index()
        && let Some(last) = log.segments.last()
    {
        let reason = format!("entry {} was committed, but the log ends before it", log.committed_next - 1);
        return Err(LogError::damage(&last.path, last.end, reason));
    }
    Ok(())
}

/// A spare is remade by the running log: a crash may have left it unfinished.
fn remove_spare(files: &dyn Files, dir: &Path) -> Result<(), LogError> {
    let path = dir.join(SPARE);
    match files.remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(LogError::io("remove unfinished log segment", &path)(e))
        }
        _ => Ok(()),
    }
}
