//! What a step of the operator does to the world at once.

use kvorum_operator::fence::{LogId, Retired};
use kvorum_operator::observed::{Membership, Monitor, Role, StatefulSet};
use kvorum_operator::step::{Risky, Step};

use super::World;

impl World {
    /// What a step of the operator does at once.
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Rest | Step::Wait => {}
            Step::DeletePolicy { .. } => self.observed.unwanted_policy = None,
            Step::ApplyObjects => self.observed.objects_current = true,
            // Whoever looks from outside does not know what the operator has declared.
            Step::ApplyAccess { .. } => self.observed.access = None,
            Step::ApplyMonitor | Step::DeleteMonitor { .. } => self.observed.monitor = Monitor::AsWanted,
            Step::AddFinalizer => self.observed.finalizer = true,
            Step::RemoveFinalizer => self.observed.finalizer = false,
            Step::CreateStatefulSet { replicas } => self.make_set(*replicas),
            Step::UpdateStatefulSet { .. } => {
                if let Some(set) = &mut self.observed.stateful_set {
                    (set.current, set.template) = (true, self.template.clone());
                }
            }
            Step::Grow { replicas, .. } => {
                if let Some(set) = &mut self.observed.stateful_set {
                    set.replicas = *replicas;
                }
            }
            Step::RecordDisk { ordinal, disk, .. } => {
                let (image, incarnation) = (self.observed.pinned_image.clone(), self.observed.incarnation);
                let (tls, auth, policy) = (self.observed.tls, self.observed.auth, self.observed.policy);
                if let Some(claim) = self.observed.claims.get_mut(ordinal) {
                    (claim.disk, claim.image, claim.retired) = (Some(*disk), image, Retired::No);
                    (claim.tls, claim.auth, claim.policy) = (tls, auth, policy);
                    claim.incarnation = incarnation;
                }
            }
            Step::Retire { ordinal, retired, .. } => {
                if let Some(claim) = self.observed.claims.get_mut(ordinal) {
                    claim.retired = *retired;
                }
            }
            Step::GrowClaim { ordinal } => {
                let bytes = self.observed.wanted.storage_bytes;
                if let Some(claim) = self.observed.claims.get_mut(ordinal) {
                    (claim.requested_bytes, claim.capacity_bytes) = (bytes, bytes);
                }
            }
            Step::Latch { cluster_id } => self.observed.cluster_id = Some(*cluster_id),
            Step::Initialize { ordinal, cluster_id, .. } => self.found(*ordinal, *cluster_id),
            Step::RaiseIncarnation { to, token } => {
                (self.observed.incarnation, self.observed.recovery) = (*to, Some(token.to_string()));
                self.renew_template();
            }
            Step::DropToken => (self.observed.recover_from, self.observed.recovery) = (None, None),
            Step::TransferLeader { to } => self.lead(*to),
            Step::DeleteStatefulSet { .. } => self.observed.stateful_set = None,
            Step::Record(risky) => self.observed.step = Some(risky.clone()),
            Step::Forget(_) | Step::Abandon(_) => self.observed.step = None,
            Step::Act(risky) => self.act(risky),
        }
        self.sync();
    }

    fn act(&mut self, risky: &Risky) {
        match risky {
            Risky::AddLearner { node_id, ordinal, .. } => self.change_membership(|membership| {
                membership.nodes.insert(*node_id, Some(*ordinal));
            }),
            Risky::RemoveLearner { node_id, .. } => self.change_membership(|membership| {
                membership.nodes.remove(node_id);
            }),
            Risky::ChangeVoters { voters, .. } => self.change_membership(|membership| {
                membership.configs = vec![voters.clone()];
                membership.nodes.retain(|id, _| voters.contains(id));
            }),
            Risky::DeletePod { ordinal, .. } => self.remove_pod(*ordinal),
            Risky::DeleteClaim { ordinal, .. } => match self.observed.pods.contains_key(ordinal) {
                true => _ = self.observed.claims.get_mut(ordinal).map(|claim| claim.deleting = true),
                false => self.remove_claim(*ordinal),
            },
            Risky::Shrink { replicas, .. } => {
                if let Some(set) = &mut self.observed.stateful_set {
                    set.replicas = *replicas;
                }
                let over: Vec<u32> =
                    self.observed.pods.range(*replicas..).map(|(ordinal, _)| *ordinal).collect();
                over.into_iter().for_each(|ordinal| self.remove_pod(ordinal));
            }
            Risky::RecreateStatefulSet { .. } => self.observed.stateful_set = None,
            Risky::Recover { ordinal, to, .. } => {
                if let Some(node) = self.observed.nodes.get_mut(ordinal) {
                    (node.incarnation, node.role, node.status_only) = (*to, Role::Candidate, String::new());
                    node.membership.configs = vec![[node.node_id].into()];
                    node.membership.nodes.retain(|id, _| *id == node.node_id);
                }
            }
        }
    }

    fn found(&mut self, ordinal: u32, cluster_id: u64) {
        if let Some(node) = self.observed.nodes.get_mut(&ordinal) {
            (node.cluster_id, node.incarnation, node.last_log) = (cluster_id, 1, LogId { term: 1, index: 1 });
            node.membership = Membership {
                log_id: node.last_log,
                configs: vec![[node.node_id].into()],
                nodes: [(node.node_id, Some(ordinal))].into(),
            };
            let id = node.node_id;
            self.lead(id);
        }
    }

    fn change_membership(&mut self, change: impl FnOnce(&mut Membership)) {
        let Some(leader) = self.leader() else { return };
        if let Some(node) = self.observed.nodes.get_mut(&leader) {
            node.last_log.index += 1;
            node.membership.log_id = node.last_log;
            change(&mut node.membership);
        }
    }

    fn make_set(&mut self, replicas: u32) {
        let (version, template) = (self.version(), self.template.clone());
        let storage_bytes = self.observed.wanted.storage_bytes;
        let set = StatefulSet { version, deleting: false, replicas, current: true, template, storage_bytes };
        self.observed.stateful_set = Some(set);
    }

    fn remove_pod(&mut self, ordinal: u32) {
        self.observed.pods.remove(&ordinal);
        self.observed.nodes.remove(&ordinal);
        if self.observed.claims.get(&ordinal).is_some_and(|claim| claim.deleting) {
            self.remove_claim(ordinal);
        }
    }
}
