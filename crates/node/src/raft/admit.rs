//! What of the other members' messages reaches openraft.
//!
//! openraft trusts its peers: it asserts what a member that keeps to the protocol never breaks, adopts any
//! term it hears of, and takes whoever holds a committed vote for the leader. So every message is checked
//! here first, against itself and against what this node has. What is refused here was not sent by a member
//! that keeps to the protocol; no check leans on who can reach the port.
//!
//! A term or a committed position only ever grows, so what openraft knows when it gets to the message is at
//! least what is looked at here: a message that passes here fits there as well, or is rejected by its vote.

use std::fmt;

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry::{self, LogId, Payload};
use kvorum_store::log::Vote;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use super::types::{
    Membership, SnapshotMeta, StoredMembership, TypeConfig, decode_membership, raft_entry, raft_log_id,
    raft_vote,
};

/// How far ahead of this node's own term another one may be.
///
/// Terms rise by elections that a majority takes part in, for a node that is alone gets no further than the
/// pre-vote. This many elections take ten days on end at the shortest timeout (50 ms each), and three months
/// at the default one: no member that was down falls behind so far, and one that did would be replaced by
/// an empty disk, which takes any term. A recovery adds one to the term that its disk knows. On the other
/// side, whoever sends forged votes needs 2^38 of them to use the terms up.
pub const TERM_LEAP_MAX: u64 = 1 << 24;

/// No term and no index comes near these, and what adds to one that is below does not overflow.
const TERM_MAX: u64 = 1 << 62;
/// See [`TERM_MAX`].
const INDEX_MAX: u64 = 1 << 62;

/// A joint membership has two configurations.
const CONFIGS_MAX: usize = 2;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl From<Refused> for tonic::Status {
    fn from(refused: Refused) -> Self {
        tonic::Status::invalid_argument(refused.0)
    }
}

