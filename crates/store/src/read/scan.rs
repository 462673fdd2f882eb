//! Scans: a range at one pinned revision, page by page, forwards and backwards.
//!
//! Each page reads under a RocksDB snapshot of its own, which ends with it: one that lived as long
//! as the client reads would keep RocksDB from dropping what is overwritten meanwhile. The pinned
//! revision keeps the pages consistent, from `history` where need be.

use bytes::Bytes;
use rocksdb::{DBRawIterator, ReadOptions};

use super::view::{View, malformed_history, seek_history};
use crate::command::{KeyRange, Record};
use crate::db::{Bounds, successor};
use crate::error::{ReadError, StoreError};
use crate::layout::{self, CURRENT, HISTORY, RecordHead};
use crate::state::State;
use crate::store::Store;

/// One page of a scan.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; 0: now. The page says which one that was: ask for it in the next page.
    pub revision: u64,
    /// From the last key to the first.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Go on behind this key, in the direction of the scan.
    pub after: Option<Bytes>,
    /// At most so many records; at least one is looked for.
    pub keys_max: usize,
    /// End the page when its keys and values reach so many bytes.
    pub bytes_max: usize,
}

/// The records of one page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The revision that was read at.
    pub revision: u64,
    /// In the order of the scan. A page may hold fewer records than it could, even none, and not
    /// be the last.
    pub records: Vec<Record>,
    /// Where the next page goes on: its `after`. None: this was the last one.
    pub next: Option<Bytes>,
}

impl Store {
    /// Reads one page.
    pub fn scan_page(&self, scan: &Scan) -> Result<Page, ReadError> {
        let state = self.state();
        let view = View::new(&state)?;
        let revision = view.revision_at(scan.revision)?;
        let mut bounds = Bounds::of(&scan.range);
        match &scan.after {
            Some(after) if scan.reverse && bounds.contains(after) => bounds.upper = Some(after.to_vec()),
            Some(after) if !scan.reverse => bounds.lower = bounds.lower.max(successor(after)),
            Some(_) | None => {}
        }
        let mut page = PageBuilder { scan, bytes: 0, page: Page { revision, ..Page::default() } };
        if !bounds.is_empty() {
            match revision == view.head.revision {
                true => scan_present(&view, &bounds, &mut page)?,
                false => scan_past(&view, &bounds, revision, &mut page)?,
            }
        }
        Ok(page.page)
    }
}

/// A page as it fills.
struct PageBuilder<'a> {
    scan: &'a Scan,
    bytes: usize,
    page: Page,
}

impl PageBuilder<'_> {
    fn push(&mut self, key: &[u8], head: RecordHead, value: &[u8]) {
        let value = if self.scan.keys_only { &[] } else { value };
        self.bytes += key.len() + value.len();
        let record = head.into_record(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.page.records.push(record);
    }

    fn is_full(&self) -> bool {
        self.page.records.len() >= self.scan.keys_max.max(1) || self.bytes >= self.scan.bytes_max.max(1)
    }
}

/// At the revision of the view, `current` has it all.
fn scan_present(view: &View<'_>, bounds: &Bounds, page: &mut PageBuilder<'_>) -> Result<(), StoreError> {
    let mut options = page_options(page.scan);
    bounds.confine(&mut options);
    let mut rows = Cursor { rows: view.iterator(CURRENT, options), reverse: page.scan.reverse };
    rows.start();
    while let Some((key, row)) = rows.rows.item() {
        if page.is_full() {
            page.page.next = page.page.records.last().map(|record| record.key.clone());
            break;
        }
        let (head, value) = decode_current(view.state, row)?;
        page.push(key, head, value);
        rows.step();
    }
    rows.status(view.state)
}

