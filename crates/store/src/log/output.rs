//! Writes frames past the page cache, where the file system lets us.
//!
//! A frame is synced as soon as it is written, and the tail that readers want is in our own cache.
//! So the page cache is of no use, and going through it costs about as much processor time as all
//! the rest of a write. Direct writes take whole blocks at aligned addresses: the block in which
//! the frame begins is written again with what it holds already, the last one is filled up with
//! zeros, which are there already.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{File, Files, How};

/// The unit of direct writes: the largest block that file systems on Linux commonly ask for. Files
/// of segments are as long as a multiple of it.
pub(super) const BLOCK_BYTES: usize = 4096;

/// A block buffer larger than this is given back after the write that needed it.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;

/// A segment's file, to be appended to.
pub(super) struct Output {
    files: Arc<dyn Files>,
    path: PathBuf,
    file: Arc<dyn File>,
    mode: Mode,
    /// Room for an aligned stretch of whole blocks.
    buffer: Vec<u8>,
    /// What stands between the last block boundary and the end of the frames.
    tail: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Direct,
    /// For file systems without direct writes.
    Buffered,
}

impl Output {
    /// Opens a segment whose frames end at `end`.
    pub(super) fn open(files: &Arc<dyn Files>, path: &Path, end: u64) -> io::Result<Output> {
        let block = end / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let mut tail = vec![0; (end - block) as usize];
        files.open(path, How::Read)?.read_at(&mut tail, block)?;
        let (file, mode) = match files.open(path, How::WriteDirect) {
            Ok(file) => (file, Mode::Direct),
            Err(error) if refused(&error) => (files.open(path, How::Write)?, Mode::Buffered),
            Err(error) => return Err(error),
        };
        Ok(Output { files: files.clone(), path: path.to_owned(), file, mode, buffer: Vec::new(), tail })
    }

    /// Writes a frame at the end of the frames.
    pub(super) fn write(&mut self, frame: &[u8], offset: u64) -> io::Result<()> {
        if self.mode == Mode::Direct {
            match self.write_blocks(frame, offset) {
                // Some file systems take the flag and refuse the write. Nothing is written then.
                Err(error) if refused(&error) => {
                    self.file = self.files.open(&self.path, How::Write)?;
                    self.mode = Mode::Buffered;
                }
                result => return result,
            }
        }
        self.file.write_at(frame, offset)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_blocks(&mut self, frame: &[u8], offset: u64) -> io::Result<()> {
        let before = self.tail.len();
        assert_eq!(offset % BLOCK_BYTES as u64, before as u64, "frames are written one behind the other");
        let used = before + frame.len();
        let bytes = used.next_multiple_of(BLOCK_BYTES);
        self.buffer.resize(bytes + BLOCK_BYTES, 0);
        let start = self.buffer.as_ptr().align_offset(BLOCK_BYTES);
        let blocks = &mut self.buffer[start..start + bytes];
        blocks[..before].copy_from_slice(&self.tail);
        blocks[before..used].copy_from_slice(frame);
        blocks[used..].fill(0);
        self.file.write_at(blocks, offset - before as u64)?;
        self.tail.clear();
        self.tail.extend_from_slice(&blocks[used / BLOCK_BYTES * BLOCK_BYTES..used]);
        if self.buffer.len() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

/// Whether the file system cannot do direct writes, or not like this.
fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    /// Goal: frames stand where they belong and nothing else changes, in both ways of writing, also
    /// when the file is opened anew in between. Method: frames of odd sizes beside a plain buffer.
    #[test]
    fn frames_stand_one_behind_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let files = Machine::system().files;
        for mode in [Mode::Direct, Mode::Buffered] {
            let path = dir.path().join(format!("{mode:?}"));
            let mut expected = vec![0; 16 * BLOCK_BYTES];
            std::fs::write(&path, &expected).unwrap();
            let mut offset = 0;
            for (round, blocks) in [1, 3, 70, 60, 64, 2, 200, 1, 1].into_iter().enumerate() {
                let mut output = Output::open(&files, &path, offset as u64).unwrap();
                if mode == Mode::Buffered {
                    (output.file, output.mode) = (files.open(&path, How::Write).unwrap(), mode);
                }
                for frame in [vec![round as u8 + 1; blocks * 64], vec![0xff; 64]] {
                    output.write(&frame, offset as u64).unwrap();
                    output.sync().unwrap();
                    expected[offset..offset + frame.len()].copy_from_slice(&frame);
                    offset += frame.len();
                    assert_eq!(std::fs::read(&path).unwrap(), expected);
                }
            }
        }
    }
}
