//! What rows of all column families are made of: a format byte, varints, fixed numbers.

use crate::entry::LogId;

/// The format of all values but the head that this release writes and reads.
pub(crate) const FORMAT: u8 = 1;

/// Bytes that are no record of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A row without its format byte.
pub(super) fn body(row: &[u8]) -> Result<&[u8], Malformed> {
    match row.split_first() {
        Some((&FORMAT, rest)) => Ok(rest),
        _ => Err(Malformed),
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn take_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed)?;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

pub(super) fn take_fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (fixed, after) = rest.split_first_chunk::<N>().ok_or(Malformed)?;
    *rest = after;
    Ok(*fixed)
}

pub(super) fn take_u64(rest: &mut &[u8]) -> Result<u64, Malformed> {
    take_fixed(rest).map(u64::from_le_bytes)
}

pub(super) fn take_log_id(rest: &mut &[u8]) -> Result<LogId, Malformed> {
    Ok(LogId { term: take_u64(rest)?, index: take_u64(rest)? })
}
