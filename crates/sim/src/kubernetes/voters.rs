//! Which disks there are, and which of them the cluster needs.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, Violation};
use crate::world::World;
use crate::world::clock::{Micros, SECOND};

/// How old what an operator has seen may be when it does something.
const LOOK_MAX: Micros = 8 * SECOND;

/// The disks of all ordinals.
#[derive(Debug)]
pub struct Disks {
    /// The node id of the disk of each ordinal, once a node has told it.
    ids: Vec<Option<u64>>,
    /// A disk that is gone for good, with its machine.
    lost: Vec<bool>,
    /// A disk whose node serves nothing but its status, since it lacks what it has promised, for example.
    set_aside: Vec<bool>,
    /// Who votes, as those that are up know it.
    configs: BTreeMap<usize, BTreeSet<u64>>,
    /// Who votes, as the last leader has it, and its term.
    voters: (u64, u64, BTreeSet<u64>),
    /// All members, as that leader has it.
    members: BTreeSet<u64>,
    /// Since when those who are there of the others are no quorum without an ordinal, if they are none.
    needed_since: Vec<Option<Micros>>,
}

impl Disks {
    /// Of so many ordinals.
    pub fn new(ordinals: usize) -> Disks {
        Disks {
            ids: vec![None; ordinals],
            lost: vec![false; ordinals],
            set_aside: vec![false; ordinals],
            configs: BTreeMap::new(),
            voters: (0, 0, BTreeSet::new()),
            members: BTreeSet::new(),
            needed_since: vec![None; ordinals],
        }
    }

    /// Looks at all nodes that are up.
    pub fn look(&mut self, cluster: &Cluster, world: &World) {
        for (host, seen) in cluster.seen(world) {
            let place = &seen.place;
            self.ids[host] = Some(place.node_id);
            self.set_aside[host] = place.status_only.is_some();
            if place.cluster_id == 0 || place.status_only.is_some() {
                continue;
            }
            let voters: BTreeSet<u64> =
                place.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
            if place.is_leader() && (place.incarnation, place.term) >= (self.voters.0, self.voters.1) {
                self.voters = (place.incarnation, place.term, voters.clone());
                self.members = place.members.iter().map(|member| member.node_id).collect();
            }
            self.configs.insert(host, voters);
        }
    }

    /// Takes note of who is there now.
    pub fn note_needed(&mut self, cluster: &Cluster, world: &World) {
        let seen = cluster.seen(world);
        let (voters, now) = (&self.voters.2, world.clock.now());
        let is_there = |other: &usize| {
            let is_whole = !self.lost[*other] && !self.set_aside[*other];
            is_whole && seen.contains_key(other) && self.ids[*other].is_some_and(|id| voters.contains(&id))
        };
        let there: Vec<usize> = (0..self.ids.len()).filter(is_there).collect();
        for (ordinal, since) in self.needed_since.iter_mut().enumerate() {
            let others = there.iter().filter(|other| **other != ordinal).count();
            let is_needed = others * 2 <= voters.len();
            *since = if is_needed { since.or(Some(now)) } else { None };
        }
    }

    /// An operator has a member go, by its pod or its claim, and has seen for so long who is there: without it a quorum is
    /// left. One or two members cannot do without any.
    pub fn judge_quorum(&self, ordinal: usize, now: Micros, seen_for: Micros) -> Result<(), Violation> {
        let since = self.needed_since.get(ordinal).copied().flatten();
        let voters = &self.voters.2;
        let votes = self.ids.get(ordinal).copied().flatten().is_some_and(|id| voters.contains(&id));
        match since
            .filter(|since| votes && voters.len() > 2 && now >= since + LOOK_MAX && seen_for >= LOOK_MAX)
        {
            Some(since) => Err(format!(
                "an operator has member {ordinal} go, without which no quorum has been there for {} s",
                (now - since) / SECOND
            )),
            None => Ok(()),
        }
    }

    /// The ordinal has another disk, an empty one.
    pub fn is_new(&mut self, ordinal: usize) {
        (self.ids[ordinal], self.lost[ordinal], self.set_aside[ordinal]) = (None, false, false);
        self.configs.remove(&ordinal);
    }

    /// The disk is gone with its machine, though its claim is there.
    pub fn lose(&mut self, ordinal: usize) {
        self.lost[ordinal] = true;
        self.configs.remove(&ordinal);
    }

    /// Whether what the cluster has is there without this disk, however its membership is just then.
    pub fn can_lose(&self, ordinal: usize) -> bool {
        let is_whole = |other: &usize| *other != ordinal && !self.lost[*other] && !self.set_aside[*other];
        let whole: BTreeSet<u64> =
            (0..self.ids.len()).filter(is_whole).filter_map(|other| self.ids[other]).collect();
        let is_there =
            |voters: &BTreeSet<u64>| voters.iter().filter(|id| whole.contains(id)).count() * 2 > voters.len();
        let mut configs = self.configs.values().chain([&self.voters.2]).filter(|voters| !voters.is_empty());
        !self.voters.2.is_empty() && configs.all(is_there)
    }

    /// The ordinals of the disks that vote.
    pub fn voters(&self) -> Vec<usize> {
        let votes = |ordinal: &usize| self.ids[*ordinal].is_some_and(|id| self.voters.2.contains(&id));
        (0..self.ids.len()).filter(votes).collect()
    }

    /// Whether those who vote are not those whose disks there are.
    pub fn unwanted(&self) -> Option<String> {
        let there: BTreeSet<u64> = self.ids.iter().copied().flatten().collect();
        let (voters, members) = (&self.voters.2, &self.members);
        let is_right = there == *voters && there == *members;
        (!is_right).then(|| format!("of the members {members:x?} {voters:x?} vote, and {there:x?} are there"))
    }

    /// An operator leaves the first ordinals only: of the others nobody votes any more.
    pub fn judge_shrink(&self, left: usize) -> Result<(), Violation> {
        match self.voters().into_iter().find(|ordinal| *ordinal >= left) {
            Some(ordinal) => {
                Err(format!("an operator leaves {left} pods, and the disk of {ordinal} votes in the cluster"))
            }
            None => Ok(()),
        }
    }

    /// An operator deletes a claim: its disk is lost, or belongs to no voter.
    pub fn judge_deletion(&self, ordinal: usize) -> Result<(), Violation> {
        let Some(id) = self.ids.get(ordinal).copied().flatten() else { return Ok(()) };
        if !self.lost[ordinal] && !self.set_aside[ordinal] && self.voters.2.contains(&id) {
            return Err(format!(
                "an operator deletes the claim of {ordinal}, whose disk {id:016x} is whole and votes"
            ));
        }
        Ok(())
    }
}
