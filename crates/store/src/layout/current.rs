//! `current`: the records that exist now.
//!
//! The key is the user's, the value [`RecordHead`] and the user's value.

use bytes::Bytes;

use super::codec::{FORMAT, Malformed, body, put_varint, take_varint};
use crate::command::Record;

/// The column family's name.
pub(crate) const CURRENT: &str = "current";

/// Everything about a record but its key and value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
    /// 0: never.
    pub(crate) deadline_ms: u64,
}

impl RecordHead {
    /// Writes a value of `current` over what `out` held.
    pub(crate) fn encode(&self, value: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.push(FORMAT);
        self.encode_body(value, out);
    }

    pub(super) fn encode_body(&self, value: &[u8], out: &mut Vec<u8>) {
        put_varint(out, self.create_revision);
        put_varint(out, self.mod_revision);
        put_varint(out, self.version);
        put_varint(out, self.deadline_ms);
        out.extend_from_slice(value);
    }

    /// Reads a value of `current`: the head and the user's value.
    pub(crate) fn decode(row: &[u8]) -> Result<(RecordHead, &[u8]), Malformed> {
        let mut rest = body(row)?;
        let head = RecordHead::decode_body(&mut rest)?;
        Ok((head, rest))
    }

    pub(super) fn decode_body(rest: &mut &[u8]) -> Result<RecordHead, Malformed> {
        Ok(RecordHead {
            create_revision: take_varint(rest)?,
            mod_revision: take_varint(rest)?,
            version: take_varint(rest)?,
            deadline_ms: take_varint(rest)?,
        })
    }

    /// The record as clients and watchers get it.
    pub(crate) fn into_record(self, key: Bytes, value: Bytes) -> Record {
        Record {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            deadline_ms: self.deadline_ms,
        }
    }
}
