//! What the log holds, without the entries themselves.

use std::collections::VecDeque;

use super::state::Vote;
use crate::entry::LogId;

/// The log's bounds, terms and vote. The handle keeps the one its callers see, the writer the one
/// that is on disk, and recovery builds one: the same rules hold for all three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    purged: Option<LogId>,
    /// The last entry; in an empty log, what was purged last.
    last: Option<LogId>,
    /// For each term, the index of its first entry; ascending. Only terms that still have entries
    /// are kept, so there are never more than entries, and in practice as many as elections.
    terms: VecDeque<TermStart>,
    vote: Option<Vote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TermStart {
    index: u64,
    term: u64,
}

impl View {
    /// A log of which nothing but its bounds is known, as a segment's head tells them.
    pub(super) fn new(purged: Option<LogId>, last: Option<LogId>, vote: Option<Vote>) -> View {
        View { purged, last, terms: VecDeque::new(), vote }
    }

    /// The view without its terms.
    pub(super) fn bounds(&self) -> View {
        View::new(self.purged, self.last, self.vote)
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    /// The index of the first entry, if there is one.
    pub(super) fn first_index(&self) -> u64 {
        next_index(self.purged)
    }

    /// The index that the next entry must have.
    pub(super) fn next_index(&self) -> u64 {
        next_index(self.last)
    }

    /// The term of an entry, or of what was purged last.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if let Some(purged) = self.purged
            && index <= purged.index
        {
            return (index == purged.index).then_some(purged.term);
        }
        if index >= self.next_index() {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        after.checked_sub(1).map(|at| self.terms[at].term)
    }

    /// The id of an entry, or of what was purged last.
    pub(super) fn id_of(&self, index: u64) -> Option<LogId> {
        self.term_of(index).map(|term| LogId { term, index })
    }

    /// Adds the next entry.
    pub(super) fn append(&mut self, id: LogId) -> Result<(), &'static str> {
        if id.index != self.next_index() {
            return Err("an entry does not follow the one before it");
        }
        if self.last.is_some_and(|last| id.term < last.term) {
            return Err("an entry's term is older than the term before it");
        }
        if self.terms.back().is_none_or(|start| start.term != id.term) {
            self.terms.push_back(TermStart { index: id.index, term: id.term });
        }
        self.last = Some(id);
        Ok(())
    }

    /// Drops the entries after `last`; nothing if there are none.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), &'static str> {
        let next = next_index(last);
        if next >= self.next_index() {
            return Ok(());
        }
        if next < self.first_index() {
            return Err("a truncation reaches below what was purged");
        }
        if let Some(last) = last
            && self.term_of(last.index).is_some_and(|term| term != last.term)
        {
            return Err("a truncation names an entry that is not in the log");
        }
        while self.terms.back().is_some_and(|start| start.index >= next) {
            self.terms.pop_back();
        }
        self.last = last;
        Ok(())
    }

    /// Whether purging up to `upto` leaves none of the entries: the log ends before, or holds
    /// another entry there, so that what follows it belongs to another history.
    pub(super) fn purge_resets(&self, upto: LogId) -> bool {
        upto.index >= self.next_index()
            || (upto.index >= self.first_index() && self.term_of(upto.index) != Some(upto.term))
    }

    /// Drops the entries up to `upto`; nothing if they are gone already.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), &'static str> {
        if upto.index >= self.next_index() {
            return Err("a purge reaches beyond the last entry");
        }
        if upto.index < self.first_index() {
            return Ok(());
        }
        self.purged = Some(upto);
        while self.terms.get(1).is_some_and(|start| start.index <= upto.index + 1) {
            self.terms.pop_front();
        }
        if self.last == Some(upto) {
            self.terms.clear();
        }
        Ok(())
    }

    /// Makes the log empty, to go on after `upto`.
    pub(super) fn reset(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.last = Some(upto);
        self.terms.clear();
    }
}

/// The index after an id.
pub(super) fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    /// Goal: terms are right through every kind of change. Method: one history, step by step.
    #[test]
    fn terms_follow_changes() {
        let mut view = View::default();
        for (term, index) in [(1, 0), (1, 1), (3, 2), (3, 3), (4, 4)] {
            view.append(id(term, index)).unwrap();
        }
        let terms = |view: &View| (0..6).map(|index| view.term_of(index)).collect::<Vec<_>>();
        assert_eq!(terms(&view), [Some(1), Some(1), Some(3), Some(3), Some(4), None]);
        assert!(view.append(id(4, 6)).is_err() && view.append(id(3, 5)).is_err());

        assert!(view.truncate_after(Some(id(1, 3))).is_err());
        view.truncate_after(Some(id(3, 2))).unwrap();
        view.append(id(5, 3)).unwrap();
        assert_eq!(terms(&view), [Some(1), Some(1), Some(3), Some(5), None, None]);

        assert!(view.purge_resets(id(4, 3)) && view.purge_resets(id(5, 9)) && !view.purge_resets(id(3, 2)));
        view.purge(id(1, 1)).unwrap();
        assert_eq!(terms(&view), [None, Some(1), Some(3), Some(5), None, None]);
        assert!(view.truncate_after(None).is_err());
        view.purge(id(5, 3)).unwrap();
        assert_eq!(
            (terms(&view), view.last()),
            (vec![None, None, None, Some(5), None, None], Some(id(5, 3)))
        );
        view.reset(id(5, 5));
        assert_eq!((view.first_index(), view.next_index(), view.term_of(5)), (6, 6, Some(5)));
    }
}
