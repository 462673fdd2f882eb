//! What a compaction leaves: all that was there at its revision, and what that revision has changed; and of what is
//! older, nothing that anybody can read.
//!
//! Each member's store is looked at when the compaction takes effect, and when all that it made superfluous is gone. What
//! watchers find in memory does not hide what is no longer on disk.

use std::collections::BTreeMap;

use kvorum_store::command::KeyRange;
use kvorum_store::{Place, ReadBytes, ReadError, Reader, Scan, Store};

use crate::world::trace::hash_bytes;

/// Records of a page.
const PAGE_KEYS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;
/// A change at a time: the revision behind it may be the last one that is wanted.
const CHANGES: ReadBytes = ReadBytes { reader_max: 1, all_max: 1 };

/// How far a store's compaction is: the compacted revision, and whether all is gone that is to go.
pub type Stage = (u64, bool);

/// By compacted revision what any member held just after.
#[derive(Debug, Default)]
pub struct Compactions(BTreeMap<u64, u64>);

/// How far a store is.
pub fn stage(store: &Store) -> Stage {
    (store.compacted(), !store.compaction_backlog())
}

impl Compactions {
    /// Compares a store with what was there when its compaction took effect, wherever that was first.
    pub fn judge(&mut self, store: &Store) -> Result<(), String> {
        let compacted = store.compacted();
        if compacted == 0 {
            return Ok(());
        }
        check_older(store, compacted)?;
        let print = match print(store, compacted) {
            // A disk that has rotted: its node says so itself, and where none has the end's look at all rows does.
            Err(ReadError::Store(_)) => return Ok(()),
            print => print
                .map_err(|error| format!("cannot read what was there at its compacted revision: {error}"))?,
        };
        let known = *self.0.entry(compacted).or_insert(print);
        if known != print {
            let (_, is_whole) = stage(store);
            let when = if is_whole { "after all of it" } else { "in the midst of it" };
            return Err(format!(
                "has lost something of what was there at revision {compacted} with the compaction up to there, {when}"
            ));
        }
        Ok(())
    }

    /// A recovery may have made revisions anew.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whoever asks for an older revision is told that it is compacted.
fn check_older(store: &Store, compacted: u64) -> Result<(), String> {
    let older = compacted - 1;
    if older == 0 {
        return Ok(());
    }
    let scan = Scan { revision: older, keys_max: 1, bytes_max: PAGE_BYTES, ..Scan::default() };
    let reader = Reader { from: Place::before(older), range: all() };
    let answers = [store.scan_page(&scan).map(drop), store.changes_for(&[reader], false, CHANGES).map(drop)];
    for answer in answers {
        if !matches!(answer, Err(ReadError::Compacted { .. })) {
            return Err(format!(
                "answers {answer:?} to a read at revision {older}, and has compacted up to {compacted}"
            ));
        }
    }
    Ok(())
}

/// A fingerprint of all records at a revision and of what it has changed.
fn print(store: &Store, revision: u64) -> Result<u64, ReadError> {
    let mut print = 0_u64;
    let mut add = |what: String| print = print.wrapping_mul(31).wrapping_add(hash_bytes(what.as_bytes()));
    let mut scan =
        Scan { range: all(), revision, keys_max: PAGE_KEYS, bytes_max: PAGE_BYTES, ..Scan::default() };
    loop {
        let page = store.scan_page(&scan)?;
        page.records.iter().for_each(|record| add(format!("{record:?}")));
        if page.next.is_none() {
            break;
        }
        scan.after = page.next;
    }
    let mut reader = Reader { from: Place::before(revision), range: all() };
    while reader.from.revision == revision {
        let changes = store.changes_for(std::slice::from_ref(&reader), false, CHANGES)?;
        let events = changes.found.iter().flatten().filter(|events| events.revision == revision);
        events.flat_map(|events| &events.events).for_each(|event| add(format!("{event:?}")));
        reader.from = changes.next;
    }
    Ok(print)
}

fn all() -> KeyRange {
    KeyRange::prefix("")
}
