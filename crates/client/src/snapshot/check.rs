//! Checks a snapshot as it goes by, chunk by chunk: the order of its parts, names, sizes, checksums.

use std::collections::HashSet;

use kvorum_proto::admin::v1::snapshot_chunk::Part;
use kvorum_proto::admin::v1::{SnapshotBegin, SnapshotChunk, SnapshotEnd, SnapshotFile};

use super::{FILES_MAX, Progress};

/// The newest format of a snapshot's contents that this version can hand to a node.
const FORMAT_VERSION_MAX: u32 = 1;

/// What was seen of a snapshot so far.
#[derive(Debug, Default)]
pub(super) struct Check {
    begin: Option<SnapshotBegin>,
    names: HashSet<String>,
    current: Option<Current>,
    /// The checksum of each whole file, in order.
    file_crc32c: Vec<u32>,
    /// The checksum over names, sizes and checksums.
    crc32c: u32,
    bytes: u64,
    ended: bool,
}

#[derive(Debug)]
struct Current {
    file: SnapshotFile,
    left: u64,
    crc32c: u32,
}

impl Check {
    /// Takes the next chunk, or says what is wrong with it.
    pub(super) fn take(&mut self, chunk: &SnapshotChunk) -> Result<(), String> {
        if self.ended {
            return Err("something follows its end".to_owned());
        }
        match (&chunk.part, &self.begin) {
            (Some(Part::Begin(begin)), None) => self.take_begin(begin),
            (Some(Part::Begin(_)), Some(_)) => Err("it begins twice".to_owned()),
            (Some(_), None) => Err("its beginning is missing".to_owned()),
            (Some(Part::File(file)), Some(_)) => self.take_file(file),
            (Some(Part::Data(data)), Some(_)) => self.take_data(data),
            (Some(Part::End(end)), Some(_)) => self.take_end(end),
            (None, _) => Err("it has a part that this version does not know".to_owned()),
        }
    }

    /// Whether everything was there.
    pub(super) fn finish(&self) -> Result<(), String> {
        if self.ended { Ok(()) } else { Err("its end is missing".to_owned()) }
    }

    /// The first chunk, once it was seen.
    pub(super) fn begin(&self) -> Option<&SnapshotBegin> {
        self.begin.as_ref()
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { bytes: self.bytes, total_bytes: self.begin.as_ref().map_or(0, |begin| begin.total_bytes) }
    }

    fn take_begin(&mut self, begin: &SnapshotBegin) -> Result<(), String> {
        if begin.format_version > FORMAT_VERSION_MAX {
            return Err(format!("its format {} is newer than this version of kvorum", begin.format_version));
        }
        if begin.files > FILES_MAX {
            return Err(format!("it claims to have {} files, and {FILES_MAX} is the most", begin.files));
        }
        self.begin = Some(*begin);
        Ok(())
    }

    fn take_file(&mut self, file: &SnapshotFile) -> Result<(), String> {
        self.close_file()?;
        if !is_plain_name(&file.name) {
            return Err(format!("{:?} is no plain file name", file.name));
        }
        if !self.names.insert(file.name.clone()) {
            return Err(format!("the file {} comes twice", file.name));
        }
        if self.begin.as_ref().is_some_and(|begin| self.names.len() > begin.files as usize) {
            return Err("it has more files than it claims".to_owned());
        }
        self.current = Some(Current { file: file.clone(), left: file.size_bytes, crc32c: 0 });
        Ok(())
    }

    fn take_data(&mut self, data: &[u8]) -> Result<(), String> {
        let Some(current) = &mut self.current else { return Err("data comes before any file".to_owned()) };
        let length = data.len() as u64;
        current.left = current
            .left
            .checked_sub(length)
            .ok_or_else(|| format!("the file {} is longer than it claims", current.file.name))?;
        current.crc32c = crc32c::crc32c_append(current.crc32c, data);
        self.bytes += length;
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), String> {
        let Some(current) = self.current.take() else { return Ok(()) };
        if current.left > 0 {
            return Err(format!("the file {} lacks {} bytes", current.file.name, current.left));
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, current.file.name.as_bytes());
        // The zero byte ends the name, which has none.
        self.crc32c = crc32c::crc32c_append(self.crc32c, &[0]);
        self.crc32c = crc32c::crc32c_append(self.crc32c, &current.file.size_bytes.to_le_bytes());
        self.crc32c = crc32c::crc32c_append(self.crc32c, &current.crc32c.to_le_bytes());
        self.file_crc32c.push(current.crc32c);
        Ok(())
    }

