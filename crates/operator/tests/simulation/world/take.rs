//! What a step does, where its fences let it.

use std::collections::BTreeSet;

use kvorum_operator::fence::{Retired, Token, Version};
use kvorum_operator::observed::{Claim, Membership, Monitor, StatefulSet};
use kvorum_operator::step::{Risky, Step};

use super::{Volume, World};
use crate::raft::Group;

impl World {
    /// What a step does, where its fences let it. False: it was refused.
    pub fn apply(&mut self, step: &Step) -> bool {
        match step {
            Step::Rest | Step::Wait => true,
            Step::AddFinalizer => {
                self.finalizer = true;
                true
            }
            Step::RemoveFinalizer => {
                self.finalizer = false;
                if self.deleting {
                    self.make_again();
                }
                true
            }
            Step::DeleteStatefulSet { version } => {
                let seen = self.deleting && self.set.as_ref().is_some_and(|set| set.version == *version);
                if seen {
                    self.set = None;
                    self.pods.clear();
                }
                seen
            }
            Step::RaiseIncarnation { to, token } => {
                let later = *to > self.incarnation;
                if later {
                    (self.incarnation, self.recovery) = (*to, Some(token.to_string()));
                    self.outdate();
                }
                later
            }
            Step::DropToken => {
                (self.recovery, self.recover_from) = (None, None);
                true
            }
            Step::ApplyObjects => {
                self.objects_current = true;
                true
            }
            // No world has one that is not wanted.
            Step::DeletePolicy { .. } => true,
            Step::ApplyAccess { sent } => self.declare(sent.fingerprint),
            Step::ApplyMonitor | Step::DeleteMonitor { .. } => {
                self.monitor = Monitor::AsWanted;
                true
            }
            Step::Record(risky) => {
                // The KvCluster's resource version lets only one of two operators write.
                let free = self.step.is_none();
                self.step = Some(self.step.clone().unwrap_or_else(|| risky.clone()));
                free
            }
            Step::Act(risky) => self.act(risky),
            Step::Forget(risky) => self.forget(risky),
            Step::Abandon(risky) => {
                self.touch_target(risky);
                self.forget(risky)
            }
            step => self.apply_to_members(step),
        }
    }

    /// The StatefulSet, the claims and the cluster itself.
    fn apply_to_members(&mut self, step: &Step) -> bool {
        match step {
            Step::CreateStatefulSet { replicas } => self.create_set(*replicas),
            Step::UpdateStatefulSet { version } => {
                let template = self.template_name();
                self.change_set(version, |set| {
                    set.current = true;
                    set.template = template;
                })
            }
            Step::Grow { replicas, version } => self.change_set(version, |set| set.replicas = *replicas),
            Step::RecordDisk { ordinal, version, disk, incarnation } => {
                let auth = self.rights.auth();
                self.change_claim(*ordinal, version, |claim| {
                    claim.auth = auth;
                    (claim.disk, claim.incarnation) = (Some(*disk), *incarnation);
                    (claim.retired, claim.released) = (Retired::No, false);
                })
            }
            Step::Retire { ordinal, version, retired } => {
                self.change_claim(*ordinal, version, |claim| claim.retired = *retired)
            }
            Step::GrowClaim { ordinal } => {
                let wanted = self.wanted.storage_bytes;
                self.claims.get_mut(ordinal).map(|claim| claim.requested_bytes = wanted).is_some()
            }
            Step::Latch { cluster_id } => {
                // The status refuses another id.
                let free = self.cluster_id.is_none_or(|id| id == *cluster_id);
                self.cluster_id = Some(self.cluster_id.unwrap_or(*cluster_id));
                free
            }
            Step::Initialize { ordinal, node_id, cluster_id, closed } => {
                self.initialize(*ordinal, *node_id, *cluster_id, *closed)
            }
            Step::TransferLeader { to } => self.transfer(*to),
            _ => unreachable!("the steps before"),
        }
    }

    /// The KvCluster is gone with all that it owned, and somebody makes it again.
    pub(super) fn make_again(&mut self) {
        (self.deleting, self.finalizer, self.objects_current) = (false, false, false);
        (self.cluster_id, self.step, self.recovery, self.recover_from) = (None, None, None, None);
        self.set = None;
        self.pods.clear();
        self.lives += 1;
        // Its operator knows nothing of the one before.
        self.rights.forget();
        self.rights.erase_record();
        let of_group = |group: &Group| self.volumes.values().any(|v| v.cluster_id == group.cluster_id);
        if !self.group.as_ref().is_some_and(of_group) {
            // All of its data was deleted with it.
            self.group = None;
            self.rights.lose();
            self.founded.clear();
        }
        let kept = self.claims.values().filter(|claim| !claim.deleting && claim.disk.is_some());
        self.incarnation = kept.map(|claim| claim.incarnation).max().unwrap_or_default().max(1);
    }

