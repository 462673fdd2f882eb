//! Reading a checkpoint as a sequence of chunks.

use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint::Checkpoint;
use super::chunk::{Begin, Chunk, ManifestCrc, SNAPSHOT_FORMAT};
use crate::error::StoreError;
use crate::files::{File, How};

/// Reads a checkpoint chunk by chunk; after an error, it ends.
#[derive(Debug)]
pub struct SnapshotSender {
    checkpoint: Arc<Checkpoint>,
    step: Step,
    /// The file that comes next.
    next_file: usize,
    file_crc32c: Vec<u32>,
}

#[derive(Debug)]
enum Step {
    Begin,
    NextFile,
    Data { file: Arc<dyn File>, left_bytes: u64, crc32c: u32 },
    Done,
}

impl SnapshotSender {
    /// Sends this checkpoint.
    pub fn new(checkpoint: Arc<Checkpoint>) -> Self {
        SnapshotSender { checkpoint, step: Step::Begin, next_file: 0, file_crc32c: Vec::new() }
    }

    fn step(&mut self) -> Result<Option<Chunk>, StoreError> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Begin => {
                self.step = Step::NextFile;
                Ok(Some(Chunk::Begin(Begin {
                    format_version: SNAPSHOT_FORMAT,
                    applied: self.checkpoint.applied(),
                    revision: self.checkpoint.revision(),
                    total_bytes: self.checkpoint.total_bytes(),
                    files: self.checkpoint.files().len() as u32,
                    feature_level: self.checkpoint.feature_level(),
                })))
            }
            Step::NextFile => self.next_file().map(Some),
            Step::Data { file, left_bytes: 0, crc32c } => {
                drop(file);
                self.file_crc32c.push(crc32c);
                self.next_file().map(Some)
            }
            Step::Data { file, left_bytes, crc32c } => self.data(file, left_bytes, crc32c).map(Some),
            Step::Done => Ok(None),
        }
    }

    fn next_file(&mut self) -> Result<Chunk, StoreError> {
        let Some((name, size_bytes)) = self.checkpoint.files().get(self.next_file) else {
            return Ok(self.end());
        };
        let path = self.checkpoint.path().join(name);
        let file = self
            .checkpoint
            .disk()
            .open(&path, How::Read)
            .map_err(StoreError::io("open snapshot file", &path))?;
        self.step = Step::Data { file, left_bytes: *size_bytes, crc32c: 0 };
        self.next_file += 1;
        Ok(Chunk::File { name: name.clone(), size_bytes: *size_bytes })
    }

    fn data(&mut self, file: Arc<dyn File>, left_bytes: u64, crc32c: u32) -> Result<Chunk, StoreError> {
        let (name, size_bytes) = &self.checkpoint.files()[self.next_file - 1];
        assert!(left_bytes <= *size_bytes, "no more is sent of a file than was announced");
        let mut data = vec![0; left_bytes.min(self.checkpoint.chunk_bytes() as u64) as usize];
        file.read_at(&mut data, size_bytes - left_bytes)
            .map_err(StoreError::io("read snapshot file", &self.checkpoint.path().join(name)))?;
        let crc32c = crc32c::crc32c_append(crc32c, &data);
        self.step = Step::Data { file, left_bytes: left_bytes - data.len() as u64, crc32c };
        Ok(Chunk::Data(Bytes::from(data)))
    }

    fn end(&self) -> Chunk {
        let mut crc = ManifestCrc::default();
        for ((name, size_bytes), crc32c) in self.checkpoint.files().iter().zip(&self.file_crc32c) {
            crc.file(name, *size_bytes, *crc32c);
        }
        Chunk::End { file_crc32c: self.file_crc32c.clone(), crc32c: crc.0 }
    }
}

impl Iterator for SnapshotSender {
    type Item = Result<Chunk, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
