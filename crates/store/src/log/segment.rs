//! Segments: the files of the log, and where entries are in them.
//!
//! The log is a directory of files `<number, 16 hex digits>.log`, numbered without a hole. Each is
//! filled with zeros to its full size before it gets its name and begins with a head: a frame whose
//! payload is `[identity: u64][bytes of the file: u64][zero: u64]` and then records with the log's
//! state before the segment. Frames of records follow, and in all but the newest a seal.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, HEADER_BYTES, Kind, Place};
use super::record::{self, Record, Records, u64_at};
use super::view::{View, next_index};
use crate::entry::LogId;
use crate::files::File;

/// Bytes of a head's payload before its records.
const HEAD_BYTES: usize = 24;
/// The most a head takes: its fixed part and one record of each kind, padded.
pub(super) const HEAD_FRAME_BYTES: u64 = 256;
/// Every segment keeps room for its seal.
pub(super) const SEAL_BYTES: u64 = HEADER_BYTES as u64;
/// Positions are remembered this far apart: a read decodes at most so much in vain, and a segment
/// of 64 MiB has at most 4096 marks, whatever the size of its entries.
const MARK_DISTANCE_BYTES: u64 = 16 * 1024;
/// A head's checksum must hold on a foreign disk too, so that the error can tell whose disk it is.
const HEAD_IDENTITY: u64 = 0;

/// What a segment's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) identity: u64,
    pub(super) bytes: u64,
    /// The log's bounds and vote before the segment; its terms are not known.
    pub(super) before: View,
    pub(super) committed: Option<LogId>,
}

impl Head {
    /// Encodes the head of segment `number` as a frame.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>, number: u64, sequence: u64) {
        frame::begin(buffer);
        buffer.extend_from_slice(&self.identity.to_le_bytes());
        buffer.extend_from_slice(&self.bytes.to_le_bytes());
        buffer.extend_from_slice(&[0; 8]);
        let records = [
            self.before.purged().map(Record::Purge),
            self.before.last().map(|last| Record::Truncate(Some(last))),
            self.before.vote().map(Record::Vote),
            self.committed.map(Record::Committed),
        ];
        for record in records.into_iter().flatten() {
            record::put(buffer, record);
        }
        let committed_next = next_index(self.committed);
        let place = Place { kind: Kind::Segment, sequence, segment: number, committed_next, offset: 0 };
        frame::finish(buffer, place, head_seed(number));
        assert!(buffer.len() as u64 <= HEAD_FRAME_BYTES, "a head has the room that is kept for it");
    }

    /// Reads a head's payload.
    pub(super) fn decode(payload: &[u8]) -> Result<Head, &'static str> {
        let (fixed, records) =
            payload.split_at_checked(HEAD_BYTES).ok_or("the segment's head is cut short")?;
        let (mut purged, mut last, mut vote, mut committed) = (None, None, None, None);
        for record in Records(records) {
            match record? {
                Record::Purge(id) => purged = Some(id),
                Record::Truncate(id) => last = id,
                Record::Vote(cast) => vote = Some(cast),
                Record::Committed(id) => committed = Some(id),
                Record::Entry { .. } | Record::Reset(_) => return Err("the segment's head holds entries"),
            }
        }
        let before = View::new(purged, last, vote);
        Ok(Head { identity: u64_at(fixed, 0), bytes: u64_at(fixed, 8), before, committed })
    }
}

/// The seed for the head of a segment.
pub(super) fn head_seed(number: u64) -> u32 {
    frame::seed(HEAD_IDENTITY, number)
}

/// The path of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// The number in a segment's file name, if it is one.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Bytes in use.
    pub(super) end: u64,
    /// The last entry before the segment.
    pub(super) last_before: Option<LogId>,
    /// Bytes in use of all segments before this one, since the log was opened.
    base: u64,
    /// Where entries are, ascending in index and offset.
    marks: Vec<Mark>,
}

impl Segment {
    pub(super) fn new(number: u64, path: PathBuf, file: Arc<dyn File>, head: &Head, end: u64) -> Segment {
        let last_before = head.before.last();
        Segment { number, path, file, bytes: head.bytes, end, last_before, base: 0, marks: Vec::new() }
    }
}

/// The entries from `index` to the next mark's are in frames from `offset` on, without any that
/// were truncated since.
#[derive(Clone, Copy, Debug)]
struct Mark {
    index: u64,
    offset: u64,
    /// A reader that comes from the mark before must skip to here: truncated entries are between.
    jump: bool,
}

