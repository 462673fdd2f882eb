//! What a killed process leaves of its store.
//!
//! RocksDB flushes what it holds when it is closed, which a killed process does not do. So its files are kept aside
//! before, and put back after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The states of a data directory as they were.
#[derive(Debug)]
pub struct Kept(Vec<(PathBuf, PathBuf)>);

impl Kept {
    /// Keeps all states in a data directory aside.
    pub fn of(dir: &Path) -> io::Result<Kept> {
        let mut kept = Vec::new();
        if !dir.exists() {
            return Ok(Kept(kept));
        }
        for item in fs::read_dir(dir)? {
            let (path, name) = (item.as_ref().map_err(copy)?.path(), item?.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() && name.starts_with("state-") {
                let aside = dir.with_extension(format!("kept-{name}"));
                fs::create_dir_all(&aside)?;
                for file in fs::read_dir(&path)? {
                    let file = file?;
                    let to = aside.join(file.file_name());
                    // Table files never change.
                    if file.path().extension().is_some_and(|kind| kind == "sst") {
                        fs::hard_link(file.path(), to)?;
                    } else {
                        fs::copy(file.path(), to)?;
                    }
                }
                kept.push((path, aside));
            }
        }
        Ok(Kept(kept))
    }

    /// Puts them back.
    pub fn put_back(self) -> io::Result<()> {
        for (path, aside) in self.0 {
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            fs::rename(aside, path)?;
        }
        Ok(())
    }
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
