//! Revisions against the clock: what ended before something else began must have the lower revision.
//!
//! Every linearizable answer carries the store's revision, so that the order of all operations on all
//! keys is on record and can be checked in one pass, however long the run was.

use std::time::Duration;

use crate::{Result, ensure};

/// One answer that carried a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When the request was about to leave, on a clock that all clients share.
    pub called: Duration,
    /// When the answer was there.
    pub returned: Duration,
    /// For a write the revision that it made, for a read the one that it saw.
    pub revision: u64,
    /// What was answered.
    pub kind: Kind,
}

/// What an answer answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A linearizable read.
    Read,
    /// A write that was acknowledged.
    Write,
}

/// Fails if a read went back behind anything that was answered before it began, or if two writes share
/// a revision.
pub fn check(marks: &[Mark]) -> Result<()> {
    let mut by_call: Vec<_> = marks.iter().collect();
    by_call.sort_by_key(|mark| mark.called);
    let mut by_return: Vec<_> = marks.iter().collect();
    by_return.sort_by_key(|mark| mark.returned);

    let mut answered = by_return.into_iter().peekable();
    let mut newest: Option<&Mark> = None;
    for mark in by_call {
        while let Some(before) = answered.next_if(|before| before.returned < mark.called) {
            if newest.is_none_or(|newest| newest.revision < before.revision) {
                newest = Some(before);
            }
        }
        if let Some(newest) = newest {
            let in_order = match mark.kind {
                Kind::Read => mark.revision >= newest.revision,
                Kind::Write => mark.revision > newest.revision,
            };
            ensure!(in_order, "{mark:?} went back in time: {newest:?} was answered before it began");
        }
    }
    check_unique(marks)
}

fn check_unique(marks: &[Mark]) -> Result<()> {
    let mut writes: Vec<_> = marks.iter().filter(|mark| mark.kind == Kind::Write).collect();
    writes.sort_by_key(|mark| mark.revision);
    for pair in writes.windows(2) {
        ensure!(pair[0].revision != pair[1].revision, "{:?} and {:?} share a revision", pair[0], pair[1]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: each way to go back in time is found, and concurrency is not mistaken for it.
    use super::*;

    fn mark(kind: Kind, called: u64, returned: u64, revision: u64) -> Mark {
        let (called, returned) = (Duration::from_millis(called), Duration::from_millis(returned));
        Mark { called, returned, revision, kind }
    }

    #[test]
    fn later_answers_have_later_revisions() {
        use Kind::{Read, Write};
        let write = mark(Write, 0, 10, 5);
        assert!(check(&[write, mark(Read, 11, 12, 5), mark(Write, 13, 14, 6)]).is_ok());
        assert!(check(&[write, mark(Read, 11, 12, 4)]).is_err());
        assert!(check(&[write, mark(Write, 11, 12, 5)]).is_err());
        assert!(check(&[mark(Read, 0, 1, 7), mark(Read, 2, 3, 6)]).is_err());
        assert!(check(&[mark(Read, 0, 1, 7), mark(Write, 2, 3, 7)]).is_err());
    }

    #[test]
    fn answers_that_overlap_may_come_in_any_order() {
        use Kind::{Read, Write};
        let write = mark(Write, 0, 10, 5);
        assert!(check(&[write, mark(Read, 5, 6, 4), mark(Write, 1, 12, 4)]).is_ok());
        assert!(check(&[write, mark(Write, 5, 6, 5)]).is_err());
        assert!(check(&[write, mark(Read, 10, 11, 4)]).is_ok());
    }
}
