//! The next step towards a wanted membership: a pure function of what the leader says.

use std::collections::BTreeSet;
use std::fmt;

use kvorum_proto::admin::v1::{Membership, Node, StatusResponse};

/// A learner becomes a voter when it lacks no more log than this: a fraction of a second of writes, so
/// that the change of voters does not wait for it.
const CAUGHT_UP_BYTES: u64 = 1024 * 1024;
/// A node that has been silent for longer is not there.
const SILENT_MS_MAX: u64 = 3_000;

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Goal {
    /// These nodes vote, beside those that do already.
    Voters(Vec<Node>),
    /// This node is a member.
    Learner(Node),
    /// This node is no member.
    Absent(u64),
}

/// One step of a change of the membership.
///
/// ```
/// assert_eq!(kvorum_client::admin::Step::TransferLeader.to_string(), "hand leadership over");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Found a cluster of one node.
    Found(String),
    /// Add a node that does not vote.
    AddLearner(Node),
    /// Remove a node that does not vote.
    RemoveLearner(u64),
    /// Make exactly these nodes the voters.
    ChangeVoters(BTreeSet<u64>),
    /// Hand leadership over, away from the node that leads.
    TransferLeader,
    /// Nothing can be done until something has happened.
    Wait(String),
    /// There is nothing left to do.
    Done,
    /// It cannot be done.
    Impossible(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Found(peer) => write!(f, "found the cluster on {peer}"),
            Step::AddLearner(node) => write!(f, "add {:016x} ({})", node.node_id, node.peer_address),
            Step::RemoveLearner(id) => write!(f, "remove {id:016x}"),
            Step::ChangeVoters(ids) => {
                f.write_str("change the voters to ")?;
                for (i, id) in ids.iter().enumerate() {
                    write!(f, "{}{id:016x}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Step::TransferLeader => f.write_str("hand leadership over"),
            Step::Wait(reason) => write!(f, "wait: {reason}"),
            Step::Done => f.write_str("done"),
            Step::Impossible(reason) => f.write_str(reason),
        }
    }
}

/// The next step. `leader` is the status of the node that leads.
pub(crate) fn plan(goal: &Goal, leader: &StatusResponse) -> Step {
    let Some(membership) = &leader.membership else {
        return Step::Wait("the leader has not told the membership yet".to_owned());
    };
    let [voters] = &membership.configs[..] else {
        // The leader finishes it by itself.
        return Step::Wait("another change of the membership to complete".to_owned());
    };
    let voters: BTreeSet<u64> = voters.node_ids.iter().copied().collect();
    match goal {
        Goal::Voters(nodes) => towards_voters(nodes, leader, membership, voters),
        Goal::Learner(node) if is_member(membership, node.node_id) => Step::Done,
        Goal::Learner(node) => Step::AddLearner(node.clone()),
        Goal::Absent(id) => towards_absence(*id, leader, membership, voters),
    }
}

fn towards_voters(
    nodes: &[Node],
    leader: &StatusResponse,
    membership: &Membership,
    mut voters: BTreeSet<u64>,
) -> Step {
    if let Some(node) = nodes.iter().find(|node| !is_member(membership, node.node_id)) {
        return Step::AddLearner(node.clone());
    }
    let missing: Vec<u64> = nodes.iter().map(|node| node.node_id).filter(|id| !voters.contains(id)).collect();
    if missing.is_empty() {
        return Step::Done;
    }
    if let Some(reason) = missing.iter().find_map(|&id| behind(leader, id)) {
        return Step::Wait(reason);
    }
    voters.extend(missing);
    Step::ChangeVoters(voters)
}

fn towards_absence(
    id: u64,
    leader: &StatusResponse,
    membership: &Membership,
    mut voters: BTreeSet<u64>,
) -> Step {
    if !is_member(membership, id) {
        return Step::Done;
    }
    if !voters.remove(&id) {
        return Step::RemoveLearner(id);
    }
    if voters.is_empty() {
        return Step::Impossible(format!(
            "{id:016x} is the only voter and cannot be removed; add and promote another member first"
        ));
    }
    if leader.node_id == id { Step::TransferLeader } else { Step::ChangeVoters(voters) }
}

/// Why a node has not caught up, if it has not.
fn behind(leader: &StatusResponse, id: u64) -> Option<String> {
    if id == leader.node_id {
        return None;
    }
    let progress = leader.progress.iter().find(|progress| progress.node_id == id);
    match progress {
        Some(progress) if progress.matched.is_none() => {
            Some(format!("{id:016x} to answer the leader ({} bytes behind)", progress.bytes_behind))
        }
        Some(progress) if progress.silent_ms > SILENT_MS_MAX => {
            Some(format!("{id:016x} to answer the leader again"))
        }
        Some(progress) if progress.bytes_behind > CAUGHT_UP_BYTES => {
            Some(format!("{id:016x} to catch up, {} bytes behind", progress.bytes_behind))
        }
        Some(_) => None,
        None => Some(format!("the leader to contact {id:016x}")),
    }
}

fn is_member(membership: &Membership, id: u64) -> bool {
    membership.nodes.iter().any(|node| node.node_id == id)
}

#[cfg(test)]
mod tests {
    //! Goal: from every state the next step leads towards the goal, never around it, so that a change
    //! can be repeated after a crash at any point. Method: a table of states.
    use kvorum_proto::admin::v1::{LogId, Progress, VoterSet};

    use super::*;

    fn node(id: u64) -> Node {
        Node { node_id: id, peer_address: format!("n{id}:2380"), client_address: format!("n{id}:2379") }
    }

    fn status(voters: &[u64], members: &[u64], behind: &[(u64, u64)]) -> StatusResponse {
        let progress = |&(node_id, bytes_behind): &(u64, u64)| Progress {
            node_id,
            matched: Some(LogId { term: 1, index: 5 }),
            bytes_behind,
            ..Progress::default()
        };
        StatusResponse {
            node_id: 1,
            membership: Some(Membership {
                log_id: None,
                configs: vec![VoterSet { node_ids: voters.to_vec() }],
                nodes: members.iter().map(|&id| node(id)).collect(),
            }),
            progress: behind.iter().map(progress).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn voters_come_in_as_learners_and_all_at_once() {
        let goal = Goal::Voters(vec![node(1), node(2), node(3)]);
        let step = |voters: &[u64], members: &[u64], behind: &[(u64, u64)]| {
            plan(&goal, &status(voters, members, behind))
        };
        assert_eq!(step(&[1], &[1], &[]), Step::AddLearner(node(2)));
        assert_eq!(step(&[1], &[1, 2], &[(2, 0)]), Step::AddLearner(node(3)));
        assert!(matches!(step(&[1], &[1, 2, 3], &[(2, 0)]), Step::Wait(_)));
        assert!(matches!(step(&[1], &[1, 2, 3], &[(2, 0), (3, 1 << 30)]), Step::Wait(_)));
        assert_eq!(step(&[1], &[1, 2, 3], &[(2, 0), (3, 9)]), Step::ChangeVoters([1, 2, 3].into()));
        assert_eq!(step(&[1, 2, 3], &[1, 2, 3], &[]), Step::Done);
        assert_eq!(step(&[1, 2, 3, 4], &[1, 2, 3, 4], &[]), Step::Done, "others stay");
    }

    #[test]
    fn a_leader_hands_over_before_it_goes() {
        let step =
            |id, voters: &[u64], members: &[u64]| plan(&Goal::Absent(id), &status(voters, members, &[]));
        assert_eq!(step(1, &[1, 2, 3], &[1, 2, 3]), Step::TransferLeader);
        assert_eq!(step(2, &[1, 2, 3], &[1, 2, 3]), Step::ChangeVoters([1, 3].into()));
        assert_eq!(step(4, &[1, 2, 3], &[1, 2, 3, 4]), Step::RemoveLearner(4));
        assert_eq!(step(4, &[1, 2, 3], &[1, 2, 3]), Step::Done);
        assert!(matches!(step(1, &[1], &[1, 2]), Step::Impossible(_)));
    }

    #[test]
    fn a_joint_change_is_waited_for() {
        let mut status = status(&[1], &[1, 2], &[]);
        if let Some(membership) = &mut status.membership {
            membership.configs.push(VoterSet { node_ids: vec![1, 2] });
        }
        assert!(matches!(plan(&Goal::Absent(2), &status), Step::Wait(_)));
    }
}
