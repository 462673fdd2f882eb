//! Making the data directory of a new cluster of one member out of a snapshot file.
//!
//! The state's files go into `DIR/restore/`, and last of all a file [`MANIFEST`] with the snapshot's
//! first message. A node that starts with `--bootstrap single` adopts the directory if the manifest is
//! there: without it, the restore was interrupted.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvorum_proto::admin::v1::snapshot_chunk::Part;
use kvorum_proto::admin::v1::{SnapshotBegin, SnapshotChunk};
use prost::Message as _;

use super::check::Check;
use super::{CHUNK_BYTES_MAX, MAGIC, Progress, SnapshotError, sync_dir};

/// Where in a data directory the files are put.
const RESTORE_DIR: &str = "restore";
/// The file that says that all of them are there.
const MANIFEST: &str = "manifest";

/// What was restored.
///
/// See the [module](crate::snapshot) for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The revision of the store.
    pub revision: u64,
    /// The bytes of its files.
    pub bytes: u64,
}

/// Checks a snapshot file and unpacks it into a data directory that is empty or does not exist. After
/// an error the directory is as it was. It blocks while it reads and writes; `progress` is told after each chunk.
///
/// # Errors
/// [`SnapshotError`]: the file cannot be read, is no snapshot or is damaged; or the directory is not empty or
/// cannot be written.
pub fn restore(
    path: &Path,
    data_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, SnapshotError> {
    let mut reader = Reader::open(path)?;
    let mut made = Made::create(data_dir)?;
    let begin = unpack(&mut reader, &made.restore, progress)?;
    let manifest = made.restore.join(MANIFEST);
    sync_dir(&made.restore)?;
    let mut file = create(&manifest)?;
    file.write_all(&begin.encode_to_vec()).map_err(SnapshotError::io("write", &manifest))?;
    file.sync_all().map_err(SnapshotError::io("sync", &manifest))?;
    sync_dir(&made.restore)?;
    sync_dir(data_dir)?;
    sync_dir(data_dir.parent().unwrap_or(Path::new("")))?;
    made.whole = true;
    Ok(Restored { revision: begin.revision, bytes: begin.total_bytes })
}

/// Writes the files of a snapshot, each durable before the next.
fn unpack(
    reader: &mut Reader,
    into: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<SnapshotBegin, SnapshotError> {
    let mut check = Check::default();
    let mut current: Option<(File, PathBuf)> = None;
    while let Some(chunk) = reader.next()? {
        check.take(&chunk).map_err(|problem| reader.damaged(problem))?;
        match chunk.part {
            Some(Part::File(file)) if file.name == MANIFEST => {
                return Err(reader.damaged(format!("a file must not be called {MANIFEST}")));
            }
            Some(Part::File(file)) => {
                close(current.take())?;
                let path = into.join(file.name);
                current = Some((create(&path)?, path));
            }
            Some(Part::Data(data)) => {
                if let Some((file, path)) = &mut current {
                    file.write_all(&data).map_err(SnapshotError::io("write", path))?;
                }
            }
            Some(Part::Begin(_) | Part::End(_)) | None => {}
        }
        progress(check.progress());
    }
    close(current)?;
    check.finish().map_err(|problem| reader.damaged(problem))?;
    check.begin().copied().ok_or_else(|| reader.damaged("it is empty".to_owned()))
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    File::create_new(path).map_err(SnapshotError::io("create", path))
}

fn close(file: Option<(File, PathBuf)>) -> Result<(), SnapshotError> {
    match file {
        Some((file, path)) => file.sync_all().map_err(SnapshotError::io("sync", &path)),
        None => Ok(()),
    }
}

/// What a restore has made of the data directory. Dropped before it is whole, it is undone.
struct Made {
    data_dir: PathBuf,
    existed: bool,
    restore: PathBuf,
    whole: bool,
}

impl Made {
    fn create(data_dir: &Path) -> Result<Made, SnapshotError> {
        let existed = data_dir.exists();
        if existed {
            let mut entries =
                fs::read_dir(data_dir).map_err(SnapshotError::io("open the directory", data_dir))?;
            if entries.next().is_some() {
                return Err(SnapshotError::NotEmpty { path: data_dir.to_owned() });
            }
        } else {
            create_dir(data_dir).map_err(SnapshotError::io("create the directory", data_dir))?;
        }
        let restore = data_dir.join(RESTORE_DIR);
        create_dir(&restore).map_err(SnapshotError::io("create the directory", &restore))?;
        Ok(Made { data_dir: data_dir.to_owned(), existed, restore, whole: false })
    }
}

/// Whoever reads it reads the whole store: nobody but the owner does.
fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.whole {
            return;
        }
        // A directory without a manifest is not taken for a whole one, should this fail.
        let _ = fs::remove_dir_all(&self.restore);
        if !self.existed {
            let _ = fs::remove_dir(&self.data_dir);
        }
    }
}