    pub(super) fn forget(&mut self, risky: &Risky) -> bool {
        let same = self.step.as_ref() == Some(risky);
        if same {
            self.step = None;
        }
        same
    }

    pub(super) fn touch_target(&mut self, risky: &Risky) {
        let fresh = self.next().to_string();
        let version = match risky {
            Risky::DeletePod { ordinal, .. } => self.pods.get_mut(ordinal).map(|pod| &mut pod.version),
            Risky::DeleteClaim { ordinal, .. } => {
                self.claims.get_mut(ordinal).map(|claim| &mut claim.version)
            }
            Risky::Shrink { .. } | Risky::RecreateStatefulSet { .. } => {
                self.set.as_mut().map(|set| &mut set.version)
            }
            _ => None,
        };
        if let Some(version) = version {
            version.resource_version = fresh;
        }
    }

    pub(super) fn act(&mut self, risky: &Risky) -> bool {
        match risky {
            Risky::AddLearner { node_id, ordinal, membership } => {
                let group = self.group.as_ref().map(|group| (group.cluster_id, group.incarnation));
                let Some((cluster_id, incarnation)) = group else { return false };
                let here = self.running().get(ordinal).is_some_and(|volume| {
                    volume.node_id == *node_id && [0, cluster_id].contains(&volume.cluster_id)
                });
                if !here || self.rights.is_closed() {
                    return false;
                }
                // It joins first, and may stay so when the change is refused.
                for volume in self.volumes.values_mut().filter(|volume| volume.node_id == *node_id) {
                    (volume.cluster_id, volume.incarnation) = (cluster_id, incarnation);
                }
                let add = |membership: &mut Membership| {
                    membership.nodes.insert(*node_id, Some(*ordinal));
                };
                self.with_logs(|group, logs| group.change_nodes(logs, *membership, add)).unwrap_or(false)
            }
            Risky::RemoveLearner { node_id, membership } => {
                let remove = |membership: &mut Membership| {
                    membership.nodes.remove(node_id);
                };
                self.with_logs(|group, logs| group.change_nodes(logs, *membership, remove)).unwrap_or(false)
            }
            Risky::ChangeVoters { voters, membership } => {
                self.with_logs(|group, logs| group.change_voters(logs, *membership, voters)).unwrap_or(false)
            }
            Risky::DeletePod { ordinal, version } => {
                let pod = self.pods.get_mut(ordinal).filter(|pod| pod.version == *version && !pod.deleting);
                pod.map(|pod| (pod.deleting, pod.running, pod.ready) = (true, false, false)).is_some()
            }
            Risky::DeleteClaim { ordinal, version } => {
                let claim = self.claims.get_mut(ordinal);
                let claim = claim.filter(|claim| claim.version == *version && !claim.deleting);
                let Some(claim) = claim else { return false };
                claim.deleting = true;
                let uid = claim.version.uid.clone();
                if let (true, Some(group), Some(volume)) =
                    (self.deleting, &mut self.group, self.volumes.get(&uid))
                {
                    // That is what whenDeleted: Delete asks for.
                    group.taken.insert(volume.node_id);
                    return true;
                }
                self.broken_promise = self.broken_promise.take().or(self.misses(*ordinal));
                true
            }
            Risky::Shrink { replicas, version } => self.change_set(version, |set| set.replicas = *replicas),
            Risky::Recover { ordinal, token, to } => self.recover(*ordinal, token, *to),
            Risky::RecreateStatefulSet { version } => self.change_set(version, |set| set.deleting = true),
        }
    }

