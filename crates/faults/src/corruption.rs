//! Data that is changed behind its checksums, so that nothing but a comparison of members shows it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rocksdb::{ColumnFamilyDescriptor, DB, Options};

use crate::{Context as _, Result};

/// Changes the last byte of a key's value in the store of a member that does not run, with the checksums that go with
/// it. The key must have left the log for the store, as it has after a member was told to stop.
pub fn flip(data: &Path, key: &[u8]) -> Result<()> {
    flip_row(data, "current", key)
}

/// The same of any row of a column family.
pub fn flip_row(data: &Path, family: &str, key: &[u8]) -> Result<()> {
    let state = state_of(data)?;
    let families = DB::list_cf(&Options::default(), &state).context("list the column families")?;
    let families = families.iter().map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&Options::default(), &state, families).context("open the store")?;
    let family = db.cf_handle(family).context("there is no such column family")?;
    let mut row = db.get_cf(family, key).context("read the key")?.context("the key is not there")?;
    *row.last_mut().context("the row is empty")? ^= 1;
    db.put_cf(family, key, row).context("change the key")?;
    db.flush_cf(family).context("flush")?;
    Ok(())
}

fn state_of(data: &Path) -> Result<PathBuf> {
    let items: io::Result<Vec<_>> = fs::read_dir(data)?.collect();
    let states = items?.into_iter().map(|item| item.path());
    let is_state =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"state-"));
    states.filter(is_state).max().context("there is no state")
}