/// Reads the chunks of a file.
struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    /// Where the chunk that was read last begins.
    chunk_offset: u64,
    offset: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, SnapshotError> {
        let file = File::open(path).map_err(SnapshotError::io("open", path))?;
        let mut reader = Reader {
            file: BufReader::with_capacity(1024 * 1024, file),
            path: path.to_owned(),
            chunk_offset: 0,
            offset: 0,
        };
        let mut magic = [0; MAGIC.len()];
        match reader.file.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) => return Err(SnapshotError::NoSnapshot { path: path.to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(SnapshotError::NoSnapshot { path: path.to_owned() });
            }
            Err(error) => return Err(SnapshotError::io("read", path)(error)),
        }
        reader.offset = MAGIC.len() as u64;
        Ok(reader)
    }

    fn next(&mut self) -> Result<Option<SnapshotChunk>, SnapshotError> {
        self.chunk_offset = self.offset;
        let Some(length) = self.length()? else { return Ok(None) };
        if length > CHUNK_BYTES_MAX {
            return Err(self.damaged(format!("a chunk claims to have {length} bytes")));
        }
        let mut message = vec![0; length as usize];
        self.file.read_exact(&mut message).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("it breaks off".to_owned()),
            _ => SnapshotError::io("read", &self.path)(error),
        })?;
        let position = self.file.stream_position();
        self.offset = position.map_err(SnapshotError::io("read", &self.path))?;
        let chunk = SnapshotChunk::decode(Bytes::from(message));
        chunk.map(Some).map_err(|_| self.damaged("a chunk cannot be decoded".to_owned()))
    }

    /// The length in front of a chunk: seven bits a byte, lowest first. `None` at the end of the file.
    fn length(&mut self) -> Result<Option<u64>, SnapshotError> {
        let mut length = 0;
        for shift in (0..35).step_by(7) {
            let mut byte = [0];
            match self.file.read(&mut byte).map_err(SnapshotError::io("read", &self.path))? {
                0 if shift == 0 => return Ok(None),
                0 => return Err(self.damaged("it breaks off".to_owned())),
                _ => {}
            }
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(length));
            }
        }
        Err(self.damaged("a chunk's length makes no sense".to_owned()))
    }

    fn damaged(&self, problem: String) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), offset: self.chunk_offset, problem }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what was saved is restored byte for byte; a file damaged anywhere is refused and leaves
    //! the directory as it was. Method: change every byte, and cut at every length.
    use super::super::save::tests::write_sound;
    use super::*;

    #[test]
    fn restores_what_was_saved() {
        let dir = tempfile::tempdir().unwrap();
        let (file, data) = (dir.path().join("s"), dir.path().join("data"));
        write_sound(&file);
        let restored = restore(&file, &data, &mut |_| {}).unwrap();
        assert_eq!((restored.revision, restored.bytes), (42, 23));
        assert_eq!(fs::read(data.join("restore/000007.sst")).unwrap(), b"first second");
        assert_eq!(fs::read(data.join("restore/empty")).unwrap(), b"");
        let manifest = fs::read(data.join("restore/manifest")).unwrap();
        assert_eq!(SnapshotBegin::decode(&manifest[..]).unwrap().cluster_id, 7);
        let again = restore(&file, &data, &mut |_| {}).unwrap_err();
        assert!(matches!(again, SnapshotError::NotEmpty { .. }), "{again}");
    }

    #[test]
    fn refuses_every_changed_byte_of_the_files_and_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (file, data) = (dir.path().join("s"), dir.path().join("data"));
        write_sound(&file);
        let sound = fs::read(&file).unwrap();
        for length in 0..sound.len() {
            fs::write(&file, &sound[..length]).unwrap();
            assert!(restore(&file, &data, &mut |_| {}).is_err(), "cut at {length}");
            assert!(!data.exists());
        }
        // The first message has no checksum of its own: of it, only the counts are checked.
        let files = sound.windows(7).position(|window| window == b"CURRENT").unwrap();
        let mut harmless = 0;
        for at in files..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x40;
            fs::write(&file, &damaged).unwrap();
            if restore(&file, &data, &mut |_| {}).is_ok() {
                // A bit that no number needs: nothing else may have changed.
                assert_eq!(fs::read(data.join("restore/CURRENT")).unwrap(), b"MANIFEST-1\n", "at {at}");
                assert_eq!(fs::read(data.join("restore/000007.sst")).unwrap(), b"first second", "at {at}");
                assert_eq!(fs::read(data.join("restore/empty")).unwrap(), b"", "at {at}");
                fs::remove_dir_all(&data).unwrap();
                harmless += 1;
            }
            assert!(!data.exists());
        }
        assert!(harmless <= 4, "{harmless} changed bytes went unnoticed");
    }
}
