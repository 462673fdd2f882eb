//! `history`: the records that something overwrote or deleted, until compaction takes them.
//!
//! The key is the escaped user key and the inverted mod revision, so that a user key's rows lie together,
//! the newest first. The value is format byte, end revision, [`RecordHead`] and the user's value.
//!
//! A record is visible at the revisions from its mod revision up to, but not including, its end
//! revision. That is why a delete writes no tombstone: it gives the record an end.
//!
//! A change of a TTL makes a new record with the value of the old one, whose row in `history` then has
//! format byte 2 and no value: it is that of the record which ended it, the one written at its end
//! revision. So the newest of the records that share a value holds it. Compaction needs to know nothing
//! of that: it removes records in the order of their ends, and the one that holds a value ends after all
//! that share it. `current` is as it was, and a read of the present costs what it did. A read in the past
//! walks to the next newer row with a value; every so many versions
//! ([`Limits::shared_values_max`](crate::Limits::shared_values_max)) one keeps its own, which bounds the
//! walk. Were the oldest to hold the value, compaction would have to move it; were deadlines kept beside
//! the records, every read would have to look there too. What a change of a TTL still costs is one write
//! of the row in `current`, over the one before.

use super::codec::{FORMAT, Malformed, put_varint, take_varint};
use super::current::RecordHead;

/// The column family's name.
pub(crate) const HISTORY: &str = "history";

/// The format of a row of `history` without a value of its own.
const FORMAT_SHARED: u8 = 2;

/// Bytes of a revision at the end of a key of `history`.
const REVISION_BYTES: usize = 8;
/// Ends the user key in a key of `history`; a zero byte inside the key becomes `ESCAPED_ZERO`.
const KEY_END: [u8; 2] = [0, 0];
const ESCAPED_ZERO: [u8; 2] = [0, 0xff];

/// A record that something overwrote or deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Superseded<'a> {
    /// The revision that overwrote or deleted it: it is visible before this one.
    pub(crate) end_revision: u64,
    pub(crate) head: RecordHead,
    /// None: that of the record which was written at the end revision.
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Superseded<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(if self.value.is_some() { FORMAT } else { FORMAT_SHARED });
        put_varint(out, self.end_revision);
        self.head.encode_body(self.value.unwrap_or_default(), out);
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, Malformed> {
        let (format, mut rest) = row.split_first().ok_or(Malformed)?;
        let end_revision = take_varint(&mut rest)?;
        let head = RecordHead::decode_body(&mut rest)?;
        let value = match *format {
            FORMAT => Some(rest),
            FORMAT_SHARED if rest.is_empty() => None,
            _ => return Err(Malformed),
        };
        Ok(Superseded { end_revision, head, value })
    }
}

/// Writes the key of `history` over what `out` held: a user key's rows lie together, the newest first.
pub(crate) fn history_key(key: &[u8], mod_revision: u64, out: &mut Vec<u8>) {
    history_prefix(key, out);
    out.extend_from_slice(&(!mod_revision).to_be_bytes());
}

/// Writes what all rows of the user key begin with in `history`; it sorts before them, and after
/// the rows of every smaller key.
pub(crate) fn history_prefix(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    escape(key, out);
    out.extend_from_slice(&KEY_END);
}

/// Writes a key that sorts after all rows of the user key in `history`, and before those of every
/// greater one.
pub(crate) fn history_after(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    escape(key, out);
    out.extend_from_slice(&[0, 1]);
}

fn escape(key: &[u8], out: &mut Vec<u8>) {
    if !key.contains(&0) {
        out.extend_from_slice(key);
        return;
    }
    for byte in key {
        match byte {
            0 => out.extend_from_slice(&ESCAPED_ZERO),
            _ => out.push(*byte),
        }
    }
}

/// Writes the user key of a key of `history` over what `key` held, and answers the mod revision.
pub(crate) fn decode_history_key(row: &[u8], key: &mut Vec<u8>) -> Result<u64, Malformed> {
    key.clear();
    let split = row.len().checked_sub(REVISION_BYTES).ok_or(Malformed)?;
    let (mut escaped, revision) = row.split_at(split);
    escaped = escaped.strip_suffix(&KEY_END).ok_or(Malformed)?;
    while let Some(zero) = escaped.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&escaped[..=zero]);
        escaped = escaped[zero..].strip_prefix(&ESCAPED_ZERO).ok_or(Malformed)?;
    }
    key.extend_from_slice(escaped);
    Ok(!u64::from_be_bytes(revision.try_into().map_err(|_| Malformed)?))
}