    /// The survivor does as the node does: it asks whoever answers.
    pub(super) fn recover(&mut self, ordinal: u32, token: &Token, to: u64) -> bool {
        let Some(group) = self.group.clone() else { return false };
        let running = self.running();
        let exact = |volume: &&&Volume| {
            let is = (volume.node_id, volume.incarnation, volume.log);
            is == (token.node_id, token.incarnation, token.last_log.index) && to > volume.incarnation
        };
        let Some(survivor) = running.get(&ordinal).filter(exact) else { return false };
        let voters: BTreeSet<u64> = survivor.membership.configs.iter().flatten().copied().collect();
        let theirs = || {
            let others = running.iter().filter(|(_, volume)| voters.contains(&volume.node_id));
            others.filter(|(_, volume)| volume.incarnation == token.incarnation)
        };
        // Whoever is kept out answers, but elects nobody.
        let live = theirs().filter(|(i, volume)| !self.is_kept_out(**i, volume));
        let live: BTreeSet<u64> = live.map(|(_, volume)| volume.node_id).collect();
        let elects = |set: &BTreeSet<u64>| (set & &live).len() > set.len() / 2;
        let newer = theirs().any(|(_, volume)| volume.log > survivor.log);
        if newer || survivor.membership.configs.iter().all(elects) {
            return false;
        }
        // Of everybody else, what is of the old incarnation and not kept out could go on beside it.
        let beside = running.iter().filter(|(i, volume)| {
            volume.node_id != token.node_id
                && volume.incarnation == token.incarnation
                && !self.is_kept_out(**i, volume)
        });
        let beside: BTreeSet<u64> = beside.map(|(_, volume)| volume.node_id).collect();
        let (log, acknowledged) = (survivor.log, group.acknowledged);
        let newer = self.intact().into_iter().filter(|volume| {
            volume.incarnation == token.incarnation && volume.log > log && log < acknowledged
        });
        let newer: Vec<u64> = newer.map(|volume| volume.node_id).collect();
        if group.incarnation == token.incarnation && !beside.is_empty() && group.is_quorum(&beside) {
            self.broken_promise = Some(format!("{beside:?} go on beside the recovered cluster"));
        }
        if !newer.is_empty() {
            self.broken_promise =
                Some(format!("the recovery from {} lost what {newer:?} have, acknowledged", token.node_id));
        }
        self.rights.go_back();
        let Some(group) = &mut self.group else { return false };
        group.recover(token.node_id, ordinal, log, to);
        for volume in self.volumes.values_mut().filter(|volume| volume.node_id == token.node_id) {
            (volume.incarnation, volume.log) = (to, log + 1);
            volume.membership = group.membership.clone();
        }
        true
    }

    pub(super) fn create_set(&mut self, replicas: u32) -> bool {
        if self.set.is_some() {
            return false;
        }
        let (version, template) = (self.version(), self.template_name());
        let storage_bytes = self.wanted.storage_bytes;
        let set = StatefulSet { version, replicas, template, storage_bytes, current: true, deleting: false };
        self.set = Some(set);
        true
    }

    pub(super) fn change_set(&mut self, version: &Version, change: impl FnOnce(&mut StatefulSet)) -> bool {
        let fresh = self.touched(version);
        let Some(set) = self.set.as_mut().filter(|set| set.version == *version) else { return false };
        change(set);
        set.version = fresh;
        true
    }

    pub(super) fn change_claim(
        &mut self,
        ordinal: u32,
        version: &Version,
        change: impl FnOnce(&mut Claim),
    ) -> bool {
        let fresh = self.touched(version);
        let claim = self.claims.get_mut(&ordinal).filter(|claim| claim.version == *version);
        let Some(claim) = claim else { return false };
        change(claim);
        claim.version = fresh;
        true
    }

    pub(super) fn initialize(&mut self, ordinal: u32, node_id: u64, cluster_id: u64, closed: bool) -> bool {
        let Some(volume) = self.running().get(&ordinal).map(|volume| (*volume).clone()) else { return false };
        if volume.node_id != node_id || ![0, cluster_id].contains(&volume.cluster_id) {
            return false;
        }
        if volume.log > 0 {
            return true;
        }
        for volume in self.volumes.values_mut().filter(|volume| volume.node_id == node_id) {
            (volume.cluster_id, volume.incarnation, volume.log) = (cluster_id, 1, 1);
            volume.membership = Group::found(cluster_id, node_id, ordinal).membership;
        }
        self.founded.push(cluster_id);
        self.rights.found(closed);
        if self.group.is_none() {
            self.group = Some(Group::found(cluster_id, node_id, ordinal));
        }
        true
    }

    pub(super) fn transfer(&mut self, to: u64) -> bool {
        let fit = self.alive().contains(&to);
        self.with_logs(|group, logs| {
            let fit = fit && group.voters().contains(&to) && group.leader.is_some();
            if fit && let Some(from) = group.leader.and_then(|id| logs.get(&id).map(|log| **log)) {
                **logs.get_mut(&to).expect("it is alive") = from;
                group.leader = Some(to);
                group.term += 1;
            }
            fit
        })
        .unwrap_or(false)
    }
}
