//! Reading a state through: every row of every table file, and whether they fit together.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use rocksdb::{DB, DBRawIterator, ReadOptions};

use crate::db::{self, Caches, StoreOptions};
use crate::error::{OpenError, StoreError};
use crate::feature::FEATURE_LEVEL_MAX;
use crate::layout::{
    self, AuthRow, CHANGES, CURRENT, Change, DEADLINES, HISTORY, Head, META, Malformed, RecordHead, Role,
    Superseded, User, record_bytes,
};
use crate::machine::Machine;
use crate::places::{state_numbers, state_path};
use crate::state::read_meta;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file; the directory of the state where it is no single file.
    pub file: PathBuf,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.detail)
    }
}

/// Reads the whole state in a data directory that no node is running on, changing nothing. No
/// findings: it is sound.
pub fn verify_state(dir: &Path) -> Result<Vec<Finding>, StoreError> {
    let Some(number) = state_numbers(&*Machine::system().files, dir)?.into_iter().max() else {
        return Ok(Vec::new());
    };
    // Blocks are read once each, so that a small cache does.
    let caches = Caches::new(&StoreOptions { cache_bytes: 0, ..StoreOptions::default() });
    match read_state(&state_path(dir, number), &caches) {
        Ok((_, findings)) => Ok(findings),
        Err(OpenError::Store(StoreError::Damage { file, detail })) => Ok(vec![Finding { file, detail }]),
        Err(OpenError::Store(error)) => Err(error),
        Err(error @ OpenError::FeatureLevel { .. }) => {
            Ok(vec![Finding { file: state_path(dir, number), detail: error.to_string() }])
        }
    }
}

/// Reads a state that was received through, once and in order: as long as it takes, the log grows at the
/// sender. Answers what is wrong first, which is enough to refuse all of it.
///
/// What is read: every block of rows, as each column family is walked from its first row to its last;
/// every index and filter, as a table file is opened; and each row is decoded, held against the head
/// where it must not be beyond it, and counted. RocksDB compares the checksum of every block it reads.
pub(crate) fn read_received(path: &Path, caches: &Caches) -> Result<(Head, Option<Finding>), OpenError> {
    let db = db::open_to_read_through(path, caches)?;
    let head = read_meta(&db, FEATURE_LEVEL_MAX)?.head;
    let finding = count(&db, &head)?;
    Ok((head, finding))
}

/// Reads the state in `path` through, and finds as much as can be found.
fn read_state(path: &Path, caches: &Caches) -> Result<(Head, Vec<Finding>), OpenError> {
    let db = db::open_read_only(path, caches)?;
    let head = read_meta(&db, FEATURE_LEVEL_MAX)?.head;
    let mut findings = BTreeSet::new();
    for file in db.live_files().map_err(StoreError::database("list files", path))? {
        if let (Some(start), Some(end)) = (file.start_key, file.end_key) {
            read_table(&db, &file.column_family_name, &start, &end, &mut findings);
            // A file of deletions alone has no rows to be looked up.
            look_up(&db, &file.column_family_name, &start, &mut findings);
            look_up(&db, &file.column_family_name, &end, &mut findings);
        }
    }
    for family in [META, CURRENT, HISTORY, CHANGES, DEADLINES] {
        read_filters(&db, family, &mut findings);
    }
    // What is missing would only be said again.
    if findings.is_empty() {
        findings.extend(count(&db, &head)?);
    }
    Ok((head, findings.into_iter().collect()))
}

/// Reads a table file's part of its column family. One damaged file hides no other, unless they
/// hold the same keys.
fn read_table(db: &DB, family: &str, start: &[u8], end: &[u8], findings: &mut BTreeSet<Finding>) {
    let mut rows = db.raw_iterator_cf_opt(db::family(db, family), read_once());
    rows.seek(start);
    while rows.key().is_some_and(|key| key <= end) {
        rows.next();
    }
    if let Err(error) = rows.status() {
        findings.insert(finding(error, db));
    }
}

/// Looks up every key of a column family by itself, and the one that would come right behind it: a
/// walk over the rows reads no filters, and a key that is not there asks those of all levels.
fn read_filters(db: &DB, family: &str, findings: &mut BTreeSet<Finding>) {
    let mut rows = db.raw_iterator_cf_opt(db::family(db, family), read_once());
    rows.seek_to_first();
    while let Some(key) = rows.key() {
        look_up(db, family, key, findings);
        look_up(db, family, &[key, &[0]].concat(), findings);
        rows.next();
    }
}

