//! Records, the contents of frames.
//!
//! Each begins with the same 24 bytes, little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 1 | kind, see the `KIND_` constants |
//! | 1 | 1 | flag: whether the optional part is there, or a vote is committed |
//! | 2 | 2 | zero |
//! | 4 | 4 | bytes of the entry's payload behind the record, else 0 |
//! | 8 | 8 | term |
//! | 16 | 8 | index, or the vote's node id |

use super::state::Vote;
use crate::entry::{Entry, LogId};

/// Bytes of a record without an entry's payload.
pub(super) const RECORD_BYTES: usize = 24;

// The numbers are on disk and must stay. None is 0, so that no record begins with zeros.
const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_RESET: u8 = 5;
const KIND_COMMITTED: u8 = 6;

/// One change of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The entry after the last one.
    Entry { id: LogId, payload: &'a [u8] },
    /// The vote from here on.
    Vote(Vote),
    /// Everything after this entry is gone; `None`: the log is empty. At the head of a segment: the
    /// last entry before it.
    Truncate(Option<LogId>),
    /// Everything up to this entry is gone.
    Purge(LogId),
    /// The log is empty, and goes on after this entry.
    Reset(LogId),
    /// Entries up to this one are known to be committed; only at the head of a segment.
    Committed(LogId),
}

/// Appends an entry's record, the hot path of encoding.
pub(super) fn put_entry(buffer: &mut Vec<u8>, entry: &Entry) {
    put_fixed(buffer, KIND_ENTRY, 0, entry.payload.len() as u32, entry.log_id.term, entry.log_id.index);
    buffer.extend_from_slice(&entry.payload);
}

/// Appends a record.
pub(super) fn put(buffer: &mut Vec<u8>, record: Record<'_>) {
    match record {
        Record::Entry { id, payload } => {
            put_fixed(buffer, KIND_ENTRY, 0, payload.len() as u32, id.term, id.index);
            buffer.extend_from_slice(payload);
        }
        Record::Vote(vote) => put_fixed(buffer, KIND_VOTE, vote.committed.into(), 0, vote.term, vote.node_id),
        Record::Truncate(None) => put_fixed(buffer, KIND_TRUNCATE, 0, 0, 0, 0),
        Record::Truncate(Some(id)) => put_fixed(buffer, KIND_TRUNCATE, 1, 0, id.term, id.index),
        Record::Purge(id) => put_fixed(buffer, KIND_PURGE, 0, 0, id.term, id.index),
        Record::Reset(id) => put_fixed(buffer, KIND_RESET, 0, 0, id.term, id.index),
        Record::Committed(id) => put_fixed(buffer, KIND_COMMITTED, 0, 0, id.term, id.index),
    }
}

fn put_fixed(buffer: &mut Vec<u8>, kind: u8, flag: u8, payload_bytes: u32, term: u64, index: u64) {
    let mut fixed = [0; RECORD_BYTES];
    fixed[0] = kind;
    fixed[1] = flag;
    fixed[4..8].copy_from_slice(&payload_bytes.to_le_bytes());
    fixed[8..16].copy_from_slice(&term.to_le_bytes());
    fixed[16..24].copy_from_slice(&index.to_le_bytes());
    buffer.extend_from_slice(&fixed);
}

/// Walks the records of a frame's payload. It ends after the first error.
pub(super) struct Records<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let result = take(&mut self.0);
        if result.is_err() {
            self.0 = &[];
        }
        Some(result)
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<Record<'a>, &'static str> {
    let (fixed, rest) = bytes.split_first_chunk::<RECORD_BYTES>().ok_or("a record is cut short")?;
    let payload_bytes = u32::from_le_bytes(array(&fixed[4..8])) as usize;
    let (payload, rest) = rest.split_at_checked(payload_bytes).ok_or("an entry is cut short")?;
    *bytes = rest;
    let id = LogId { term: u64_at(fixed, 8), index: u64_at(fixed, 16) };
    match (fixed[0], fixed[1]) {
        (KIND_ENTRY, 0) => Ok(Record::Entry { id, payload }),
        (KIND_VOTE, flag @ 0..=1) => {
            Ok(Record::Vote(Vote { term: id.term, node_id: id.index, committed: flag == 1 }))
        }
        (KIND_TRUNCATE, 0) => Ok(Record::Truncate(None)),
        (KIND_TRUNCATE, 1) => Ok(Record::Truncate(Some(id))),
        (KIND_PURGE, 0) => Ok(Record::Purge(id)),
        (KIND_RESET, 0) => Ok(Record::Reset(id)),
        (KIND_COMMITTED, 0) => Ok(Record::Committed(id)),
        _ => Err("a record is of an unknown kind"),
    }
}

/// The little-endian number at a place that is known to be inside.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..at + 8]))
}

/// The little-endian number at a place that is known to be inside.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(&bytes[at..at + 4]))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written is read, and every cut is noticed. Method: all kinds in one buffer,
    /// read back whole and at each shorter length.
    #[test]
    fn records_survive_encoding_and_cuts_are_refused() {
        let id = LogId { term: 3, index: 9 };
        let records = [
            Record::Entry { id, payload: b"payload" },
            Record::Vote(Vote { term: 4, node_id: 5, committed: true }),
            Record::Truncate(None),
            Record::Truncate(Some(id)),
            Record::Purge(id),
            Record::Reset(id),
            Record::Committed(id),
        ];
        let mut buffer = Vec::new();
        let mut ends = vec![0];
        for record in records {
            put(&mut buffer, record);
            ends.push(buffer.len());
        }
        assert_eq!(Records(&buffer).collect::<Result<Vec<_>, _>>(), Ok(records.to_vec()));
        for cut in 0..buffer.len() {
            let read: Result<Vec<_>, _> = Records(&buffer[..cut]).collect();
            assert_eq!(read.is_ok(), ends.contains(&cut), "cut at {cut}");
        }
        assert!(Records(&[0; RECORD_BYTES]).next().is_some_and(|record| record.is_err()));
    }
}
