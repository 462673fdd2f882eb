//! Reads a segment's frames one after the other, through one buffer.

use std::path::Path;

use super::error::LogError;
use super::frame::{HEADER_BYTES, Header, HeaderRead, Kind, PayloadRead};
use crate::files::File;

/// Walks the frames of one segment. Every frame is checked in full before it is handed out.
pub(super) struct Scanner<'a> {
    file: &'a dyn File,
    path: &'a Path,
    /// Bytes of the file.
    file_bytes: u64,
    segment: u64,
    seed: u32,
    /// The sequence number that the next frame must have, once it is known.
    sequence: Option<u64>,
    /// Where the next frame is looked for.
    offset: u64,
    /// A part of the file, from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
    /// At least so much is read at once: large for recovery, small where a few entries are wanted.
    read_bytes: usize,
}

/// What a scanner found.
pub(super) enum Scanned<'a> {
    /// A whole frame and its payload.
    Frame { header: Header, offset: u64, payload: &'a [u8] },
    /// Zeros, or the end of the file.
    End,
    /// A frame that did not reach the disk whole.
    Torn(Header),
}

/// The file that a scanner reads.
pub(super) struct Source<'a> {
    pub(super) file: &'a dyn File,
    pub(super) path: &'a Path,
    pub(super) file_bytes: u64,
    pub(super) segment: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &Source<'a>, seed: u32, offset: u64, read_bytes: usize) -> Scanner<'a> {
        Scanner {
            file: source.file,
            path: source.path,
            file_bytes: source.file_bytes,
            segment: source.segment,
            seed,
            sequence: None,
            offset,
            buffer: Vec::new(),
            buffer_at: 0,
            read_bytes,
        }
    }

    /// Demands that the next frame has this sequence number.
    pub(super) fn expect_sequence(&mut self, sequence: u64) {
        self.sequence = Some(sequence);
    }

    /// Where the next frame is looked for.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next frame. Whatever is neither a frame, nor zeros, nor torn, is damage.
    pub(super) fn next(&mut self) -> Result<Scanned<'_>, LogError> {
        let offset = self.offset;
        if offset + HEADER_BYTES as u64 > self.file_bytes {
            return Ok(Scanned::End);
        }
        let seed = self.seed;
        let bytes = self.bytes(offset, HEADER_BYTES)?.first_chunk().expect("a header's bytes were asked for");
        let header = match Header::read(bytes, seed) {
            HeaderRead::Zero => return Ok(Scanned::End),
            HeaderRead::Valid(header) => header,
            HeaderRead::Invalid(reason) => return Err(self.damage(offset, reason)),
            HeaderRead::Newer(found) => {
                return Err(LogError::Newer { file: self.path.to_owned(), found });
            }
        };
        self.check_place(&header, offset)?;
        let payload_bytes = header.frame_bytes() as usize - HEADER_BYTES;
        let payload_at = offset + HEADER_BYTES as u64;
        match header.check(self.bytes(payload_at, payload_bytes)?, offset) {
            PayloadRead::Valid => {}
            PayloadRead::Torn => return Ok(Scanned::Torn(header)),
            PayloadRead::Damaged => {
                return Err(self.damage(offset, "the checksum of the frame's payload is wrong"));
            }
        }
        self.offset = offset + header.frame_bytes();
        self.sequence = Some(header.sequence + 1);
        let payload = &self.bytes(payload_at, payload_bytes)?[..header.payload_bytes as usize];
        Ok(Scanned::Frame { header, offset, payload })
    }

    fn check_place(&self, header: &Header, offset: u64) -> Result<(), LogError> {
        let reason = if header.segment != self.segment {
            "the frame belongs to another segment"
        } else if self.sequence.is_some_and(|sequence| sequence != header.sequence) {
            "the frame is out of sequence"
        } else if offset + header.frame_bytes() > self.file_bytes {
            "the frame reaches beyond the end of the file"
        } else if (header.kind == Kind::Segment) != (offset == 0) {
            "the frame is out of place"
        } else {
            return Ok(());
        };
        Err(self.damage(offset, reason))
    }

    fn damage(&self, offset: u64, reason: &str) -> LogError {
        LogError::damage(self.path, offset, reason)
    }

    /// The file's bytes at a place, through the buffer.
    pub(super) fn bytes(&mut self, offset: u64, bytes: usize) -> Result<&[u8], LogError> {
        let held = self.buffer_at..=self.buffer_at + self.buffer.len() as u64;
        if !held.contains(&offset) || !held.contains(&(offset + bytes as u64)) {
            let available = self.file_bytes.saturating_sub(offset);
            let wanted = (bytes.max(self.read_bytes) as u64).min(available).max(bytes as u64);
            self.buffer.resize(wanted as usize, 0);
            self.buffer_at = offset;
            self.file
                .read_at(&mut self.buffer, offset)
                .map_err(LogError::io("read log segment", self.path))?;
        }
        let at = (offset - self.buffer_at) as usize;
        Ok(&self.buffer[at..at + bytes])
    }
}
