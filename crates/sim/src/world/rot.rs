//! Rot: a bit of a file that nobody writes any more turns over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A bit that has turned over.
#[derive(Clone, Debug)]
pub struct Rot {
    /// The file.
    pub path: PathBuf,
    offset: u64,
    mask: u8,
    now: u8,
}

impl Rot {
    /// Turns over a bit of a data directory whose process is down: of its identity, of a segment of the log that is
    /// closed, of a table or the MANIFEST of a state. The draw says which. None: there is no such file.
    pub fn begin(data_dir: &Path, draw: u64) -> io::Result<Option<Rot>> {
        let files = files(data_dir)?;
        if files.is_empty() {
            return Ok(None);
        }
        // Of each kind of file as often, however many there are.
        let of_kind = &files[draw as usize % files.len()];
        let path = &of_kind[(draw >> 8) as usize % of_kind.len()];
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Ok(None);
        }
        // A part of its length, which is not the same to the byte in each run where the file is RocksDB's.
        let (part, mask) = (draw >> 32, 1 << ((draw >> 16) % 8));
        let offset = (part * bytes) >> 32;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        let now = byte[0] ^ mask;
        file.write_all_at(&[now], offset)?;
        Ok(Some(Rot { path: path.clone(), offset, mask, now }))
    }

    /// Turns it back, where the file is still the same.
    pub fn end(&self) -> io::Result<()> {
        let file = match File::options().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut byte = [0];
        let is_there = file.read_exact_at(&mut byte, self.offset).is_ok() && byte[0] == self.now;
        if is_there { file.write_all_at(&[self.now ^ self.mask], self.offset) } else { Ok(()) }
    }
}

/// The files that nobody writes any more, by kind.
fn files(data_dir: &Path) -> io::Result<Vec<Vec<PathBuf>>> {
    let (mut tables, mut manifests) = (Vec::new(), Vec::new());
    for state in list(data_dir)?.into_iter().filter(|path| name(path).starts_with("state-")) {
        let (of_tables, others): (Vec<_>, Vec<_>) =
            list(&state)?.into_iter().partition(|path| path.extension().is_some_and(|kind| kind == "sst"));
        tables.extend(of_tables);
        manifests.extend(others.into_iter().filter(|path| name(path).starts_with("MANIFEST-")));
    }
    let log = data_dir.join("log");
    let mut segments = if log.exists() { list(&log)? } else { Vec::new() };
    segments.retain(|path| name(path) != "spare");
    segments.pop();
    let identity = Some(data_dir.join("identity")).filter(|path| path.exists()).into_iter().collect();
    Ok([tables, manifests, segments, identity]
        .into_iter()
        .filter(|files: &Vec<_>| !files.is_empty())
        .collect())
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<PathBuf>> = fs::read_dir(dir)?.map(|item| Ok(item?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one bit of a file that nobody writes any more turns over, and back. Method: a made directory, many draws.
    #[test]
    fn a_bit_turns_over_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let names =
            ["identity", "log/01.seg", "log/02.seg", "log/spare", "state-1/000007.sst", "state-1/MANIFEST-1"];
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name.repeat(100)).unwrap();
        }
        let content = || names.map(|name| fs::read(dir.path().join(name)).unwrap());
        let (before, mut touched) = (content(), std::collections::BTreeSet::new());
        for draw in 0..1000_u64 {
            let rot = Rot::begin(dir.path(), draw.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap().unwrap();
            let now = content();
            let changed: Vec<_> = (0..names.len()).filter(|at| now[*at] != before[*at]).collect();
            assert_eq!(changed.len(), 1);
            touched.extend(changed);
            rot.end().unwrap();
            assert_eq!(content(), before);
        }
        let touched: Vec<_> = touched.into_iter().map(|at| names[at]).collect();
        assert_eq!(touched, ["identity", "log/01.seg", "state-1/000007.sst", "state-1/MANIFEST-1"]);
    }
}
