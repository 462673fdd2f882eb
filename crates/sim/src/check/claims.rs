//! What a member has told others of its disk: that it has voted, that it has appended. What it has told must be
//! durable, and so must be what it has applied.

use kvorum_store::entry::LogId;
use kvorum_store::log::{Held, Vote};

/// What one disk has promised.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    voted: Option<Vote>,
    appended: Option<LogId>,
    applied: Option<LogId>,
    /// Entries behind this index were cut off, those of this term or an earlier one.
    void: Option<(u64, u64)>,
}

impl Claims {
    /// A vote was given. A vote never goes back, and in a term there is one, or that of the leader.
    pub fn voted(&mut self, vote: Vote) -> Result<(), String> {
        match self.voted.filter(|before| !covers(vote, *before)) {
            Some(before) => Err(format!("{} was given after {}", name(vote), name(before))),
            None => {
                self.voted = Some(vote);
                Ok(())
            }
        }
    }

    /// An append was acknowledged.
    pub fn appended(&mut self, last: LogId) {
        let is_void = self.void.is_some_and(|(after, term)| last.index > after && last.term <= term);
        if !is_void {
            self.appended = Some(last);
        }
    }

    /// The log is to end at `last`, and ended at `before`.
    pub fn cut(&mut self, last: Option<LogId>, before: Option<LogId>) {
        let after = last.map_or(0, |last| last.index);
        self.void = Some((after, before.map_or(0, |before| before.term)));
        self.appended = self.appended.filter(|appended| appended.index <= after && last.is_some());
        self.applied = self.applied.filter(|applied| applied.index <= after && last.is_some());
    }

    /// An entry was applied.
    pub fn applied(&mut self, last: LogId) {
        self.applied = Some(last);
    }

    /// A snapshot was installed: what was applied stands in no log.
    pub fn installed(&mut self) {
        self.applied = None;
    }

    /// Whether a log that was cut lately is still without later entries: then much can go wrong.
    pub fn was_cut(&self) -> bool {
        self.void.is_some_and(|(_, term)| self.appended.is_none_or(|appended| appended.term <= term))
    }

    /// Compares what was promised with what the power has left, or would.
    pub fn check(&self, held: &Held) -> Result<(), String> {
        if let Some(voted) = self.voted
            && !held.vote().is_some_and(|vote| covers(vote, voted))
        {
            let found = held.vote().map_or_else(|| "none".to_owned(), name);
            return Err(format!("{} was given, and the disk has {found}", name(voted)));
        }
        for (what, id) in [("acknowledged", self.appended), ("applied", self.applied)] {
            let Some(id) = id else { continue };
            let is_purged = held.purged().is_some_and(|purged| purged.index >= id.index);
            if !is_purged && held.term_of(id.index) != Some(id.term) {
                let last = held.last().map_or_else(|| "nothing".to_owned(), |last| last.to_string());
                let term = held.term_of(id.index);
                return Err(format!(
                    "entry {id} was {what}, and the disk's log has term {term:?} there and ends at {last}"
                ));
            }
        }
        Ok(())
    }
}

/// Whether whoever holds the one vote has not gone back behind the other.
fn covers(vote: Vote, before: Vote) -> bool {
    let is_same = vote.node_id == before.node_id && vote.committed >= before.committed;
    vote.term > before.term || (vote.term == before.term && (is_same || vote.committed && !before.committed))
}

fn name(vote: Vote) -> String {
    let Vote { term, node_id, committed } = vote;
    format!("a vote for {node_id:016x} in term {term}{}", if committed { ", which leads," } else { "" })
}

#[cfg(test)]
mod tests {
    //! Goal: what goes back is seen, and nothing else. Method: tables.
    use super::*;

    const fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
        Vote { term, node_id, committed }
    }

    #[test]
    fn a_vote_never_goes_back() {
        let cases = [
            (vote(3, 1, false), vote(3, 1, false), true),
            (vote(3, 1, false), vote(3, 1, true), true),
            (vote(3, 1, false), vote(3, 2, false), false),
            (vote(3, 1, false), vote(3, 2, true), true),
            (vote(3, 1, true), vote(3, 1, false), false),
            (vote(3, 1, true), vote(3, 2, true), false),
            (vote(3, 1, true), vote(2, 2, true), false),
            (vote(3, 1, true), vote(4, 2, false), true),
        ];
        for (before, after, is_right) in cases {
            let mut claims = Claims::default();
            claims.voted(before).unwrap();
            assert_eq!(claims.voted(after).is_ok(), is_right, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_was_cut_off_is_promised_no_more() {
        let id = |term, index| LogId { term, index };
        let mut claims = Claims::default();
        claims.appended(id(2, 9));
        claims.cut(Some(id(2, 5)), Some(id(2, 9)));
        assert_eq!(claims.appended, None);
        claims.appended(id(2, 8));
        assert_eq!(claims.appended, None, "it was on its way before");
        assert!(claims.was_cut());
        claims.appended(id(3, 6));
        assert_eq!(claims.appended, Some(id(3, 6)));
        assert!(!claims.was_cut());
    }
}
