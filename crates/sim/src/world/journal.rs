//! What a disk would lose if the power went now.
//!
//! All is done to real files at once, and what undoes it is kept until it is synced: of each sector that was written
//! what it held before, of each name that was made, changed or removed the way back. The power keeps or takes each
//! sector by itself, and of the changes of a directory's names the latest ones: file systems keep those in order.
//!
//! Files are told by their inodes, which renames do not change. What RocksDB writes is not seen here: it syncs what
//! it names, and a world in which flushes are waited for kills nobody in the midst of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// What a disk writes wholly or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// So many changes of names the disk holds back. An older one is durable by then, synced or not, as a kernel does not
/// wait for ever either.
const CHANGES_MAX: usize = 64;

/// How often a sector that was not synced stays: in a third of all losses none does, in a third all do.
const SHARES: [f64; 3] = [0.0, 0.5, 1.0];

/// The way back to what is durable.
#[derive(Debug)]
pub struct Journal {
    /// Holds what was removed, or renamed over, until that is durable. It is beside what the power spares.
    attic: PathBuf,
    /// How many names the attic has had.
    attic_names: u64,
    /// What was written to files since they were last synced, by their inodes.
    files: BTreeMap<u64, Unsynced>,
    /// What was done to names since their directories were last synced, in order.
    names: Vec<Change>,
}

/// A file that was written to.
#[derive(Debug)]
struct Unsynced {
    file: Arc<File>,
    /// How long it was when it was last synced.
    bytes: u64,
    /// What sectors held then, without what lay beyond the end.
    sectors: BTreeMap<u64, Vec<u8>>,
    /// The same of what a sync has failed to write.
    lost: BTreeMap<u64, Vec<u8>>,
}

/// A change of names. Its paths follow the renames of directories above them.
#[derive(Debug)]
enum Change {
    Made(PathBuf),
    Renamed {
        from: PathBuf,
        to: PathBuf,
        /// Where that is which had the name before.
        over: Option<PathBuf>,
    },
    Removed {
        path: PathBuf,
        kept: PathBuf,
    },
}

impl Change {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> &Path {
        let (Change::Made(path) | Change::Renamed { to: path, .. } | Change::Removed { path, .. }) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Change::Made(path) | Change::Removed { path, .. } => vec![path],
            Change::Renamed { from, to, .. } => vec![from, to],
        }
    }

    fn follow(&mut self, from: &Path, to: &Path) {
        for path in self.paths() {
            if let Ok(rest) = path.strip_prefix(from)
                && !rest.as_os_str().is_empty()
            {
                *path = to.join(rest);
            }
        }
    }
}

impl Journal {
    /// Nothing was done yet. The attic must be on the same file system, and in no directory that is looked at.
    pub fn new(attic: PathBuf) -> Journal {
        Journal { attic, attic_names: 0, files: BTreeMap::new(), names: Vec::new() }
    }

