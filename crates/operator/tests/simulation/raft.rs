//! A raft group as far as an operator can tell: who leads, who has what, and how the membership
//! changes. An entry is acknowledged once a majority of each voter set has it.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::fence::LogId;
use kvorum_operator::observed::{Membership, Progress};

/// The group.
#[derive(Debug, Clone)]
pub struct Group {
    pub cluster_id: u64,
    pub membership: Membership,
    pub leader: Option<u64>,
    pub term: u64,
    /// The last index that clients were told of.
    pub acknowledged: u64,
    /// 1, and one more after each recovery.
    pub incarnation: u64,
    /// The log that each later incarnation was begun with.
    pub began: BTreeMap<u64, u64>,
    /// Disks of this incarnation that faults have taken, more of them than a cluster can do without.
    pub taken: BTreeSet<u64>,
}

/// Logs of the disks that are reachable, by node id.
pub type Logs<'a> = BTreeMap<u64, &'a mut u64>;

impl Group {
    pub fn found(cluster_id: u64, founder: u64, ordinal: u32) -> Group {
        Group {
            cluster_id,
            membership: Membership {
                log_id: LogId { term: 1, index: 1 },
                configs: vec![[founder].into()],
                nodes: [(founder, Some(ordinal))].into(),
            },
            leader: Some(founder),
            term: 1,
            acknowledged: 1,
            incarnation: 1,
            began: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    /// The survivor goes on alone, with what it has.
    pub fn recover(&mut self, survivor: u64, ordinal: u32, log: u64, to: u64) {
        self.began.insert(to, log);
        self.term += 1;
        (self.incarnation, self.leader, self.acknowledged) = (to, Some(survivor), log + 1);
        self.membership = Membership {
            log_id: LogId { term: self.term, index: log + 1 },
            configs: vec![[survivor].into()],
            nodes: [(survivor, Some(ordinal))].into(),
        };
        self.taken.clear();
    }

    pub fn voters(&self) -> BTreeSet<u64> {
        self.membership.configs.iter().flatten().copied().collect()
    }

    /// These are a majority of each voter set.
    pub fn is_quorum(&self, nodes: &BTreeSet<u64>) -> bool {
        self.membership.configs.iter().all(|set| (set & nodes).len() > set.len() / 2)
    }

    /// One heartbeat: elects, replicates to those whom `reaches` names, acknowledges.
    pub fn beat(&mut self, logs: &mut Logs, mut reaches: impl FnMut(u64) -> bool) {
        let alive: BTreeSet<u64> = logs.keys().copied().collect();
        if !self.is_quorum(&alive) {
            self.leader = None;
            return;
        }
        let voters = self.voters();
        if self.leader.is_none_or(|leader| !alive.contains(&leader) || !voters.contains(&leader)) {
            // Whoever has the most wins.
            let best = alive.intersection(&voters).max_by_key(|id| *logs[id]);
            self.leader = best.copied();
            self.term += 1;
        }
        let Some(leader) = self.leader else { return };
        let last = *logs[&leader] + 1;
        for (id, log) in logs.iter_mut() {
            if *id == leader || (self.membership.nodes.contains_key(id) && reaches(*id)) {
                **log = last;
            }
        }
        let have: BTreeSet<u64> = logs.iter().filter(|(_, log)| ***log == last).map(|(id, _)| *id).collect();
        if self.is_quorum(&have) {
            self.acknowledged = last;
        }
        if self.membership.configs.len() == 2 && self.is_quorum(&have) {
            self.finish_joint(last);
        }
    }

    fn finish_joint(&mut self, index: u64) {
        let new = self.membership.configs.remove(1);
        let old = std::mem::replace(&mut self.membership.configs[0], new.clone());
        self.membership.nodes.retain(|id, _| new.contains(id) || !old.contains(id));
        self.membership.log_id = LogId { term: self.term, index };
        if self.leader.is_some_and(|leader| !new.contains(&leader)) {
            self.leader = None;
        }
    }

    /// Adds or removes one that does not vote.
    pub fn change_nodes(
        &mut self,
        logs: &mut Logs,
        expected: LogId,
        change: impl FnOnce(&mut Membership),
    ) -> bool {
        if self.refuses(expected, logs) {
            return false;
        }
        change(&mut self.membership);
        self.commit(logs);
        true
    }

    /// Begins a change of the voters; the next heartbeat that reaches enough of both sets ends it.
    pub fn change_voters(&mut self, logs: &mut Logs, expected: LogId, voters: &BTreeSet<u64>) -> bool {
        // As the node does: who comes in answers, and those who stay would have a majority.
        let alive: BTreeSet<u64> = logs.keys().copied().collect();
        let known = voters.iter().all(|id| self.membership.nodes.contains_key(id));
        let live = (voters & &alive).len() > voters.len() / 2 && (voters - &self.voters()).is_subset(&alive);
        if self.refuses(expected, logs) || !known || !live {
            return false;
        }
        self.membership.configs.push(voters.clone());
        self.commit(logs);
        true
    }

    fn refuses(&self, expected: LogId, logs: &Logs) -> bool {
        let alive: BTreeSet<u64> = logs.keys().copied().collect();
        expected != self.membership.log_id
            || self.membership.configs.len() != 1
            || self.leader.is_none_or(|leader| !alive.contains(&leader))
            || !self.is_quorum(&alive)
    }

    fn commit(&mut self, logs: &mut Logs) {
        let Some(leader) = self.leader else { return };
        let index = *logs[&leader] + 1;
        for (id, log) in logs.iter_mut() {
            if self.membership.nodes.contains_key(id) {
                **log = index;
            }
        }
        self.membership.log_id = LogId { term: self.term, index };
    }

    /// What the leader says of the others.
    pub fn progress(&self, logs: &BTreeMap<u64, u64>) -> BTreeMap<u64, Progress> {
        let Some(last) = self.leader.and_then(|leader| logs.get(&leader)).copied() else {
            return BTreeMap::new();
        };
        let of = |id: &u64| match logs.get(id) {
            Some(at) => Progress { matched: *at, bytes_behind: (last - at.min(&last)) << 19, silent_ms: 10 },
            None => Progress { matched: 1, bytes_behind: 0, silent_ms: 60_000 },
        };
        self.membership.nodes.keys().filter(|id| Some(**id) != self.leader).map(|id| (*id, of(id))).collect()
    }
}
