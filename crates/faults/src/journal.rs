//! What a watcher of every key saw: one fingerprint for each revision, so that a journal of millions of
//! events stays small.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::{Result, ensure};

/// The first revision that changes anything: an empty store is at revision 1.
pub const FIRST_REVISION: u64 = 2;

/// One change as a watcher is told of it.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whether the key is gone.
    pub deleted: bool,
    /// The key.
    pub key: &'a [u8],
    /// What it holds now.
    pub value: &'a [u8],
    /// How often it was written.
    pub version: u64,
}

/// Every revision that was seen, in order and without a gap, from [`FIRST_REVISION`] on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    revisions: Vec<u64>,
}

impl Journal {
    /// The next revision that the journal has to see.
    pub fn next(&self) -> u64 {
        FIRST_REVISION + self.revisions.len() as u64
    }

    /// Takes a revision with all its changes; fails if it is not the next one.
    pub fn take<'a>(&mut self, revision: u64, changes: impl IntoIterator<Item = Change<'a>>) -> Result<()> {
        let next = self.next();
        ensure!(revision >= next, "revision {revision} came again; the next one is {next}");
        ensure!(revision == next, "revision {next} was left out: {revision} came");
        let mut hasher = DefaultHasher::new();
        changes.into_iter().for_each(|change| change.hash(&mut hasher));
        self.revisions.push(hasher.finish());
        Ok(())
    }

    /// Forgets what came after a revision.
    pub fn end_with(&mut self, revision: u64) {
        let kept = (revision + 1).saturating_sub(FIRST_REVISION);
        self.revisions.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// Fails at the first revision that two journals saw differently, or that one of them lacks.
    pub fn check_equal(&self, other: &Journal) -> Result<()> {
        let pairs = self.revisions.iter().zip(&other.revisions);
        if let Some(at) = pairs.into_iter().position(|(ours, theirs)| ours != theirs) {
            let revision = FIRST_REVISION + at as u64;
            return Err(crate::Failure::new(format!("revision {revision} was told in two ways")));
        }
        let (ours, theirs) = (self.next(), other.next());
        ensure!(ours == theirs, "one ends before revision {ours}, the other before {theirs}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Goal: an event that is missing, doubled, out of order or different is found.
    use super::*;

    fn change(key: &str) -> [Change<'_>; 1] {
        [Change { deleted: false, key: key.as_bytes(), value: b"v", version: 1 }]
    }

    #[test]
    fn revisions_come_once_in_order_and_without_a_gap() {
        let mut journal = Journal::default();
        journal.take(2, change("a")).unwrap();
        journal.take(3, change("b")).unwrap();
        assert!(journal.take(3, change("b")).is_err());
        assert!(journal.take(5, change("c")).is_err());
        assert!(journal.take(2, change("a")).is_err());
        assert_eq!(journal.next(), 4);
    }

    #[test]
    fn journals_differ_where_their_events_do() {
        let of = |keys: &[&str]| {
            let mut journal = Journal::default();
            keys.iter().for_each(|key| journal.take(journal.next(), change(key)).unwrap());
            journal
        };
        assert!(of(&["a", "b"]).check_equal(&of(&["a", "b"])).is_ok());
        assert!(of(&["a", "b"]).check_equal(&of(&["a", "c"])).is_err());
        assert!(of(&["a", "b"]).check_equal(&of(&["a"])).is_err());
    }
}