/// Merges `current` and `history`. A key of either is a candidate; its record at the revision is the
/// current one unless that is newer, else the newest superseded one, if it had not ended by then.
fn scan_past(
    view: &View<'_>,
    bounds: &Bounds,
    revision: u64,
    page: &mut PageBuilder<'_>,
) -> Result<(), StoreError> {
    let reverse = page.scan.reverse;
    let mut options = page_options(page.scan);
    bounds.confine(&mut options);
    let mut current = Cursor { rows: view.iterator(CURRENT, options), reverse };
    let options = history_options(bounds, page_options(page.scan));
    let mut history = Cursor { rows: view.iterator(HISTORY, options), reverse };
    current.start();
    history.start();
    let mut history_key = Vec::new();
    let mut skipped = 0;
    let mut last_key: Option<Bytes> = None;
    loop {
        let in_history = history.key(view.state, &mut history_key)?;
        let in_current = current.rows.key();
        let Some(key) = first(in_current, in_history.then_some(&history_key[..]), reverse) else { break };
        if page.is_full() || skipped >= view.state.limits.skipped_keys_max.max(1) {
            page.page.next = last_key;
            break;
        }
        let (is_current, is_history) = (in_current == Some(key), in_history && history_key == key);
        let key = Bytes::copy_from_slice(key);
        let before = page.page.records.len();
        let mut from_history = is_history;
        if is_current {
            let row = current.rows.value().unwrap_or_default();
            let (head, value) = decode_current(view.state, row)?;
            if head.mod_revision <= revision {
                page.push(&key, head, value);
                from_history = false;
            }
            current.step();
        }
        if from_history {
            seek_history(&mut history.rows, view, &key, revision, |head, value| {
                page.push(&key, head, value);
            })?;
        }
        if is_history {
            history.leave(&key);
        }
        skipped += usize::from(page.page.records.len() == before);
        last_key = Some(key);
    }
    current.status(view.state)?;
    history.status(view.state)
}

/// The candidate that comes first in the scan's direction.
fn first<'k>(a: Option<&'k [u8]>, b: Option<&'k [u8]>, reverse: bool) -> Option<&'k [u8]> {
    match (a, b) {
        (Some(a), Some(b)) if reverse => Some(a.max(b)),
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// What a scan reads after its first page is read once: it must not drive out of the cache what
/// others read again and again, nor fill a cache that was not needed.
fn page_options(scan: &Scan) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(scan.after.is_none());
    options
}

/// Confines an iterator over `history` to the rows of the keys within the bounds.
fn history_options(bounds: &Bounds, mut options: ReadOptions) -> ReadOptions {
    let mut row = Vec::new();
    layout::history_prefix(&bounds.lower, &mut row);
    options.set_iterate_lower_bound(&row[..]);
    if let Some(upper) = &bounds.upper {
        layout::history_prefix(upper, &mut row);
        options.set_iterate_upper_bound(&row[..]);
    }
    options
}

/// An iterator with a direction.
struct Cursor<'a> {
    rows: DBRawIterator<'a>,
    reverse: bool,
}

impl Cursor<'_> {
    fn start(&mut self) {
        match self.reverse {
            true => self.rows.seek_to_last(),
            false => self.rows.seek_to_first(),
        }
    }

    fn step(&mut self) {
        match self.reverse {
            true => self.rows.prev(),
            false => self.rows.next(),
        }
    }

    /// Writes the user key of the row of `history` over what `key` held; false: there is no row.
    fn key(&self, state: &State, key: &mut Vec<u8>) -> Result<bool, StoreError> {
        let Some(row) = self.rows.key() else { return Ok(false) };
        layout::decode_history_key(row, key).map_err(|_| malformed_history(state))?;
        Ok(true)
    }

    /// Goes to the first row of another user key. A key may have any number of rows, so this seeks.
    fn leave(&mut self, key: &[u8]) {
        let mut row = Vec::new();
        match self.reverse {
            true => {
                layout::history_prefix(key, &mut row);
                self.rows.seek_for_prev(&row);
            }
            false => {
                layout::history_after(key, &mut row);
                self.rows.seek(&row);
            }
        }
    }

    fn status(&self, state: &State) -> Result<(), StoreError> {
        self.rows.status().map_err(StoreError::database("scan", state.path()))
    }
}

fn decode_current<'r>(state: &State, row: &'r [u8]) -> Result<(RecordHead, &'r [u8]), StoreError> {
    RecordHead::decode(row)
        .map_err(|_| StoreError::malformed(state.path(), "a row of `current` is no record"))
}