    fn take_end(&mut self, end: &SnapshotEnd) -> Result<(), String> {
        self.close_file()?;
        let begin = self.begin.as_ref().ok_or("its beginning is missing")?;
        if self.file_crc32c.len() != begin.files as usize {
            return Err(format!("it has {} files and claims {}", self.file_crc32c.len(), begin.files));
        }
        if self.bytes != begin.total_bytes {
            return Err(format!("it has {} bytes and claims {}", self.bytes, begin.total_bytes));
        }
        if end.file_crc32c.len() != self.file_crc32c.len() {
            return Err("its end does not name as many checksums as there are files".to_owned());
        }
        if let Some(file) = self.file_crc32c.iter().zip(&end.file_crc32c).position(|(ours, its)| ours != its)
        {
            return Err(format!("the checksum of file number {} is wrong", file + 1));
        }
        if end.crc32c != self.crc32c {
            return Err("the checksum of the whole is wrong".to_owned());
        }
        self.ended = true;
        Ok(())
    }
}

/// A name that cannot lead out of the directory it is put in.
fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']) && name.len() <= 255
}

#[cfg(test)]
pub(super) mod tests {
    //! Goal: a snapshot that was altered anywhere is noticed, and one that was not is taken. Method: a
    //! small sound one, and that with each part changed.
    use super::*;

    pub(in crate::snapshot) fn sound() -> Vec<SnapshotChunk> {
        let files: [(&str, &[&[u8]]); 3] =
            [("CURRENT", &[b"MANIFEST-1\n"]), ("000007.sst", &[b"first ", b"second"]), ("empty", &[])];
        let mut parts = vec![Part::Begin(SnapshotBegin {
            format_version: 1,
            cluster_id: 7,
            applied: None,
            revision: 42,
            total_bytes: 23,
            files: 3,
            feature_level: 0,
        })];
        let (mut sums, mut whole) = (Vec::new(), 0);
        for (name, data) in files {
            let size_bytes = data.iter().map(|part| part.len() as u64).sum();
            parts.push(Part::File(SnapshotFile { name: name.to_owned(), size_bytes }));
            parts.extend(data.iter().map(|&part| Part::Data(part.into())));
            let sum = crc32c::crc32c(&data.concat());
            whole = crc32c::crc32c_append(whole, name.as_bytes());
            whole = crc32c::crc32c_append(whole, &[0]);
            whole = crc32c::crc32c_append(whole, &size_bytes.to_le_bytes());
            whole = crc32c::crc32c_append(whole, &sum.to_le_bytes());
            sums.push(sum);
        }
        parts.push(Part::End(SnapshotEnd { file_crc32c: sums, crc32c: whole }));
        parts.into_iter().map(|part| SnapshotChunk { part: Some(part) }).collect()
    }

    fn check(chunks: &[SnapshotChunk]) -> Result<(), String> {
        let mut check = Check::default();
        chunks.iter().try_for_each(|chunk| check.take(chunk))?;
        check.finish()
    }

    #[test]
    fn takes_a_sound_snapshot() {
        assert_eq!(check(&sound()), Ok(()));
    }

    #[test]
    fn notices_every_missing_and_every_doubled_chunk() {
        for i in 0..sound().len() {
            let mut chunks = sound();
            let chunk = chunks.remove(i);
            assert!(check(&chunks).is_err(), "without chunk {i}");
            chunks.insert(i, chunk.clone());
            chunks.insert(i, chunk);
            assert!(check(&chunks).is_err(), "with chunk {i} twice");
        }
    }

    #[test]
    fn refuses_names_that_lead_elsewhere() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\\b", "a\0"] {
            let mut chunks = sound();
            chunks[1].part = Some(Part::File(SnapshotFile { name: name.to_owned(), size_bytes: 11 }));
            assert!(check(&chunks).unwrap_err().contains("plain file name"), "{name:?}");
        }
    }

    #[test]
    fn notices_a_changed_byte() {
        let mut chunks = sound();
        chunks[4].part = Some(Part::Data("First ".into()));
        assert!(check(&chunks).unwrap_err().contains("checksum of file number 2"));
    }
}
