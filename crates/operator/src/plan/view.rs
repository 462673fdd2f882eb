//! What a leader with a confirmed quorum says, read together with what else is known.

use std::collections::BTreeSet;

use crate::observed::{Membership, Node, Observed, Role};

/// A voter that lacks more of the log than this has not caught up: a fraction of a second of writes.
const CAUGHT_UP_BYTES: u64 = 1 << 20;

/// The cluster, as its leader sees it.
#[derive(Debug)]
pub struct View<'a> {
    /// Everything that was observed.
    pub observed: &'a Observed,
    /// The cluster's id.
    pub cluster_id: u64,
    /// The leader.
    pub leader: &'a Node,
    /// The membership in force.
    pub membership: &'a Membership,
    /// Its voters: of both sets, while a joint change is under way.
    pub voters: BTreeSet<u64>,
}

/// More than half of so many.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

impl<'a> View<'a> {
    /// The view, where a leader's quorum is confirmed.
    pub fn of(observed: &'a Observed) -> Option<View<'a>> {
        let cluster_id = observed.cluster_id?;
        let leads = |node: &&Node| {
            node.role == Role::Leader && node.confirmed && node.cluster_id == cluster_id && !node.is_blank()
        };
        let leader = observed.nodes.values().filter(leads).max_by_key(|node| node.term)?;
        let membership = &leader.membership;
        let voters = membership.configs.iter().flatten().copied().collect();
        Some(View { observed, cluster_id, leader, membership, voters })
    }

    /// The ordinal whose address a member has.
    pub fn ordinal(&self, node_id: u64) -> Option<u32> {
        self.membership.nodes.get(&node_id).copied().flatten()
    }

    /// Voters at an ordinal's address. There are two while a lost disk is being replaced.
    pub fn voters_at(&self, ordinal: u32) -> BTreeSet<u64> {
        self.voters.iter().copied().filter(|id| self.ordinal(*id) == Some(ordinal)).collect()
    }

    /// Members that do not vote.
    pub fn learners(&self) -> impl Iterator<Item = u64> {
        self.membership.nodes.keys().copied().filter(|id| !self.voters.contains(id))
    }

    /// The highest ordinal in the membership, plus one.
    pub fn floor(&self) -> u32 {
        self.membership.nodes.values().flatten().max().map_or(0, |highest| highest + 1)
    }

    /// The member answers, stays, and lacks next to nothing. Where the operator does not reach it, its kubelet and the
    /// leader speak for it.
    pub fn fit(&self, node_id: u64) -> bool {
        let Some(ordinal) = self.ordinal(node_id) else { return false };
        let Some(pod) = self.observed.pods.get(&ordinal) else { return false };
        let answers = match self.observed.nodes.get(&ordinal) {
            Some(node) => node.node_id == node_id,
            None => pod.ready,
        };
        answers && !pod.deleting && self.caught_up(node_id)
    }

    /// The leader hears of the member, wherever Kubernetes believes it to be.
    pub fn hears(&self, node_id: u64) -> bool {
        let of = self.leader.progress.get(&node_id);
        of.is_some_and(|progress| {
            progress.matched > 0 && progress.silent_ms <= self.observed.wanted.silent_ms_max
        })
    }

    /// The member's data differs from what a majority holds.
    pub fn is_corrupt(&self, node_id: u64) -> bool {
        self.leader.corrupt.contains(&node_id)
    }

    fn caught_up(&self, node_id: u64) -> bool {
        if self.is_corrupt(node_id) {
            return false;
        }
        node_id == self.leader.node_id
            || self.leader.progress.get(&node_id).is_some_and(|progress| {
                progress.matched > 0
                    && progress.bytes_behind <= CAUGHT_UP_BYTES
                    && progress.silent_ms <= self.observed.wanted.silent_ms_max
            })
    }

    /// Who takes over from the leader best, of these.
    pub fn heir(&self, among: &BTreeSet<u64>) -> Option<u64> {
        let fit = among.iter().copied().filter(|id| *id != self.leader.node_id && self.fit(*id));
        fit.max_by_key(|id| self.leader.progress.get(id).map(|progress| progress.matched))
    }

    /// How many of these are fit.
    pub fn fit_among(&self, nodes: &BTreeSet<u64>) -> usize {
        nodes.iter().filter(|id| self.fit(**id)).count()
    }

    /// Those that are fit would be a quorum of the present voters without these.
    pub fn quorum_without(&self, gone: &BTreeSet<u64>) -> bool {
        self.fit_among(&(&self.voters - gone)) >= majority(self.voters.len())
    }

    /// Those that are fit would be a quorum of these voters.
    pub fn quorum_of(&self, voters: &BTreeSet<u64>) -> bool {
        !voters.is_empty() && self.fit_among(voters) >= majority(voters.len())
    }
}