/// A stretch of frames that holds the entries from `from` to before `to`.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) bytes: u64,
    pub(super) offset: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// All segments, oldest first. The last one is being written.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: VecDeque<Segment>,
    /// The next entries do not follow the last mark's.
    jump: bool,
}

impl Segments {
    pub(super) fn push(&mut self, mut segment: Segment) {
        let follows = self.list.back().is_none_or(|last| segment.number == last.number + 1);
        assert!(follows, "segments are numbered without a hole");
        segment.base = self.end();
        self.list.push_back(segment);
    }

    pub(super) fn first(&self) -> Option<&Segment> {
        self.list.front()
    }

    pub(super) fn last(&self) -> Option<&Segment> {
        self.list.back()
    }

    /// Bytes in use in all files.
    pub(super) fn used_bytes(&self) -> u64 {
        self.end() - self.list.front().map_or(0, |segment| segment.base)
    }

    fn end(&self) -> u64 {
        self.list.back().map_or(0, |segment| segment.base + segment.end)
    }

    /// Takes note of a frame at the end of the last segment.
    pub(super) fn note_frame(&mut self, offset: u64, frame_bytes: u64, first_index: Option<u64>) {
        let segment = self.list.back_mut().expect("a log has a segment from its opening on");
        assert_eq!(offset, segment.end, "frames stand one behind the other");
        segment.end = offset + frame_bytes;
        assert!(segment.end <= segment.bytes, "a frame lies within its segment");
        let Some(index) = first_index else { return };
        let near = segment.marks.last().is_some_and(|mark| offset - mark.offset < MARK_DISTANCE_BYTES);
        if self.jump || !near {
            segment.marks.push(Mark { index, offset, jump: self.jump });
            self.jump = false;
        }
    }

    /// Takes note that the entries from `next` on are gone.
    pub(super) fn note_truncation(&mut self, next: u64) {
        for segment in self.list.iter_mut().rev() {
            while segment.marks.last().is_some_and(|mark| mark.index >= next) {
                segment.marks.pop();
            }
            if !segment.marks.is_empty() {
                break;
            }
        }
        self.jump = true;
    }

    /// Takes the segments out whose entries are all purged, dead ones included. The newest stays.
    pub(super) fn take_purged(&mut self, purged: Option<LogId>) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        while self.list.get(1).is_some_and(|second| next_index(second.last_before) <= next_index(purged)) {
            paths.extend(self.list.pop_front().map(|segment| segment.path));
        }
        paths
    }

    /// Where the entries from `from` to before `to` are. All of them must be on disk.
    pub(super) fn pieces(&self, from: u64, to: u64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for segment in self.list.iter().skip(self.segment_of(from)) {
            // The marks up to `from` but the last are of no use.
            let skip = segment.marks.partition_point(|mark| mark.index <= from).saturating_sub(1);
            let mut continues = false;
            for mark in segment.marks.iter().skip(skip).take_while(|mark| mark.index < to) {
                if continues && !mark.jump {
                    continue;
                }
                if let Some(piece) = pieces.last_mut() {
                    piece.to = mark.index;
                }
                pieces.push(Piece {
                    number: segment.number,
                    path: segment.path.clone(),
                    file: segment.file.clone(),
                    bytes: segment.bytes,
                    offset: mark.offset,
                    from: mark.index.max(from),
                    to,
                });
                continues = true;
            }
        }
        pieces
    }

    /// About where an entry is, counted in bytes through all segments.
    pub(super) fn position(&self, index: u64) -> u64 {
        let at = self.segment_of(index);
        let Some(segment) = self.list.get(at) else { return 0 };
        let after = segment.marks.partition_point(|mark| mark.index <= index);
        match after.checked_sub(1) {
            Some(before) => segment.base + segment.marks[before].offset,
            None => segment.base,
        }
    }

    /// Where an entry after the last one would be.
    pub(super) fn end_position(&self) -> u64 {
        self.end()
    }

    /// The segment whose first mark is the last one at or before the index.
    fn segment_of(&self, index: u64) -> usize {
        let starts = |segment: &Segment| segment.marks.first().is_some_and(|mark| mark.index <= index);
        self.list.iter().rposition(starts).unwrap_or(0)
    }
}
