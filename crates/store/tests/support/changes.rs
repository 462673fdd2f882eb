//! The changes of one range, as a single watch would read them.

use std::sync::Arc;

use kvorum_store::command::KeyRange;
use kvorum_store::{Place, ReadBytes, ReadError, Reader, RevisionEvents, Store};

/// Whole revisions of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order of revision; only revisions that changed something in the range.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Everything below this revision is in `events`: the next call's `from`. Above the store's
    /// revision: there is nothing more for now.
    pub next: u64,
}

/// The changes of one range from a revision on, in whole revisions, until they hold `bytes_max` bytes or
/// the work for one read is done.
pub fn changes(
    store: &Store,
    from: u64,
    range: &KeyRange,
    previous: bool,
    bytes_max: usize,
) -> Result<Changes, ReadError> {
    let bytes = ReadBytes { reader_max: bytes_max, all_max: bytes_max };
    let mut reader = Reader { from: Place::before(from), range: range.clone() };
    let mut changes = Changes { events: Vec::new(), next: from };
    loop {
        let read = store.changes_for(std::slice::from_ref(&reader), previous, bytes)?;
        read.found.into_iter().flatten().for_each(|part| changes.push(part));
        reader.from = read.next.max(reader.from);
        changes.next = reader.from.revision;
        if reader.from.number == 0 {
            return Ok(changes);
        }
    }
}

impl Changes {
    /// Adds a revision, or what comes next of the last one.
    fn push(&mut self, part: Arc<RevisionEvents>) {
        match self.events.last_mut().filter(|last| last.revision == part.revision) {
            Some(last) => Arc::make_mut(last).events.extend_from_slice(&part.events),
            None => self.events.push(part),
        }
    }
}