    /// To be told before bytes are written, the file is made longer, or emptied: then all of it is written.
    pub fn writes(&mut self, file: &Arc<File>, from: u64, bytes: u64) -> io::Result<()> {
        let found = file.metadata()?;
        let unsynced = self.files.entry(found.ino()).or_insert_with(|| Unsynced {
            file: file.clone(),
            bytes: found.len(),
            sectors: BTreeMap::new(),
            lost: BTreeMap::new(),
        });
        let to = from + bytes;
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            if unsynced.sectors.contains_key(&sector) {
                continue;
            }
            if let Some(before) = unsynced.lost.remove(&sector) {
                unsynced.sectors.insert(sector, before);
                continue;
            }
            // Beyond the end there is nothing to go back to; what a shorter file had there has gone before.
            let at = sector * SECTOR_BYTES;
            let mut before =
                vec![0; unsynced.bytes.min(found.len()).saturating_sub(at).min(SECTOR_BYTES) as usize];
            file.read_exact_at(&mut before, at)?;
            unsynced.sectors.insert(sector, before);
        }
        Ok(())
    }

    /// A file was synced. What an earlier sync has failed to write stays lost.
    pub fn synced(&mut self, file: &File) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        if let Some(unsynced) = self.files.get_mut(&inode) {
            unsynced.sectors.clear();
            unsynced.bytes = file.metadata()?.len();
            if unsynced.lost.is_empty() {
                self.files.remove(&inode);
            }
        }
        Ok(())
    }

    /// The sync of a file has failed. Of what was to be written some sectors are, and the others never will be unless
    /// they are written anew: the system takes them for written, and shows them as long as the machine has power.
    pub fn sync_failed(&mut self, file: &File, random: &mut StdRng) -> io::Result<()> {
        if let Some(unsynced) = self.files.get_mut(&file.metadata()?.ino()) {
            for (sector, before) in std::mem::take(&mut unsynced.sectors) {
                if random.random_bool(0.5) {
                    unsynced.lost.insert(sector, before);
                }
            }
        }
        Ok(())
    }

    /// A name was made.
    pub fn made(&mut self, path: &Path) -> io::Result<()> {
        self.change(Change::Made(path.to_owned()))
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.names.push(change);
        if self.names.len() > CHANGES_MAX {
            let oldest = self.names.remove(0);
            self.settle(oldest)?;
        }
        Ok(())
    }

    /// A change is durable.
    fn settle(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Renamed { over: Some(kept), .. } | Change::Removed { kept, .. } => self.forget(&kept),
            Change::Made(_) | Change::Renamed { over: None, .. } => Ok(()),
        }
    }

    /// Gives a file or a directory another name.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::symlink_metadata(from)?;
        let over = if fs::exists(to)? { Some(self.store_away(to)?) } else { None };
        fs::rename(from, to)?;
        self.names.iter_mut().for_each(|change| change.follow(from, to));
        self.change(Change::Renamed { from: from.to_owned(), to: to.to_owned(), over })
    }

    /// Removes a file, or a directory with all that is in it.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let kept = self.store_away(path)?;
        self.change(Change::Removed { path: path.to_owned(), kept })
    }

    fn store_away(&mut self, path: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.attic)?;
        self.attic_names += 1;
        let kept = self.attic.join(self.attic_names.to_string());
        fs::rename(path, &kept)?;
        self.names.iter_mut().for_each(|change| change.follow(path, &kept));
        Ok(kept)
    }

    /// The names in a directory were synced.
    pub fn synced_dir(&mut self, dir: &Path) -> io::Result<()> {
        let (durable, rest) =
            std::mem::take(&mut self.names).into_iter().partition(|change| change.dir() == dir);
        self.names = rest;
        let durable: Vec<Change> = durable;
        durable.into_iter().try_for_each(|change| self.settle(change))
    }

    /// Removes something for good. Changes of names in it lead nowhere any more.
    fn forget(&mut self, path: &Path) -> io::Result<()> {
        for file in files_below(path)? {
            self.files.remove(&fs::metadata(file)?.ino());
        }
        self.names.retain(|change| !change.dir().starts_with(path));
        if fs::metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    /// Copies a directory of files as it would be if all went that the power may take.
    pub fn copy_durable(&self, dir: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        let copied = |path: &Path| path.file_name().map(|name| to.join(name)).unwrap_or_default();
        for item in fs::read_dir(dir)? {
            let path = item?.path();
            self.copy_file(&path, &copied(&path))?;
        }
        for change in self.names.iter().rev().filter(|change| change.dir() == dir) {
            match change {
                Change::Made(path) => remove_if_there(&copied(path))?,
                Change::Renamed { from, to: now, over } => {
                    match from.parent() == Some(dir) {
                        true => fs::rename(copied(now), copied(from))?,
                        false => remove_if_there(&copied(now))?,
                    }
                    over.as_ref().map_or(Ok(()), |kept| self.copy_file(kept, &copied(now)))?;
                }
                Change::Removed { path, kept } => self.copy_file(kept, &copied(path))?,
            }
        }
        Ok(())
    }

    /// What is durable is the same file under another name: copies are only read.
    fn copy_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        let Some(unsynced) = self.files.get(&fs::metadata(from)?.ino()) else {
            return fs::hard_link(from, to);
        };
        fs::copy(from, to)?;
        let file = File::options().write(true).open(to)?;
        file.set_len(unsynced.bytes)?;
        let gone = unsynced.sectors.iter().chain(&unsynced.lost);
        { gone }.try_for_each(|(sector, before)| put_back(&file, *sector, before))
    }

    /// Whether anything below a directory is not synced.
    pub fn is_unsynced(&self, dir: &Path) -> bool {
        !self.files.is_empty() || self.names.iter().any(|change| change.dir() == dir)
    }

    /// The power goes: what is left is what a machine would find that is switched on again.
    pub fn power_lost(&mut self, random: &mut StdRng) -> io::Result<()> {
        self.undo_names(random)?;
        for (_, Unsynced { file, bytes, sectors, lost }) in std::mem::take(&mut self.files) {
            undo_writes(&file, bytes, &sectors, random)?;
            lost.iter().try_for_each(|(sector, before)| put_back(&file, *sector, before))?;
        }
        if fs::exists(&self.attic)? { fs::remove_dir_all(&self.attic) } else { Ok(()) }
    }

    fn undo_names(&mut self, random: &mut StdRng) -> io::Result<()> {
        let mut changes: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for change in &self.names {
            *changes.entry(change.dir().to_owned()).or_default() += 1;
        }
        // Of each directory so many go, the last first.
        let mut go: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (dir, count) in changes {
            let lost = if random.random_bool(0.5) { count } else { random.random_range(0..=count) };
            go.insert(dir, lost);
        }
        let mut later = std::mem::take(&mut self.names);
        while let Some(change) = later.pop() {
            if let Some(left) = go.get_mut(change.dir()).filter(|left| **left > 0) {
                *left -= 1;
                undo(change, &mut later, &mut go)?;
            }
        }
        Ok(())
    }
}

