//! CURRENT and MANIFEST, checked before RocksDB reads them.
//!
//! The MANIFEST says which table files make up the database. It is a log: blocks of 32 KiB, in them
//! records of `[CRC-32C, masked: u32 LE][length: u16 LE][type: u8][payload]`; the checksum covers
//! type and payload. RocksDB takes a record whose length leads beyond the end of the file for one
//! that a crash cut short, and goes on without it and all that follow. But a flipped bit in a length
//! looks the same, and what it would hide is every table file since. The two can be told apart: of a
//! record that was written whole, some length gives the right checksum.

use std::fs;
use std::path::Path;

use crate::error::StoreError;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// RocksDB adds this to the rotated checksum, so that a log within a log does not look like one.
const CRC_MASK_DELTA: u32 = 0xa282_ead8;

/// Checks CURRENT and the MANIFEST that it names.
pub(crate) fn check(state: &Path) -> Result<(), StoreError> {
    let current = state.join("CURRENT");
    let damage = |file: &Path, detail: String| StoreError::Damage { file: file.to_owned(), detail };
    let content = read(&current)?;
    let name = std::str::from_utf8(&content).ok().and_then(|content| content.strip_suffix('\n'));
    let number = name.and_then(|name| name.strip_prefix("MANIFEST-"));
    let (Some(name), Some(_)) = (name, number.filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()))) else {
        return Err(damage(&current, "it does not name a MANIFEST".to_owned()));
    };
    let manifest = state.join(name);
    if !manifest.exists() {
        return Err(damage(&current, format!("it names {name}, which is missing")));
    }
    match first_damage(&read(&manifest)?) {
        None => Ok(()),
        Some(offset) => Err(damage(&manifest, format!("the record at offset {offset} is not as written"))),
    }
}

/// Both files are small: the MANIFEST is begun anew when it has grown to a few MiB.
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            StoreError::Damage { file: path.to_owned(), detail: "it is missing".to_owned() }
        }
        _ => StoreError::Io { context: "read", path: path.to_owned(), source },
    })
}

/// The offset of the first record that is neither whole nor cut short at the end.
fn first_damage(log: &[u8]) -> Option<usize> {
    if log.is_empty() {
        return Some(0);
    }
    let blocks = log.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES));
    blocks.into_iter().find_map(|(block, start)| first_damage_in(block).map(|at| start + at))
}

fn first_damage_in(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Fewer bytes than a header at a block's end are filling, and at the file's end a header cut short.
    while let Some((header, rest)) = block[at..].split_first_chunk::<HEADER_BYTES>() {
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let crc = unmasked(u32::from_le_bytes([c0, c1, c2, c3]));
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let crc_of = |payload: &[u8]| crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        match rest.get(..length) {
            Some(payload) if crc_of(payload) == crc => at += HEADER_BYTES + length,
            Some(_) => {
                // Zeros to the end are space that was reserved and never written.
                let is_unwritten = block[at..].iter().all(|byte| *byte == 0);
                return (!is_unwritten).then_some(at);
            }
            None => {
                let is_full_block = block.len() == BLOCK_BYTES;
                let mut crc_so_far = crc32c::crc32c(&[kind]);
                let is_whole = crc_so_far == crc
                    || rest.iter().any(|byte| {
                        crc_so_far = crc32c::crc32c_append(crc_so_far, &[*byte]);
                        crc_so_far == crc
                    });
                return (is_full_block || is_whole).then_some(at);
            }
        }
    }
    None
}

fn unmasked(crc: u32) -> u32 {
    crc.wrapping_sub(CRC_MASK_DELTA).rotate_right(17)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[1]), payload);
        let masked = crc.rotate_left(17).wrapping_add(CRC_MASK_DELTA);
        let mut record = masked.to_le_bytes().to_vec();
        record.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        record.push(1);
        record.extend_from_slice(payload);
        record
    }

    /// Goal: any flipped bit is damage, any cut of the last record is not. Method: all of them.
    #[test]
    fn flips_are_told_from_cuts() {
        let (first, last) = (record(b"first record"), record(b"the last record"));
        let log = [&first[..], &last[..]].concat();
        assert_eq!(first_damage(&log), None);
        for cut in first.len()..log.len() {
            assert_eq!(first_damage(&log[..cut]), None, "cut at {cut}");
        }
        for bit in 0..log.len() * 8 {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let record = if bit / 8 < first.len() { 0 } else { first.len() };
            assert_eq!(first_damage(&flipped), Some(record), "bit {bit}");
        }
        let reserved = [&log[..], &[0; 100]].concat();
        assert_eq!(first_damage(&reserved), None);
    }
}
