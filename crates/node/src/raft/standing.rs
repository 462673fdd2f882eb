//! What this node has when a message of another member comes in, for it to be compared with.

use std::fmt;

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry::LogId;
use kvorum_store::log::Vote;

/// How far ahead of this node's own term another one may be.
///
/// Terms rise by elections that a majority takes part in, for a node that is alone gets no further than the
/// pre-vote. This many elections take ten days on end at the shortest timeout (50 ms each), and three months
/// at the default one: no member that was down falls behind so far, and one that did would be replaced by
/// an empty disk, which takes any term. A recovery adds one to the term that its disk knows. On the other
/// side, whoever sends forged votes needs 2^38 of them to use the terms up.
pub const TERM_LEAP_MAX: u64 = 1 << 24;

/// No term and no index comes near these, and what adds to one that is below does not overflow.
pub(super) const TERM_MAX: u64 = 1 << 62;
/// See [`TERM_MAX`].
const INDEX_MAX: u64 = 1 << 62;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl From<Refused> for tonic::Status {
    fn from(refused: Refused) -> Self {
        tonic::Status::invalid_argument(refused.0)
    }
}

/// Refuses for this reason.
pub(super) fn refused<T>(reason: impl fmt::Display) -> Result<T, Refused> {
    Err(Refused(reason.to_string()))
}

/// What this node has when a message comes in.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Its id.
    pub node_id: u64,
    /// Its vote, which may be later by now.
    pub vote: Option<Vote>,
    /// The end of its log.
    pub last: Option<LogId>,
    /// What is surely committed; there may be more.
    pub committed: Option<LogId>,
    /// The term of the last message of a leader's that was let in, and whose it was.
    pub leader: Option<(u64, u64)>,
}

impl Standing {
    pub(super) fn term(&self) -> u64 {
        self.vote.map_or(0, |vote| vote.term)
    }

    /// The disk has neither voted nor a log: it knows no term that another one could be compared with.
    fn is_empty(&self) -> bool {
        self.term() == 0 && self.last.is_none()
    }

    /// Refuses a term that no elections can have made since this node heard of the last one.
    pub fn check_term(&self, term: u64) -> Result<(), Refused> {
        if term > TERM_MAX {
            return refused(format!("term {term} is no term that elections can reach"));
        }
        let ahead = term.saturating_sub(self.term());
        if ahead > TERM_LEAP_MAX && !self.is_empty() {
            return refused(format!(
                "term {term} is {ahead} ahead of this node's, which is {}; elections do not make more than \
                 {TERM_LEAP_MAX}",
                self.term()
            ));
        }
        Ok(())
    }

    /// The vote of whoever sent a message: of a candidate, or of a leader.
    pub(super) fn vote(&self, vote: Option<peer::Vote>, from: u64, leads: bool) -> Result<Vote, Refused> {
        let peer::Vote { term, node_id, committed } = vote.unwrap_or_default();
        if node_id != from || node_id == 0 {
            return refused(format!("node {from:016x} brings the vote of node {node_id:016x}"));
        }
        if node_id == self.node_id {
            return refused("the vote is this node's own");
        }
        if committed != leads {
            let what = if leads {
                "a leader's vote is that of a majority"
            } else {
                "a candidate has no majority yet"
            };
            return refused(what);
        }
        // Term 0 is that of the founding entry, which nobody was elected for.
        if term == 0 {
            return refused("no election has term 0");
        }
        self.check_term(term)?;
        // A term has one leader. openraft takes what another one says is committed for what the first one says. Of a
        // term that is over, whoever led it is to hear so.
        let leader = self.vote.filter(|own| leads && own.committed && own.term == term);
        let leader = leader
            .map(|own| (own.term, own.node_id))
            .or(self.leader.filter(|known| leads && known.0 == term && term >= self.term()));
        if let Some((_, leader)) = leader.filter(|known| known.1 != node_id) {
            return refused(format!("the leader of term {term} is node {leader:016x}, not {node_id:016x}"));
        }
        Ok(Vote { term, node_id, committed })
    }

    /// A position that a committed one is compared with: of two positions in the log of one cluster none is
    /// later by its term and earlier by its index.
    pub(super) fn check_committed(&self, what: &str, id: LogId) -> Result<(), Refused> {
        match self.committed {
            Some(committed) if !in_order(committed, id) => {
                refused(format!("{what} {id} contradicts {committed}, which is committed"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether both may be in one log: none is later by its term and earlier by its index.
pub(super) fn in_order(a: LogId, b: LogId) -> bool {
    let (low, high) = if a.index <= b.index { (a, b) } else { (b, a) };
    low.term <= high.term && (low.index < high.index || low.term == high.term)
}

/// A position out of a message of a leader's or candidate's of this term.
pub(super) fn log_id(what: &str, id: Option<admin::LogId>, term_max: u64) -> Result<Option<LogId>, Refused> {
    let Some(admin::LogId { term, index }) = id else { return Ok(None) };
    let id = LogId { term, index };
    if index > INDEX_MAX {
        return refused(format!("{what} {id} is no position that a log can reach"));
    }
    if term > term_max {
        return refused(format!("{what} {id} is of a later term than the message, {term_max}"));
    }
    Ok(Some(id))
}