/// Takes a change back. A directory that gets another name by that takes the changes before along.
fn undo(change: Change, earlier: &mut [Change], go: &mut BTreeMap<PathBuf, usize>) -> io::Result<()> {
    match change {
        Change::Made(path) => match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
        Change::Renamed { from, to, over } => {
            move_back(&to, &from, earlier, go)?;
            over.map_or(Ok(()), |kept| move_back(&kept, &to, earlier, go))
        }
        Change::Removed { path, kept } => move_back(&kept, &path, earlier, go),
    }
}

fn move_back(
    now: &Path,
    before: &Path,
    earlier: &mut [Change],
    go: &mut BTreeMap<PathBuf, usize>,
) -> io::Result<()> {
    fs::rename(now, before)?;
    earlier.iter_mut().for_each(|change| change.follow(now, before));
    let moved: Vec<PathBuf> = go.keys().filter(|dir| dir.starts_with(now)).cloned().collect();
    for dir in moved {
        if let (Ok(rest), Some(left)) = (dir.strip_prefix(now), go.remove(&dir)) {
            let to = if rest.as_os_str().is_empty() { before.to_owned() } else { before.join(rest) };
            *go.entry(to).or_default() += left;
        }
    }
    Ok(())
}

/// Takes back what was written to a file, or a part of it, sector by sector.
fn undo_writes(
    file: &File,
    bytes: u64,
    sectors: &BTreeMap<u64, Vec<u8>>,
    random: &mut StdRng,
) -> io::Result<()> {
    let share = SHARES[random.random_range(0..SHARES.len())];
    let length = file.metadata()?.len();
    if length != bytes && !random.random_bool(share) {
        file.set_len(bytes)?;
    }
    for (sector, before) in sectors {
        if random.random_bool(share) {
            continue;
        }
        put_back(file, *sector, before)?;
    }
    Ok(())
}

fn put_back(file: &File, sector: u64, before: &[u8]) -> io::Result<()> {
    let at = sector * SECTOR_BYTES;
    let mut content = before.to_owned();
    // Where the file is longer now, the room was taken and not written.
    content.resize(file.metadata()?.len().saturating_sub(at).min(SECTOR_BYTES) as usize, 0);
    file.write_all_at(&content, at)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All files at a path.
fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for item in fs::read_dir(path)? {
        found.extend(files_below(&item?.path())?);
    }
    Ok(found)
}

/// Bytes of all files at a path. RocksDB may remove some meanwhile.
pub fn bytes_below(path: &Path) -> io::Result<u64> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        found => found?,
    };
    if !found.is_dir() {
        return Ok(found.len());
    }
    fs::read_dir(path)?.map(|item| bytes_below(&item?.path())).sum()
}

#[cfg(test)]
mod tests;
