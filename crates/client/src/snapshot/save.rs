//! Saving a snapshot to a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kvorum_proto::admin::v1::SnapshotChunk;
use prost::Message as _;

use super::check::Check;
use super::{MAGIC, Progress, SnapshotError, sync_dir};
use crate::Error;
use crate::admin::AdminClient;

/// Whoever reads a snapshot reads the whole store: nobody but the owner does.
const FILE_MODE: u32 = 0o600;

/// What was saved.
///
/// See the [module](crate::snapshot) for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// The cluster it is of.
    pub cluster_id: u64,
    /// The revision of the store.
    pub revision: u64,
    /// The bytes of the store's files.
    pub bytes: u64,
}

/// Saves the store of a node to a file: first beside it as `FILE.part`, which gets its name when it is
/// checked and durable; only its owner may read it. It writes to the disk between two chunks, so give it a runtime where that
/// holds up nobody. `progress` is told after each chunk.
///
/// # Errors
/// [`Error::Snapshot`]: the file cannot be written, a directory or a device is in its place, or what the node sent is not sound; neither leaves a file behind.
/// [`Error::Unanswered`] and [`Error::Rpc`]: as [`AdminClient::snapshot`].
pub async fn save(
    node: &AdminClient,
    path: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Saved, Error> {
    // A path that cannot be written is not worth a checkpoint.
    let mut writer = Writer::create(path)?;
    let mut chunks = node.snapshot().await?;
    while let Some(chunk) = chunks.next().await? {
        writer.write(&chunk, node.address())?;
        progress(writer.check.progress());
    }
    Ok(writer.finish(node.address())?)
}

/// A file in the making. Dropped before its end, it leaves nothing behind.
struct Writer {
    check: Check,
    file: BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
    named: bool,
}

impl Writer {
    fn create(path: &Path) -> Result<Writer, SnapshotError> {
        check_place(path).map_err(SnapshotError::io("save to", path))?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = create(&part).map_err(SnapshotError::io("create", &part))?;
        let file = BufWriter::with_capacity(1024 * 1024, file);
        let mut writer = Writer { check: Check::default(), file, part, path: path.to_owned(), named: false };
        writer.file.write_all(&MAGIC).map_err(SnapshotError::io("write", &writer.part))?;
        Ok(writer)
    }

    fn write(&mut self, chunk: &SnapshotChunk, endpoint: &str) -> Result<(), SnapshotError> {
        self.check.take(chunk).map_err(unsound(endpoint))?;
        let message = chunk.encode_length_delimited_to_vec();
        self.file.write_all(&message).map_err(SnapshotError::io("write", &self.part))
    }

    fn finish(mut self, endpoint: &str) -> Result<Saved, SnapshotError> {
        self.check.finish().map_err(unsound(endpoint))?;
        self.file.flush().map_err(SnapshotError::io("write", &self.part))?;
        self.file.get_ref().sync_all().map_err(SnapshotError::io("sync", &self.part))?;
        fs::rename(&self.part, &self.path).map_err(SnapshotError::io("rename", &self.part))?;
        self.named = true;
        sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
        let begin = self.check.begin();
        Ok(Saved {
            cluster_id: begin.map_or(0, |begin| begin.cluster_id),
            revision: begin.map_or(0, |begin| begin.revision),
            bytes: self.check.progress().bytes,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.named {
            // What is left over is named as such, should this fail.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// A directory, a device or a pipe, `/dev/stdout` say, is not to be replaced by a file.
fn check_place(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => Err(io::Error::other("what is there is no file; give the path of one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an earlier attempt has left there is taken over.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

fn unsound(endpoint: &str) -> impl FnOnce(String) -> SnapshotError {
    let endpoint = endpoint.to_owned();
    move |problem| SnapshotError::Stream { endpoint, problem }
}

#[cfg(test)]
pub(super) mod tests {
    //! Goal: a file appears only when it is whole. Method: write sound and broken-off snapshots.
    use super::super::check::tests::sound;
    use super::*;

    pub(in crate::snapshot) fn write_sound(path: &Path) {
        let mut writer = Writer::create(path).unwrap();
        sound().iter().for_each(|chunk| writer.write(chunk, "n:1").unwrap());
        let saved = writer.finish("n:1").unwrap();
        assert_eq!((saved.cluster_id, saved.revision, saved.bytes), (7, 42, 23));
    }

    #[test]
    fn a_whole_snapshot_gets_its_name() {
        let dir = tempfile::tempdir().unwrap();
        write_sound(&dir.path().join("s"));
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["s"]);
    }

    /// Goal: nobody else reads it, whoever made the file that it takes over.
    #[test]
    fn only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("s.part"), "an earlier attempt").unwrap();
        write_sound(&dir.path().join("s"));
        let mode = fs::metadata(dir.path().join("s")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
    }

    /// Goal: what is no file stays what it is.
    #[test]
    fn only_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("stdout");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for place in [dir.path(), &link] {
            let error = Writer::create(place).err().unwrap().to_string();
            assert!(error.contains("is no file"), "{error}");
        }
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/dev/null"));
    }

    #[test]
    fn one_that_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&dir.path().join("s")).unwrap();
        let chunks = sound();
        chunks[..chunks.len() - 1].iter().for_each(|chunk| writer.write(chunk, "n:1").unwrap());
        let error = writer.finish("n:1").unwrap_err();
        assert!(matches!(error, SnapshotError::Stream { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
