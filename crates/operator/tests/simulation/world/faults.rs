//! What goes wrong, and what somebody wants.

use std::collections::BTreeSet;

use kvorum_crd::Keep;
use kvorum_operator::observed::{Claim, Machine, Monitor};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use super::{Volume, World};

impl World {
    pub(super) fn someone(&self, rng: &mut StdRng) -> Option<(u32, u64)> {
        let (i, claim) = self.claims.iter().choose(rng)?;
        Some((*i, self.volumes.get(&claim.version.uid)?.node_id))
    }

    /// Something goes wrong, or somebody wants something.
    pub fn fault(&mut self, rng: &mut StdRng) -> String {
        let kind = rng.random_range(0..33_u32);
        let someone = self.someone(rng);
        let said = self.of_pods_and_disks(kind, someone, rng);
        let said = said.or_else(|| self.of_people(kind, someone, rng));
        said.or_else(|| self.of_kubernetes(kind, someone, rng)).unwrap_or_else(|| "nothing".into())
    }

    /// Pods and disks fail, or are lost.
    fn of_pods_and_disks(
        &mut self,
        kind: u32,
        someone: Option<(u32, u64)>,
        rng: &mut StdRng,
    ) -> Option<String> {
        let said = match (kind, someone) {
            (2, Some((i, _))) => {
                self.pods.remove(&i);
                format!("pod {i} is deleted")
            }
            (3 | 4, Some((i, _))) => {
                if let Some(pod) = self.pods.get_mut(&i) {
                    (pod.running, pod.ready) = (false, false);
                }
                format!("pod {i} crashes")
            }
            (5, Some((i, id))) if self.can_lose(id) => {
                let node_id = 1_000 + self.next();
                let uid = self.claims[&i].version.uid.clone();
                self.volumes.insert(uid, Volume { node_id, ..Volume::default() });
                format!("disk {i} is emptied")
            }
            (6, Some((i, id))) if self.can_lose(id) => {
                self.pods.remove(&i);
                let claim = self.claims.remove(&i).expect("it was chosen");
                self.volumes.remove(&claim.version.uid);
                format!("claim and pod {i} are deleted")
            }
            (7, Some((i, id))) if self.group.is_some() && self.can_lose(id) => {
                self.claims.get_mut(&i).expect("it was chosen").machine = Machine::Gone;
                if let Some(pod) = self.pods.get_mut(&i) {
                    (pod.running, pod.ready) = (false, false);
                }
                self.standby = rng.random_bool(0.5);
                format!("the machine of {i} is gone")
            }
            (17 | 18, _) if self.can_lose(0) => self.lose_most(rng),
            (23, Some((i, _))) => {
                let claim = self.claims.get_mut(&i).expect("it was chosen");
                claim.declared_lost = claim.machine == Machine::Gone;
                format!("the disk of {i} is declared lost: {}", claim.declared_lost)
            }
            (26, Some((i, _))) => {
                if let Some(pod) = self.pods.get_mut(&i) {
                    (pod.running, pod.ready, pod.deleting) = (false, false, true);
                    self.stuck.insert(pod.version.uid.clone());
                }
                format!("pod {i} is deleted, and its machine does not say that it has ended")
            }
            _ => return None,
        };
        Some(said)
    }

    /// People want something else, or do something by hand.
    fn of_people(&mut self, kind: u32, someone: Option<(u32, u64)>, rng: &mut StdRng) -> Option<String> {
        let said = match (kind, someone) {
            (0 | 1, _) => {
                self.wanted.members = [1, 2, 3, 3, 4, 5][rng.random_range(0..6)];
                format!("members: {}", self.wanted.members)
            }
            (11 | 12, _) => {
                self.template += 1;
                // Some changes break every pod that gets them; a later one heals them.
                self.broken = kind == 12;
                if let Some(set) = &mut self.set {
                    set.current = false;
                }
                format!("template {}", self.template)
            }
            (13, _) => {
                self.wanted.storage_bytes += 1;
                "larger volumes are wanted".into()
            }
            (15, _) => {
                self.monitor = Monitor::Differs;
                "a PodMonitor is wanted".into()
            }
            (16, _) => {
                self.monitor = Monitor::Unwanted(self.version());
                "a PodMonitor is not wanted any more".into()
            }
            (21, _) => {
                let observed = self.observe(rng, true);
                self.ask_for_recovery(&observed)
            }
            (22, _) => {
                // Whoever does not read what the operator says takes any token.
                let node = self.observe(rng, true).nodes.into_values().choose(rng);
                self.recover_from = node.map(|node| node.token().to_string());
                format!("recover from {:?}", self.recover_from)
            }
            (29 | 30, _) => self.rights.declare(rng),
            (31, _) => {
                self.rights.change();
                "somebody else changes users".into()
            }
            (27, _) if !self.deleting => {
                self.wanted.when_deleted = if rng.random_bool(0.5) { Keep::Delete } else { Keep::Retain };
                self.stuck.clear();
                format!("whenDeleted: {:?}", self.wanted.when_deleted)
            }
            (28, _) if self.finalizer => {
                self.deleting = true;
                "the KvCluster is deleted".into()
            }
            (28, _) => {
                self.make_again();
                "the KvCluster is deleted, and made again over its claims".into()
            }
            _ => return None,
        };
        Some(said)
    }

