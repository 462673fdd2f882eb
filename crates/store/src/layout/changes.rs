//! `changes`: which keys each revision changed, for watches that resume and for compaction.
//!
//! The key is the revision and the change's number within it, the value kind, previous mod revision, length
//! of the previous value, and the user key.

use super::codec::{FORMAT, Malformed, body, put_varint, take_varint};

/// The column family's name.
pub(crate) const CHANGES: &str = "changes";

/// Kinds of changes as they stand on disk: the numbers must stay.
const CHANGE_PUT: u8 = 0;
const CHANGE_DELETE: u8 = 1;

/// What a change did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Put,
    Delete,
}

/// One key that a revision changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) kind: ChangeKind,
    /// The mod revision of the record that was overwritten or deleted; 0: there was none.
    pub(crate) previous_revision: u64,
    /// The length of the value in that record's row of `history`, so that compaction can account for it
    /// unread; 0 where the row shares its value.
    pub(crate) previous_value_bytes: u64,
    pub(crate) key: &'a [u8],
}

impl<'a> Change<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(FORMAT);
        out.push(match self.kind {
            ChangeKind::Put => CHANGE_PUT,
            ChangeKind::Delete => CHANGE_DELETE,
        });
        put_varint(out, self.previous_revision);
        put_varint(out, self.previous_value_bytes);
        out.extend_from_slice(self.key);
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = body(row)?.split_first().ok_or(Malformed)?;
        let kind = match *kind {
            CHANGE_PUT => ChangeKind::Put,
            CHANGE_DELETE => ChangeKind::Delete,
            _ => return Err(Malformed),
        };
        let previous_revision = take_varint(&mut rest)?;
        let previous_value_bytes = take_varint(&mut rest)?;
        Ok(Change { kind, previous_revision, previous_value_bytes, key: rest })
    }
}

/// The key of `changes`: the revision, and the change's number within it.
pub(crate) fn change_key(revision: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn decode_change_key(row: &[u8]) -> Result<(u64, u32), Malformed> {
    let (revision, number) = row.split_first_chunk::<8>().ok_or(Malformed)?;
    let number = number.try_into().map_err(|_| Malformed)?;
    Ok((u64::from_be_bytes(*revision), u32::from_be_bytes(number)))
}
