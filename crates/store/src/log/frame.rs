//! Frames: what one write puts on the disk, and how a torn one is told from a damaged one.
//!
//! A frame is a header of 64 bytes and a payload, zero-padded so that the next frame begins at a
//! multiple of 64. All numbers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KvLf` |
//! | 4 | 1 | format version |
//! | 5 | 1 | kind, see [`Kind`] |
//! | 6 | 2 | zero |
//! | 8 | 8 | sequence number, one more than the frame's before it |
//! | 16 | 8 | number of the segment |
//! | 24 | 8 | entries below this index are known to be committed |
//! | 32 | 4 | bytes of the payload, without its padding |
//! | 36 | 4 | sectors in which the padded payload is all zeros |
//! | 40 | 4 | CRC-32C of the padded payload |
//! | 44 | 16 | zero |
//! | 60 | 4 | CRC-32C of the bytes before, seeded with the disk's identity and the segment |
//!
//! A frame is written into zeros, once, and only after the frame before it is synced. Power loss
//! keeps or loses each sector of an unsynced write as a whole, so what is left of a torn frame is
//! its own sectors among zeros. A header lies within one sector: it is there or it is zero. Where
//! the header is there, more sectors of zeros than it counts mean that the write was torn, and a
//! payload that is wrong without them means that bytes were changed later.

use super::record::{u32_at, u64_at};

/// The newest format this build writes, and the only one it reads.
pub(super) const FORMAT_VERSION: u8 = 1;
/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 64;
/// Frames begin at multiples of this: a divisor of the sector, so that no header straddles two.
pub(super) const ALIGN_BYTES: usize = 64;
/// What a disk writes wholly or not at all; 512 is the least any disk has.
pub(super) const SECTOR_BYTES: usize = 512;

const MAGIC: [u8; 4] = *b"KvLf";

/// What a frame is for. The numbers are on disk and must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first frame of a segment: what the segment is, and the log's state before it.
    Segment = 1,
    /// Records.
    Records = 2,
    /// The end of a segment, without payload: the next segment exists.
    Seal = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) segment: u64,
    /// Entries below this index are known to be committed.
    pub(super) committed_next: u64,
    pub(super) payload_bytes: u32,
    pub(super) zero_sectors: u32,
    pub(super) payload_crc: u32,
}

/// What stands where a header is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    /// Nothing was ever written here, or it did not reach the disk.
    Zero,
    /// A header.
    Valid(Header),
    /// Neither; why.
    Invalid(&'static str),
    /// A header of a newer format.
    Newer(u8),
}

/// How a payload compares with its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PayloadRead {
    /// As written.
    Valid,
    /// Sectors of it never reached the disk.
    Torn,
    /// It was changed after it was written.
    Damaged,
}

/// The seed of header checksums: a frame of another disk, or at its place in another segment, is no
/// frame here.
pub(super) fn seed(identity: u64, segment: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&identity.to_le_bytes()), &segment.to_le_bytes())
}

/// The payload's bytes with padding.
pub(super) fn padded(payload_bytes: usize) -> usize {
    payload_bytes.next_multiple_of(ALIGN_BYTES)
}

/// Makes a buffer ready for a frame's payload, which the caller appends.
pub(super) fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

/// What the writer knows of a frame before its payload is summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) segment: u64,
    pub(super) committed_next: u64,
    /// Where in the segment's file the frame will stand.
    pub(super) offset: u64,
}

/// Pads the payload behind [`begin`]'s header and fills in the header.
pub(super) fn finish(buffer: &mut Vec<u8>, place: Place, seed: u32) {
    assert!(place.offset.is_multiple_of(ALIGN_BYTES as u64), "no header straddles two sectors");
    let payload_bytes = buffer.len() - HEADER_BYTES;
    buffer.resize(HEADER_BYTES + padded(payload_bytes), 0);
    let payload = &buffer[HEADER_BYTES..];
    let header = Header {
        kind: place.kind,
        sequence: place.sequence,
        segment: place.segment,
        committed_next: place.committed_next,
        payload_bytes: u32::try_from(payload_bytes).expect("the writer bounds frames far below 4 GiB"),
        zero_sectors: zero_sectors(payload, place.offset + HEADER_BYTES as u64),
        payload_crc: crc32c::crc32c(payload),
    };
    let encoded = header.encode(seed);
    buffer[..HEADER_BYTES].copy_from_slice(&encoded);
}

