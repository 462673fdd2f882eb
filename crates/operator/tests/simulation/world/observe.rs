//! What the operator sees of it.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::fence::LogId;
use kvorum_operator::observed::{Membership, Node, Observed, Role};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Volume, World};

impl World {
    /// What is read of Kubernetes, and what the nodes that are reached say.
    pub fn observe(&mut self, rng: &mut StdRng, faulty: bool) -> Observed {
        let silent = if faulty { 0.1 } else { 0.0 };
        let leader = self.group.as_ref().filter(|_| self.has_quorum()).and_then(|group| group.leader);
        let alive = self.alive();
        let logs: BTreeMap<u64, u64> = self
            .volumes
            .values()
            .filter(|volume| alive.contains(&volume.node_id))
            .map(|volume| (volume.node_id, volume.log))
            .collect();
        let running = self.running();
        let nodes = running.iter().map(|(i, volume)| (*i, self.node(*i, volume, leader, &logs)));
        let nodes = nodes.filter(|(i, _)| !self.cut_off.contains(i) && !rng.random_bool(silent));
        let mut nodes: BTreeMap<u32, Node> = nodes.collect();
        // Where no leader answers, the others say what they know.
        let mut reached = BTreeSet::new();
        if !nodes.values().any(|node| node.confirmed) {
            for node in nodes.values_mut().filter(|node| alive.contains(&node.node_id) && node.is_voter()) {
                node.confirmed = leader.is_some();
                reached.extend(alive.iter().copied());
            }
        }
        // The status follows the nodes.
        let latest = nodes.values().map(|node| node.incarnation).max().unwrap_or_default();
        if latest > self.incarnation {
            (self.incarnation, self.recovery) = (latest, None);
            self.outdate();
        }
        let mut claims = self.claims.clone();
        for claim in claims.values_mut() {
            claim.standby = self.standby;
            claim.volume = format!("pv-{}", claim.version.uid);
        }
        Observed {
            name: "demo".into(),
            wanted: self.wanted.clone(),
            cluster_id: self.cluster_id,
            reached,
            deleting: self.deleting,
            finalizer: self.finalizer,
            step: self.step.clone(),
            fresh_id: rng.random_range(1..u64::MAX),
            objects_current: self.objects_current,
            monitor: self.monitor.clone(),
            stateful_set: self.set.clone(),
            pods: self.pods.clone(),
            claims,
            nodes,
            incarnation: self.incarnation,
            recovery: self.recovery.clone(),
            recover_from: self.recover_from.clone(),
            auth: self.rights.auth(),
            access: self.rights.observe(),
            ..Observed::default()
        }
    }

    /// What a node says of itself.
    fn node(&self, ordinal: u32, volume: &Volume, leader: Option<u64>, logs: &BTreeMap<u64, u64>) -> Node {
        let group = self.group.as_ref().filter(|group| group.cluster_id == volume.cluster_id);
        let leads = leader == Some(volume.node_id);
        let role = match group {
            _ if volume.cluster_id == 0 => Role::Unjoined,
            _ if self.is_kept_out(ordinal, volume) => Role::StatusOnly,
            _ if leads => Role::Leader,
            Some(group) if group.voters().contains(&volume.node_id) => Role::Follower,
            _ => Role::Learner,
        };
        Node {
            node_id: volume.node_id,
            cluster_id: volume.cluster_id,
            incarnation: volume.incarnation,
            role,
            confirmed: leads,
            term: group.map_or(0, |group| group.term),
            last_log: LogId { term: 1, index: volume.log },
            membership: match group {
                Some(group) if leads => group.membership.clone(),
                _ if volume.log > 0 => volume.membership.clone(),
                _ => Membership::default(),
            },
            feature_level: self.rights.level(),
            closed: leads && self.rights.is_closed(),
            auth: self.rights.state(volume.incarnation),
            tls: self.pods.get(&ordinal).map(|pod| self.speaks(&pod.template)),
            progress: group.filter(|_| leads).map(|group| group.progress(logs)).unwrap_or_default(),
            ..Node::default()
        }
    }
}
