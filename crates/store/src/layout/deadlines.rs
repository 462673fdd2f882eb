//! `deadlines`: the records that expire, in the order in which they do.
//!
//! The key is deadline and user key, the value the mod revision of the record.

use super::codec::{FORMAT, Malformed, body, put_varint, take_varint};

/// The column family's name.
pub(crate) const DEADLINES: &str = "deadlines";

/// Writes the key of `deadlines` over what `out` held.
pub(crate) fn deadline_key(deadline_ms: u64, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&deadline_ms.to_be_bytes());
    out.extend_from_slice(key);
}

pub(crate) fn decode_deadline_key(row: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (deadline_ms, key) = row.split_first_chunk::<8>().ok_or(Malformed)?;
    Ok((u64::from_be_bytes(*deadline_ms), key))
}

/// Writes a value of `deadlines` over what `out` held.
pub(crate) fn encode_deadline(mod_revision: u64, out: &mut Vec<u8>) {
    out.clear();
    out.push(FORMAT);
    put_varint(out, mod_revision);
}

pub(crate) fn decode_deadline(row: &[u8]) -> Result<u64, Malformed> {
    let mut rest = body(row)?;
    let mod_revision = take_varint(&mut rest)?;
    if rest.is_empty() { Ok(mod_revision) } else { Err(Malformed) }
}