impl Header {
    fn encode(&self, seed: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = FORMAT_VERSION;
        out[5] = self.kind as u8;
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.committed_next.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[36..40].copy_from_slice(&self.zero_sectors.to_le_bytes());
        out[40..44].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what stands where a header is expected.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES], seed: u32) -> HeaderRead {
        if is_zero(bytes) {
            return HeaderRead::Zero;
        }
        if bytes[..4] != MAGIC {
            return HeaderRead::Invalid("this is no frame header");
        }
        if crc32c::crc32c_append(seed, &bytes[..60]) != u32_at(bytes, 60) {
            return HeaderRead::Invalid("the checksum of the frame header is wrong");
        }
        if bytes[4] != FORMAT_VERSION {
            return HeaderRead::Newer(bytes[4]);
        }
        let kind = match bytes[5] {
            1 => Kind::Segment,
            2 => Kind::Records,
            3 => Kind::Seal,
            _ => return HeaderRead::Invalid("the frame is of an unknown kind"),
        };
        HeaderRead::Valid(Header {
            kind,
            sequence: u64_at(bytes, 8),
            segment: u64_at(bytes, 16),
            committed_next: u64_at(bytes, 24),
            payload_bytes: u32_at(bytes, 32),
            zero_sectors: u32_at(bytes, 36),
            payload_crc: u32_at(bytes, 40),
        })
    }

    /// Bytes of the whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + padded(self.payload_bytes as usize)) as u64
    }

    /// Compares the padded payload of the frame at `offset` with its header.
    pub(super) fn check(&self, payload: &[u8], offset: u64) -> PayloadRead {
        if crc32c::crc32c(payload) == self.payload_crc {
            PayloadRead::Valid
        } else if zero_sectors(payload, offset + HEADER_BYTES as u64) > self.zero_sectors {
            PayloadRead::Torn
        } else {
            PayloadRead::Damaged
        }
    }
}

/// In how many sectors of the file the payload is all zeros. It shares its first sector with what
/// stands before it, which does not count.
fn zero_sectors(mut payload: &[u8], offset: u64) -> u32 {
    let mut bytes = SECTOR_BYTES - (offset % SECTOR_BYTES as u64) as usize;
    let mut count = 0;
    while !payload.is_empty() {
        let (sector, rest) = payload.split_at(bytes.min(payload.len()));
        count += u32::from(is_zero(sector));
        payload = rest;
        bytes = SECTOR_BYTES;
    }
    count
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], offset: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        begin(&mut buffer);
        buffer.extend_from_slice(payload);
        let place = Place { kind: Kind::Records, sequence: 7, segment: 3, committed_next: 5, offset };
        finish(&mut buffer, place, seed(1, 3));
        buffer
    }

    fn read(frame: &[u8]) -> HeaderRead {
        Header::read(frame.first_chunk().unwrap(), seed(1, 3))
    }

    /// Goal: a header is only what was written for this disk and segment. Method: each single byte
    /// changed, and other seeds.
    #[test]
    fn a_changed_header_is_refused() {
        let good = frame(b"abc", 64);
        let HeaderRead::Valid(header) = read(&good) else { panic!("not read") };
        assert_eq!((header.sequence, header.committed_next, header.frame_bytes()), (7, 5, 128));
        for at in 0..HEADER_BYTES {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(matches!(read(&bad), HeaderRead::Invalid(_)), "byte {at}");
        }
        for other in [seed(2, 3), seed(1, 4)] {
            assert!(matches!(Header::read(good.first_chunk().unwrap(), other), HeaderRead::Invalid(_)));
        }
        assert_eq!(read(&[0; HEADER_BYTES]), HeaderRead::Zero);
    }

    /// Goal: lost sectors are torn, changed bytes are damage, sectors of zeros are neither. Method:
    /// a payload with sectors of zeros in it, at every alignment.
    #[test]
    fn torn_and_damaged_payloads_are_told_apart() {
        let mut payload = vec![7; 5000];
        payload[1000..3000].fill(0);
        for offset in (0..1024).step_by(ALIGN_BYTES) {
            let good = frame(&payload, offset);
            let HeaderRead::Valid(header) = read(&good) else { panic!("not read") };
            let start = offset + HEADER_BYTES as u64;
            assert_eq!(header.check(&good[HEADER_BYTES..], offset), PayloadRead::Valid);
            for at in 0..good.len() - HEADER_BYTES {
                let mut bad = good[HEADER_BYTES..].to_vec();
                bad[at] ^= 1;
                assert_eq!(header.check(&bad, offset), PayloadRead::Damaged, "byte {at} at {offset}");
                let file_at = start + at as u64;
                if file_at.is_multiple_of(SECTOR_BYTES as u64) {
                    let mut torn = good[HEADER_BYTES..].to_vec();
                    let end = (at + SECTOR_BYTES).min(torn.len());
                    let changed = !is_zero(&torn[at..end]);
                    torn[at..end].fill(0);
                    let expected = if changed { PayloadRead::Torn } else { PayloadRead::Valid };
                    assert_eq!(header.check(&torn, offset), expected, "sector {at} at {offset}");
                }
            }
        }
    }
}
