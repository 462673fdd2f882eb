//! Opening RocksDB, so that what is damaged is found then rather than at some later read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{BlockBasedTablePinningTier, ColumnFamilyDescriptor, DB, Options};

use super::families::{FAMILIES, family};
use super::manifest;
use super::options::{Caches, database_options, families, family_options, table_options};
use crate::error::StoreError;

/// Files that are open at a time while a state is read through once: RocksDB takes no fewer.
const READ_THROUGH_FILES_MAX: i32 = 20;
/// Makes an empty database in a directory that does not exist yet.
pub(crate) fn create(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    let mut options = database_options(caches);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_error_if_exists(true);
    DB::open_cf_descriptors(&options, path, families(caches))
        .map_err(StoreError::database("create state", path))
}

/// Opens a database that must be there: without its CURRENT file RocksDB would otherwise begin an
/// empty one. Reads the metadata and the first block of every table file, so that a file that is
/// damaged there is found now rather than at some later read.
pub(crate) fn open(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    let opened = DB::open_cf_descriptors(&database_options(caches), path, families(caches));
    let db = opened.map_err(|error| unread(error, path))?;
    check_tables(&db, path)?;
    Ok(db)
}

/// Opens a database that is not to change by it.
pub(crate) fn open_read_only(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    DB::open_cf_descriptors_read_only(&database_options(caches), path, families(caches), false)
        .map_err(|error| unread(error, path))
}

/// Opens a database that is to be read through once. Whenever a table file is opened, and that is before
/// its first row is read, its index and all its filters are read and their checksums compared: no lookup
/// is needed to have seen them. The reads must fill the cache for that. Few files are open at a time, which
/// bounds what these take in memory.
pub(crate) fn open_to_read_through(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    let mut options = database_options(caches);
    options.set_max_open_files(READ_THROUGH_FILES_MAX);
    let mut table = table_options(caches);
    table.set_partition_pinning_tier(BlockBasedTablePinningTier::All);
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(caches, &table)));
    DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(|error| unread(error, path))
}

/// Why a database was not opened or read through, with the file that is to blame.
pub(crate) fn unread(error: rocksdb::Error, path: &Path) -> StoreError {
    match StoreError::database("read state", path)(error) {
        // RocksDB blames its MANIFEST, which has been checked, for whatever it meets on opening.
        StoreError::Damage { file, detail } if !is_table(&file) => {
            StoreError::Damage { file: find_table(&detail, path).unwrap_or(file), detail }
        }
        error => error,
    }
}

/// Of some damage to a table file's properties RocksDB does not say in which file it is. But it
/// says the same of that file alone, when asked to take it into another database; a sound one it
/// refuses for another reason, before it copies anything.
fn find_table(detail: &str, path: &Path) -> Option<PathBuf> {
    static SEARCHES: AtomicU64 = AtomicU64::new(0);
    let name = [std::process::id().into(), SEARCHES.fetch_add(1, Ordering::Relaxed)];
    let elsewhere = std::env::temp_dir().join(format!("kvorum-find-table-{}-{}", name[0], name[1]));
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, &elsewhere).ok()?;
    let tables = fs::read_dir(path).ok()?.filter_map(|item| Some(item.ok()?.path()));
    let found = tables.filter(|file| is_table(file)).find(|file| {
        db.ingest_external_file(vec![file]).is_err_and(|error| detail.starts_with(error.as_ref()))
    });
    drop(db);
    // What stays behind is a small database in the directory for temporary files.
    fs::remove_dir_all(&elsewhere).ok();
    found
}

fn is_table(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "sst")
}

fn check_tables(db: &DB, path: &Path) -> Result<(), StoreError> {
    let damaged = |error| unread(error, path);
    for file in db.live_files().map_err(damaged)? {
        let Some(start) = file.start_key else { continue };
        let mut rows = db.raw_iterator_cf(family(db, &file.column_family_name));
        rows.seek(start);
        rows.status().map_err(damaged)?;
    }
    Ok(())
}
