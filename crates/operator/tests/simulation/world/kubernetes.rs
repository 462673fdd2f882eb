//! What Kubernetes and raft do by themselves.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::observed::{Claim, Machine, Pod};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{BROKEN, Volume, World};

impl World {
    /// Kubernetes and raft do their part.
    pub fn tick(&mut self, rng: &mut StdRng, faulty: bool) {
        self.keep_pods(rng, faulty);
        self.grow_volumes();
        let slow = if faulty { 0.3 } else { 0.0 };
        let reached: BTreeSet<u64> = self.alive().into_iter().filter(|_| !rng.random_bool(slow)).collect();
        self.with_logs(|group, logs| group.beat(logs, |id| reached.contains(&id)));
        let leads = self.group.as_ref().is_some_and(|group| group.leader.is_some());
        let members = self.alive();
        self.without_quorum = if self.has_quorum() { 0 } else { self.without_quorum + 1 };
        if let Some(group) = &self.group {
            let told = |volume: &&mut Volume| {
                members.contains(&volume.node_id) && volume.log >= group.membership.log_id.index
            };
            for volume in self.volumes.values_mut().filter(told) {
                volume.membership = group.membership.clone();
            }
        }
        let ids: BTreeMap<u32, u64> = self.running().into_iter().map(|(i, v)| (i, v.node_id)).collect();
        for (i, pod) in &mut self.pods {
            pod.ready = pod.running && leads && ids.get(i).is_some_and(|id| members.contains(id));
        }
    }

    pub(super) fn keep_pods(&mut self, rng: &mut StdRng, faulty: bool) {
        let replicas = self.set.as_ref().filter(|set| !set.deleting).map_or(0, |set| set.replicas);
        // Pods go at once, unless nobody says that they have ended, and what held on to them goes with them.
        self.pods.retain(|_, pod| !pod.deleting || self.stuck.contains(&pod.version.uid));
        let held: BTreeSet<u32> = self.pods.keys().copied().collect();
        let gone: Vec<String> = self
            .claims
            .iter()
            .filter(|(i, claim)| claim.deleting && !held.contains(i))
            .map(|(_, claim)| claim.version.uid.clone())
            .collect();
        self.claims.retain(|i, claim| !claim.deleting || held.contains(i));
        self.volumes.retain(|uid, _| !gone.contains(uid));
        if self.set.as_ref().is_some_and(|set| set.deleting) {
            self.set = None;
        }
        let Some(set) = self.set.clone() else { return };
        for i in 0..replicas {
            if !self.claims.contains_key(&i) && !self.pods.contains_key(&i) {
                let version = self.version();
                let node_id = 1_000 + self.next();
                self.volumes.insert(version.uid.clone(), Volume { node_id, ..Volume::default() });
                let bytes = set.storage_bytes;
                let claim =
                    Claim { version, requested_bytes: bytes, capacity_bytes: bytes, ..Claim::default() };
                self.claims.insert(i, claim);
            }
            if !self.pods.contains_key(&i) && self.claims.get(&i).is_some_and(|claim| !claim.deleting) {
                let version = self.version();
                self.pods.insert(i, Pod { version, template: set.template.clone(), ..Pod::default() });
            }
        }
        // What the StatefulSet no longer wants goes, highest first.
        if let Some((&top, _)) = self.pods.range(replicas..).next_back() {
            self.pods.remove(&top);
        }
        for (i, pod) in &mut self.pods {
            let on_machine = self.claims.get(i).is_some_and(|claim| claim.machine == Machine::Exists);
            let able = on_machine && !pod.deleting && !self.blocked && !pod.template.starts_with(BROKEN);
            let starts = !pod.running && able && (!faulty || rng.random_bool(0.5));
            pod.running |= starts;
        }
    }

    pub(super) fn grow_volumes(&mut self) {
        for claim in self.claims.values_mut() {
            claim.capacity_bytes = claim.requested_bytes;
        }
    }
}
