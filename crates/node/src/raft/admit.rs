//! What of the other members' messages reaches openraft.
//!
//! openraft trusts its peers: it asserts what a member that keeps to the protocol never breaks, adopts any
//! term it hears of, and takes whoever holds a committed vote for the leader. So every message is checked
//! here first, against itself and against what this node has. What is refused here was not sent by a member
//! that keeps to the protocol; no check leans on who can reach the port.
//!
//! A term or a committed position only ever grows, so what openraft knows when it gets to the message is at
//! least what is looked at here: a message that passes here fits there as well, or is rejected by its vote.

use kvorum_proto::{admin::v1 as admin, peer::v1 as peer};
use kvorum_store::entry::{self, LogId, Payload};
use kvorum_store::log::Vote;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use super::standing::{Refused, Standing, TERM_MAX, in_order, log_id, refused};
use super::types::{
    Membership, SnapshotMeta, StoredMembership, TypeConfig, decode_membership, raft_entry, raft_log_id,
    raft_vote,
};

/// A joint membership has two configurations.
const CONFIGS_MAX: usize = 2;

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
mod tests;
