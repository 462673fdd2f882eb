//! What a snapshot is on its way: the chunks, and the checksum over them.

use bytes::Bytes;

use crate::entry::LogId;

/// The format of snapshots that this release writes and reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// A part of a snapshot on its way: a `Begin`, then for each file a `File` and its `Data`, then an
/// `End`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// What comes.
    Begin(Begin),
    /// A file begins.
    File {
        /// A plain file name.
        name: String,
        /// How long it is.
        size_bytes: u64,
    },
    /// The next bytes of the file.
    Data(Bytes),
    /// It was all sent.
    End {
        /// CRC-32C of each file, in order.
        file_crc32c: Vec<u32>,
        /// CRC-32C over the names, sizes and checksums, see [`ManifestCrc`].
        crc32c: u32,
    },
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begin {
    /// [`SNAPSHOT_FORMAT`] of the sender.
    pub format_version: u32,
    /// The last entry that was applied to it.
    pub applied: Option<LogId>,
    /// Its revision.
    pub revision: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
    /// How many files.
    pub files: u32,
    /// The cluster's feature level; 0: not said, which is level 1.
    pub feature_level: u32,
}

/// The checksum over all names, sizes and checksums: that no file was left out or exchanged.
#[derive(Default)]
pub(super) struct ManifestCrc(pub(super) u32);

impl ManifestCrc {
    pub(super) fn file(&mut self, name: &str, size_bytes: u64, crc32c: u32) {
        // The zero byte ends the name, which has none.
        for part in [name.as_bytes(), &[0], &size_bytes.to_le_bytes(), &crc32c.to_le_bytes()] {
            self.0 = crc32c::crc32c_append(self.0, part);
        }
    }
}