fn refused<T>(reason: impl fmt::Display) -> Result<T, Refused> {
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
    fn term(&self) -> u64 {
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
    fn vote(&self, vote: Option<peer::Vote>, from: u64, leads: bool) -> Result<Vote, Refused> {
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
        // A term has one leader. openraft takes what another one says is committed for what the first one says.
        let leader = self.vote.filter(|own| leads && own.committed && own.term == term);
        let leader = leader
            .map(|own| (own.term, own.node_id))
            .or(self.leader.filter(|known| leads && known.0 == term));
        if let Some((_, leader)) = leader.filter(|known| known.1 != node_id) {
            return refused(format!("the leader of term {term} is node {leader:016x}, not {node_id:016x}"));
        }
        Ok(Vote { term, node_id, committed })
    }

    /// A position that a committed one is compared with: of two positions in the log of one cluster none is
    /// later by its term and earlier by its index.
    fn check_committed(&self, what: &str, id: LogId) -> Result<(), Refused> {
        match self.committed {
            Some(committed) if !in_order(committed, id) => {
                refused(format!("{what} {id} contradicts {committed}, which is committed"))
            }
            _ => Ok(()),
        }
    }
}

fn in_order(a: LogId, b: LogId) -> bool {
    let (low, high) = if a.index <= b.index { (a, b) } else { (b, a) };
    low.term <= high.term && (low.index < high.index || low.term == high.term)
}

/// A position out of a message of a leader's or candidate's of this term.
fn log_id(what: &str, id: Option<admin::LogId>, term_max: u64) -> Result<Option<LogId>, Refused> {
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

/// A candidate's request, or one for a pre-vote.
///
/// `known` are the voters of this node's committed and effective memberships. A candidate that is not among
/// them may yet be a voter, by an entry that this node lacks: raft wants it to be answered then. Where its log is
/// not ahead of this node's, it has no such entry, and could not be elected by those who have the log that this
/// node has; to refuse it costs nothing. Where it says that it is ahead it is heard, but as one that stands by
/// itself, not as the leader's choice: so it gets nowhere while the leader is heard of.
pub fn vote(
    standing: &Standing,
    known: &[&Membership],
    request: peer::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, Refused> {
    let from = request.envelope.unwrap_or_default().from;
    let vote = standing.vote(request.vote, from, false)?;
    // The candidate raised its term for this election, so that its log has only earlier ones.
    let last = log_id("the log's end", request.last_log_id, vote.term - 1)?;
    let is_known = known.iter().any(|membership| membership.voter_ids().any(|id| id == from));
    let empty = known.iter().all(|membership| membership.get_joint_config().is_empty());
    if !is_known && !empty && last <= standing.last {
        return refused(format!(
            "node {from:016x} is no voter, and its log is not ahead of this node's, which would say if it were"
        ));
    }
    Ok(VoteRequest {
        vote: raft_vote(vote),
        last_log_id: last.map(raft_log_id),
        leadership_transfer: request.leadership_transfer && (is_known || empty),
    })
}

/// What a leader wants appended.
///
/// A leader that this node's memberships do not know is heard: a learner without a log knows nobody, and one
/// that lags does not know a voter that was added since. That it was elected, a majority vouches for; who would
/// claim it falsely can claim another's name as well.
pub fn append(
    standing: &Standing,
    from: u64,
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Refused> {
    let vote = standing.vote(request.vote, from, true)?;
    if standing.term() > vote.term {
        // It leads no more and is to hear so. What it has to say counts for nothing.
        let vote = raft_vote(vote);
        return Ok(AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        });
    }
    let prev = log_id("the entry before", request.prev_log_id, vote.term)?;
    let commit = log_id("the committed entry", request.leader_commit, vote.term)?;
    for (what, id) in [("the entry before", prev), ("the committed entry", commit)] {
        if let Some(id) = id {
            standing.check_committed(what, id)?;
        }
    }
    let mut before = prev;
    let mut entries = Vec::with_capacity(request.entries.len());
    for wire in request.entries {
        let id = admin::LogId { term: wire.term, index: wire.index };
        let Some(id) = log_id("entry", Some(id), vote.term)? else { continue };
        let (index, term_min) = before.map_or((0, 0), |before| (before.index + 1, before.term));
        if id.index != index || id.term < term_min {
            let after = before.map_or_else(|| "the log's begin".into(), |before| before.to_string());
            return refused(format!("entry {id} does not follow {after}"));
        }
        standing.check_committed("entry", id)?;
        before = Some(id);
        let entry = entry::Entry { log_id: id, payload: wire.payload };
        // Apply must be able to read it, on this node and on every other one.
        if let Err(error) = Payload::check(&entry.payload) {
            return refused(format!("entry {id}: {error}"));
        }
        let entry = raft_entry(entry).or_else(refused)?;
        if let openraft::EntryPayload::Membership(membership) = &entry.payload {
            check_membership(membership)?;
        }
        entries.push(entry);
    }
    if let (Some(commit), Some(last)) = (commit, before)
        && !in_order(commit, last)
    {
        return refused(format!(
            "the committed entry {commit} contradicts {last}, which is in the leader's log"
        ));
    }
    Ok(AppendEntriesRequest {
        vote: raft_vote(vote),
        prev_log_id: prev.map(raft_log_id),
        entries,
        leader_commit: commit.map(raft_log_id),
    })
}

/// What comes before a snapshot's files.
#[derive(Debug)]
pub struct SnapshotHeader {
    pub vote: Vote,
    pub last: LogId,
    pub meta: SnapshotMeta,
}

/// The header of a snapshot; its sender is as welcome as the one of an [`append`]. The committed membership of
/// this node is `known`.
pub fn snapshot_header(
    standing: &Standing,
    known: &StoredMembership,
    header: peer::SnapshotHeader,
) -> Result<SnapshotHeader, Refused> {
    let vote = standing.vote(header.vote, header.envelope.unwrap_or_default().from, true)?;
    let Some(last) = log_id("the snapshot's position", header.last_log_id, vote.term)? else {
        return refused("a snapshot of nothing");
    };
    standing.check_committed("the snapshot's position", last)?;
    if let Some(end) = standing.last.filter(|end| last.index > end.index && last.term < end.term) {
        // The leader's own entries come after it, and a snapshot with one of them does.
        return refused(format!(
            "the log here ends at {end}, of a later term than the snapshot's position {last}"
        ));
    }
    let log_id = log_id("the membership's position", header.membership_log_id, last.term)?;
    let Some(log_id) = log_id.filter(|id| in_order(*id, last) && id.index <= last.index) else {
        return refused("a snapshot's membership stands in the log before the snapshot's position");
    };
    let membership = decode_membership(header.membership).or_else(refused)?;
    check_membership(&membership)?;
    let log_id = Some(raft_log_id(log_id));
    if *known.log_id() == log_id && *known.membership() != membership {
        return refused("the snapshot has another membership than this node, at the same position");
    }
    let last_membership = StoredMembership::new(log_id, membership);
    Ok(SnapshotHeader {
        vote,
        last,
        meta: SnapshotMeta { last_log_id: Some(raft_log_id(last)), last_membership },
    })
}

/// Refuses a snapshot whose files are of another position than its header.
pub fn snapshot_content(header: &SnapshotHeader, applied: Option<LogId>) -> Result<(), Refused> {
    if applied == Some(header.last) {
        return Ok(());
    }
    let applied = applied.map_or_else(|| "nothing".into(), |id| id.to_string());
    refused(format!("the snapshot's files are of {applied}, its header says {}", header.last))
}

/// A membership needs voters, or everything would be a majority of them.
fn check_membership(membership: &Membership) -> Result<(), Refused> {
    let configs = membership.get_joint_config();
    if configs.is_empty() || configs.len() > CONFIGS_MAX || configs.iter().any(|config| config.is_empty()) {
        return refused(format!(
            "a membership of {} configurations, or of one without voters",
            configs.len()
        ));
    }
    if membership.nodes().any(|(id, _)| *id == 0) {
        return refused("no node has id 0");
    }
    Ok(())
}

/// The leader's word that this node is to stand for election at once.
pub fn transfer_leader(
    standing: &Standing,
    known: &[&Membership],
    request: peer::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Refused> {
    let from = standing.vote(request.from_leader, request.envelope.unwrap_or_default().from, true)?;
    let last = log_id("the leader's log", request.last_log_id, from.term)?;
    let votes = |node_id| known.iter().any(|membership| membership.voter_ids().any(|id| id == node_id));
    if request.to_node == standing.node_id && !votes(standing.node_id) {
        return refused("this node is no voter and cannot lead");
    }
    Ok(TransferLeaderRequest::new(raft_vote(from), request.to_node, last.map(raft_log_id)))
}

/// The vote in an answer of node `from`, which must not make this node's term leap either. That it is
/// committed is for its leader to say.
///
/// A later vote for this node is one that it never asked for: somebody did in its name. Its term counts all
/// the same, as whoever answers takes no earlier one any more, but not the name: openraft, which leads in its
/// own term, takes no vote for itself for another's. So the vote is given to who answers, which is in no
/// election of that term itself.
pub fn answered_vote(standing: &Standing, from: u64, vote: Option<peer::Vote>) -> Result<Vote, Refused> {
    let peer::Vote { term, node_id, .. } = vote.unwrap_or_default();
    standing.check_term(term)?;
    let borrowed = node_id == standing.node_id && term > standing.term();
    Ok(Vote { term, node_id: if borrowed { from } else { node_id }, committed: false })
}

/// A position in an answer.
pub fn answered_log_id(id: Option<admin::LogId>) -> Result<Option<LogId>, Refused> {
    log_id("the answer's position", id, TERM_MAX)
}

#[cfg(test)]
mod tests {
    //! Goal: what a member that keeps to the protocol sends passes, and nothing passes that openraft asserts
    //! never to see. Method: a good message of each kind, and a table of what is changed in it.
    use bytes::Bytes;
    use kvorum_store::entry::{encode_batch, encode_blank, encode_membership};

    use super::*;
    use crate::raft::membership::founding_membership;

    const OWN: u64 = 1;
    const FROM: u64 = 2;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    fn wire(term: u64, index: u64) -> Option<admin::LogId> {
        Some(admin::LogId { term, index })
    }

    fn ballot(term: u64, node_id: u64, committed: bool) -> Option<peer::Vote> {
        Some(peer::Vote { term, node_id, committed })
    }

    /// Term 5, a log up to 5.20, committed up to 4.10.
    fn standing() -> Standing {
        Standing {
            node_id: OWN,
            vote: Some(Vote { term: 5, node_id: FROM, committed: true }),
            last: Some(id(5, 20)),
            committed: Some(id(4, 10)),
            leader: None,
        }
    }

    fn members(ids: &[u64]) -> Membership {
        let nodes: std::collections::BTreeMap<u64, super::super::types::Address> =
            ids.iter().map(|id| (*id, Default::default())).collect();
        Membership::new(vec![ids.iter().copied().collect()], nodes).expect("voters with nodes")
    }

    fn said<T>(checked: Result<T, Refused>) -> String {
        checked.err().map_or_else(String::new, |refused| refused.0)
    }

    /// What is refused says why; an empty text is a message that passes.
    fn expect<T>(case: &str, checked: Result<T, Refused>, wanted: &str) {
        let said = said(checked);
        assert!(
            said.contains(wanted) && said.is_empty() == wanted.is_empty(),
            "{case}: '{said}', not '{wanted}'"
        );
    }

    fn vote_request() -> peer::VoteRequest {
        let envelope = Some(peer::Envelope { from: FROM, ..Default::default() });
        let (vote, last_log_id) = (ballot(6, FROM, false), wire(5, 20));
        peer::VoteRequest { envelope, vote, last_log_id, leadership_transfer: true }
    }

    #[test]
    fn votes() {
        let known = members(&[OWN, FROM, 3]);
        type Change = fn(&mut peer::VoteRequest);
        let cases: [(&str, Change, &str); 11] = [
            ("as it should be", |_| {}, ""),
            ("no vote", |r| r.vote = None, "brings the vote of node 0000000000000000"),
            ("another's vote", |r| r.vote = ballot(6, 3, false), "brings the vote"),
            ("a leader's", |r| r.vote = ballot(6, FROM, true), "has no majority yet"),
            ("term 0", |r| r.vote = ballot(0, FROM, false), "no election has term 0"),
            ("the last term", |r| r.vote = ballot(u64::MAX, FROM, false), "no term that elections can reach"),
            (
                "a leap",
                |r| r.vote = ballot(6 + TERM_LEAP_MAX, FROM, false),
                "16777217 ahead of this node's, which is 5",
            ),
            ("just none", |r| r.vote = ballot(5 + TERM_LEAP_MAX, FROM, false), ""),
            ("a log of its own term", |r| r.last_log_id = wire(6, 21), "of a later term"),
            ("the last index", |r| r.last_log_id = wire(5, u64::MAX), "no position"),
            ("no log", |r| r.last_log_id = None, ""),
        ];
        for (case, change, wanted) in cases {
            let mut request = vote_request();
            change(&mut request);
            expect(case, vote(&standing(), &[&known], request), wanted);
        }
        let own = Standing { node_id: FROM, ..standing() };
        expect("its own", vote(&own, &[&known], vote_request()), "this node's own");
        // An empty disk knows no term.
        let far = peer::VoteRequest { vote: ballot(1 << 40, FROM, false), ..vote_request() };
        expect("an empty disk", vote(&Standing { node_id: OWN, ..Default::default() }, &[], far), "");
    }

    #[test]
    fn votes_of_strangers() {
        let known = members(&[OWN, 3]);
        let with_log = |last_log_id| peer::VoteRequest { last_log_id, ..vote_request() };
        expect("the same log", vote(&standing(), &[&known], with_log(wire(5, 20))), "is no voter");
        expect("a shorter one", vote(&standing(), &[&known], with_log(wire(4, 90))), "is no voter");
        let ahead =
            vote(&standing(), &[&known], with_log(wire(5, 21))).expect("it may have been added since");
        assert!(!ahead.leadership_transfer, "the leader is still heard of");
        let added = members(&[OWN, FROM]);
        assert!(vote(&standing(), &[&known, &added], vote_request()).expect("a voter").leadership_transfer);
        expect("no members yet", vote(&standing(), &[&Membership::default()], vote_request()), "");
    }

    fn entry(term: u64, index: u64, payload: Bytes) -> peer::Entry {
        peer::Entry { term, index, payload }
    }

    fn append_request() -> peer::AppendRequest {
        let batch = encode_batch(1, [Bytes::from_static(b"x")].iter());
        let membership = encode_membership(&founding_membership(FROM, "a:1", "a:2"));
        peer::AppendRequest {
            envelope: None,
            vote: ballot(6, FROM, true),
            prev_log_id: wire(5, 20),
            leader_commit: wire(5, 19),
            entries: vec![entry(5, 21, batch), entry(6, 22, encode_blank()), entry(6, 23, membership)],
            cluster_time_ms: 0,
        }
    }

    #[test]
    fn appends() {
        type Change = fn(&mut peer::AppendRequest);
        let cases: [(&str, Change, &str); 22] = [
            ("as it should be", |_| {}, ""),
            ("a heartbeat", |r| r.entries.clear(), ""),
            ("a candidate's", |r| r.vote = ballot(6, FROM, false), "that of a majority"),
            ("another's", |r| r.vote = ballot(6, 3, true), "brings the vote"),
            ("a leap", |r| r.vote = ballot(1 << 40, FROM, true), "ahead of this node's"),
            (
                "a stale leader's nonsense",
                |r| {
                    r.vote = ballot(4, FROM, true);
                    r.entries.swap(0, 2);
                },
                "",
            ),
            ("a hole", |r| _ = r.entries.remove(0), "does not follow 5.20"),
            ("out of order", |r| r.entries.swap(0, 1), "does not follow"),
            ("twice", |r| r.entries[1].index = 21, "does not follow 5.21"),
            ("terms that fall", |r| r.entries[2].term = 5, "does not follow 6.22"),
            ("a later term", |r| r.entries[2].term = 7, "of a later term"),
            ("the last index", |r| r.entries[0].index = u64::MAX, "no position"),
            ("from the begin, late", |r| r.prev_log_id = None, "does not follow the log's begin"),
            ("a prev of later", |r| r.prev_log_id = wire(7, 20), "of a later term"),
            ("a prev at the end", |r| r.prev_log_id = wire(5, u64::MAX), "no position"),
            (
                "another prev",
                |r| {
                    r.entries.clear();
                    r.prev_log_id = wire(3, 10)
                },
                "contradicts 4.10",
            ),
            ("a commit that is older", |r| r.leader_commit = wire(5, 9), "contradicts 4.10"),
            (
                "a commit of another log",
                |r| {
                    r.entries.truncate(1);
                    r.leader_commit = wire(6, 21);
                },
                "contradicts 5.21",
            ),
            (
                "a payload of nothing",
                |r| r.entries[0].payload = Bytes::new(),
                "entry 5.21: entry is cut short",
            ),
            ("a newer payload", |r| r.entries[0].payload = Bytes::from_static(&[9, 1]), "newer"),
            ("an unknown kind", |r| r.entries[0].payload = Bytes::from_static(&[1, 9]), "unknown kind 9"),
            ("no voters", |r| r.entries[2].payload = encode_membership(b""), "without voters"),
        ];
        for (case, change, wanted) in cases {
            let mut request = append_request();
            change(&mut request);
            expect(case, append(&standing(), FROM, request), wanted);
        }
        let led = Standing { leader: Some((6, 3)), ..standing() };
        expect(
            "two leaders",
            append(&led, FROM, append_request()),
            "the leader of term 6 is node 0000000000000003",
        );
    }

    #[test]
    fn snapshots() {
        type Change = fn(&mut peer::SnapshotHeader);
        let cases: [(&str, Change, &str); 11] = [
            ("as it should be", |_| {}, ""),
            ("a candidate's", |h| h.vote = ballot(6, FROM, false), "that of a majority"),
            ("of nothing", |h| h.last_log_id = None, "of nothing"),
            ("of a later term", |h| h.last_log_id = wire(7, 30), "of a later term"),
            ("the last index", |h| h.last_log_id = wire(6, u64::MAX), "no position"),
            ("not further", |h| h.last_log_id = wire(6, 10), "contradicts 4.10"),
            (
                "before the log's end",
                |h| {
                    h.last_log_id = wire(4, 30);
                    h.membership_log_id = wire(4, 2);
                },
                "ends at 5.20",
            ),
            ("no membership's position", |h| h.membership_log_id = None, "stands in the log before"),
            ("a later membership", |h| h.membership_log_id = wire(6, 31), "stands in the log before"),
            ("no membership", |h| h.membership = Bytes::new(), "without voters"),
            ("no membership at all", |h| h.membership = Bytes::from_static(b"\xff"), "read membership"),
        ];
        for (case, change, wanted) in cases {
            let mut header = peer::SnapshotHeader {
                envelope: Some(peer::Envelope { from: FROM, ..Default::default() }),
                vote: ballot(6, FROM, true),
                last_log_id: wire(6, 30),
                membership_log_id: wire(4, 2),
                membership: founding_membership(FROM, "a:1", "a:2").into(),
                feature_level: 0,
            };
            change(&mut header);
            let known = StoredMembership::default();
            let checked = snapshot_header(&standing(), &known, header);
            if let Ok(header) = &checked {
                expect("its files", snapshot_content(header, Some(id(6, 30))), "");
                expect("others", snapshot_content(header, Some(id(6, 31))), "are of 6.31");
                expect("none", snapshot_content(header, None), "are of nothing");
            }
            expect(case, checked, wanted);
        }
    }

    #[test]
    fn hand_overs_and_answers() {
        let request = |from_leader, to_node| peer::TransferLeaderRequest {
            envelope: Some(peer::Envelope { from: FROM, ..Default::default() }),
            from_leader,
            to_node,
            last_log_id: wire(5, 20),
        };
        let known = members(&[OWN, FROM]);
        let leader = || ballot(5, FROM, true);
        expect("fits", transfer_leader(&standing(), &[&known], request(leader(), OWN)), "");
        let learns = members(&[FROM]);
        expect("a learner", transfer_leader(&standing(), &[&learns], request(leader(), OWN)), "is no voter");
        let candidate = ballot(5, FROM, false);
        expect(
            "no leader's",
            transfer_leader(&standing(), &[&known], request(candidate, OWN)),
            "of a majority",
        );

        expect("an answer", answered_vote(&standing(), FROM, ballot(9, 3, true)), "");
        // Somebody stood in this node's name.
        let borrowed = answered_vote(&standing(), FROM, ballot(9, OWN, true)).expect("its term counts");
        assert_eq!((borrowed.term, borrowed.node_id), (9, FROM));
        let own = answered_vote(&standing(), FROM, ballot(standing().term(), OWN, true)).expect("its own");
        assert_eq!(own.node_id, OWN);
        expect("a leap", answered_vote(&standing(), FROM, ballot(u64::MAX, 3, true)), "no term");
        expect("a position", answered_log_id(wire(1, u64::MAX)), "no position");
    }
}