fn look_up(db: &DB, family: &str, key: &[u8], findings: &mut BTreeSet<Finding>) {
    if let Err(error) = db.get_pinned_cf(db::family(db, family), key) {
        findings.insert(finding(error, db));
    }
}

fn finding(error: rocksdb::Error, db: &DB) -> Finding {
    match db::unread(error, db.path()) {
        StoreError::Damage { file, detail } => Finding { file, detail },
        error => Finding { file: db.path().to_owned(), detail: error.to_string() },
    }
}

/// What the head keeps count of.
#[derive(Default, Debug, PartialEq, Eq)]
struct Counts {
    keys: u64,
    deadlines: u64,
    logical_bytes: u64,
}

/// Counts all rows again and compares with the head.
fn count(db: &DB, head: &Head) -> Result<Option<Finding>, StoreError> {
    let mut counts = Counts::default();
    each_row(db, CURRENT, |key, row| {
        let (record, value) = RecordHead::decode(row)?;
        counts.keys += 1;
        counts.logical_bytes += record_bytes(key.len(), value.len());
        sound(record.mod_revision <= head.revision && record.create_revision <= record.mod_revision)
    })?;
    let mut user_key = Vec::new();
    let (mut newer_key, mut newer_revision) = (Vec::new(), 0);
    each_row(db, HISTORY, |key, row| {
        let mod_revision = layout::decode_history_key(key, &mut user_key)?;
        let Superseded { end_revision, head: record, value } = Superseded::decode(row)?;
        counts.logical_bytes += record_bytes(user_key.len(), value.unwrap_or_default().len());
        // A key's newer rows come first, and the one before shares its value on or holds it.
        let has_value = value.is_some()
            || (newer_key == user_key && newer_revision == end_revision)
            || is_current(db, &user_key, end_revision);
        newer_key.clone_from(&user_key);
        newer_revision = mod_revision;
        sound(record.mod_revision == mod_revision && mod_revision < end_revision && has_value)
    })?;
    each_row(db, CHANGES, |key, row| {
        let (revision, _) = layout::decode_change_key(key)?;
        let change = Change::decode(row)?;
        counts.logical_bytes += record_bytes(change.key.len(), 0);
        sound(change.previous_revision < revision && revision <= head.revision)
    })?;
    each_row(db, DEADLINES, |key, row| {
        layout::decode_deadline_key(key)?;
        layout::decode_deadline(row)?;
        counts.deadlines += 1;
        Ok(())
    })?;
    each_row(db, META, |key, row| {
        match AuthRow::of(key)? {
            Some(AuthRow::User(_)) => drop(layout::decode_auth::<User>(row)?),
            Some(AuthRow::Role(_)) => drop(layout::decode_auth::<Role>(row)?),
            None => return Ok(()),
        }
        counts.logical_bytes += record_bytes(key.len(), row.len());
        Ok(())
    })?;
    let kept = Counts { keys: head.keys, deadlines: head.deadlines, logical_bytes: head.logical_bytes };
    let detail = || format!("its rows count {counts:?}, its head says {kept:?}");
    Ok((counts != kept).then(|| Finding { file: db.path().to_owned(), detail: detail() }))
}

/// Whether a key's present record was written at a revision.
fn is_current(db: &DB, key: &[u8], mod_revision: u64) -> bool {
    let row = db.get_pinned_cf(db::family(db, CURRENT), key);
    let head = row.ok().flatten().and_then(|row| Some(RecordHead::decode(&row).ok()?.0));
    head.is_some_and(|head| head.mod_revision == mod_revision)
}

fn sound(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}

fn each_row(
    db: &DB,
    family: &str,
    mut see: impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
) -> Result<(), StoreError> {
    let mut rows: DBRawIterator<'_> = db.raw_iterator_cf_opt(db::family(db, family), read_once());
    rows.seek_to_first();
    while let Some((key, row)) = rows.item() {
        see(key, row)
            .map_err(|_| StoreError::malformed(db.path(), format!("a row of `{family}` is unsound")))?;
        rows.next();
    }
    rows.status().map_err(StoreError::database("read state", db.path()))
}

fn read_once() -> ReadOptions {
    // The cache is this reading's own, and small. It is filled nevertheless: a table file that is opened
    // by a read that fills no cache does not read its filters.
    let mut options = ReadOptions::default();
    options.set_readahead_size(2 << 20);
    options
}