    /// What is around the members fails, or is changed behind the operator's back.
    fn of_kubernetes(&mut self, kind: u32, someone: Option<(u32, u64)>, rng: &mut StdRng) -> Option<String> {
        let said = match (kind, someone) {
            (8, Some((_, id))) => {
                let removed = self.with_logs(|group, logs| {
                    let mut voters = group.voters();
                    voters.remove(&id);
                    let alive: BTreeSet<u64> = logs.keys().copied().collect();
                    let safe = (&voters & &alive).len() > voters.len() / 2;
                    let at = group.membership.log_id;
                    safe && group.voters().contains(&id) && group.change_voters(logs, at, &voters)
                });
                format!("member {id} is removed behind the operator's back: {removed:?}")
            }
            (9, _) => {
                let replicas = rng.random_range(0..5);
                if let Some(version) = self.set.as_ref().map(|set| set.version.clone()) {
                    self.change_set(&version, |set| set.replicas = replicas);
                }
                format!("the StatefulSet is scaled to {replicas}")
            }
            (10, _) => {
                self.set = None;
                "the StatefulSet is deleted without its pods".into()
            }
            (14, _) if self.group.is_some() => {
                (self.cluster_id, self.step, self.recovery) = (None, None, None);
                self.rights.erase_record();
                // The claims know it, where a node of it has ever been seen to lead.
                let latest = self.claims.values().filter(|claim| !claim.deleting);
                let latest = latest.map(|claim| claim.incarnation).max();
                self.incarnation = latest.unwrap_or_default().max(1);
                self.outdate();
                "the status is erased".into()
            }
            (19, _) => {
                self.blocked = true;
                self.pods.retain(|_, _| rng.random_bool(0.4));
                "no pod finds a machine, and most are deleted".into()
            }
            (20, _) => {
                self.blocked = false;
                "pods find machines again".into()
            }
            (32, _) => {
                self.rights.forget();
                "the operator is started anew".into()
            }
            (24, _) => {
                self.cut_off = (0..5).filter(|_| rng.random_bool(0.4)).collect();
                format!("the operator is cut off from {:?}", self.cut_off)
            }
            (25, _) => {
                self.cut_off.clear();
                "the operator reaches all".into()
            }
            _ => return None,
        };
        Some(said)
    }

    /// More disks than the cluster can do without are gone for good.
    pub(super) fn lose_most(&mut self, rng: &mut StdRng) -> String {
        let Some(group) = &self.group else { return "nothing".into() };
        let voters = group.voters();
        let of = |claim: &Claim| self.volumes.get(&claim.version.uid).map(|volume| volume.node_id);
        let mut ours: Vec<(u32, u64)> =
            self.claims.iter().filter_map(|(i, claim)| Some((*i, of(claim)?))).collect();
        ours.retain(|(i, id)| {
            voters.contains(id) && self.claims[i].machine == Machine::Exists && !self.claims[i].deleting
        });
        let spared = rng.random_range(0..ours.len().max(1));
        let most = ours.into_iter().enumerate().filter(|(n, _)| *n != spared && rng.random_bool(0.8));
        let most: Vec<(u32, u64)> = most.map(|(_, lost)| lost).collect();
        for (i, id) in &most {
            if let Some(group) = &mut self.group {
                group.taken.insert(*id);
            }
            match rng.random_range(0..3) {
                0 => {
                    self.pods.remove(i);
                    let claim = self.claims.remove(i);
                    claim.map(|claim| self.volumes.remove(&claim.version.uid));
                }
                1 => {
                    let (node_id, uid) = (1_000 + self.next(), self.claims[i].version.uid.clone());
                    self.volumes.insert(uid, Volume { node_id, ..Volume::default() });
                }
                _ => {
                    self.claims.get_mut(i).expect("it was chosen").machine = Machine::Gone;
                    if let Some(pod) = self.pods.get_mut(i) {
                        (pod.running, pod.ready) = (false, false);
                    }
                }
            }
        }
        format!("these disks are lost for good: {most:?}")
    }
}
