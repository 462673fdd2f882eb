//! What must hold, and what is not as wanted yet.

use std::collections::BTreeSet;

use kvorum_operator::observed::{Claim, Machine, Monitor};

use super::{Volume, World};

impl World {
    /// What must hold at any time.
    pub fn check(&self) -> Result<(), String> {
        if self.founded.len() > 1 {
            return Err(format!("founded more than once: {:?}", self.founded));
        }
        if let Some(broken) = &self.broken_promise {
            return Err(broken.clone());
        }
        let Some(group) = &self.group else { return Ok(()) };
        // Disks that still exist, whether they are mounted or not, at the members' own claims.
        let intact = self.claims.iter().filter(|(_, claim)| !claim.deleting);
        let intact = intact.filter_map(|(_, claim)| self.volumes.get(&claim.version.uid));
        let has =
            |volume: &&Volume| volume.incarnation == group.incarnation && volume.log >= group.acknowledged;
        let have: BTreeSet<u64> = intact.filter(has).map(|volume| volume.node_id).collect();
        let have = &have | &group.taken;
        match group.is_quorum(&have) {
            true => Ok(()),
            false => Err(format!("what was acknowledged is on {have:x?} only, of {:x?}", group.membership)),
        }
    }

    /// Disks that exist, and may come back.
    pub(super) fn intact(&self) -> Vec<&Volume> {
        let there = self
            .claims
            .values()
            .filter(|claim| !claim.deleting && claim.machine != Machine::Gone && !claim.declared_lost);
        there.filter_map(|claim| self.volumes.get(&claim.version.uid)).collect()
    }

    /// What nobody else has and no person has let go, on a claim that the operator deletes.
    pub(super) fn misses(&self, ordinal: u32) -> Option<String> {
        let (group, claim) = (self.group.as_ref()?, self.claims.get(&ordinal)?);
        let volume = self.volumes.get(&claim.version.uid)?;
        let began = group.began.range(volume.incarnation + 1..).next().map(|(_, log)| *log)?;
        let let_go = claim.declared_lost || claim.released;
        let only = volume.cluster_id == group.cluster_id && volume.log > began && !let_go;
        only.then(|| format!("disk {} of before a recovery had writes that nobody else has", volume.node_id))
    }

    /// Whether the cluster can lose this disk, as the design promises to survive one loss at a time.
    pub(super) fn can_lose(&self, node_id: u64) -> bool {
        let Some(group) = &self.group else {
            return self.cluster_id.is_none() && self.claims.values().all(|c| c.disk.is_none());
        };
        let intact =
            self.claims.iter().filter(|(_, claim)| !claim.deleting && claim.machine == Machine::Exists);
        let intact = intact.filter_map(|(_, claim)| self.volumes.get(&claim.version.uid));
        let have = intact
            .filter(|volume| volume.incarnation == group.incarnation)
            .filter(|volume| volume.node_id != node_id && volume.log >= group.acknowledged)
            .map(|volume| volume.node_id)
            .collect();
        group.is_quorum(&have)
    }

    /// What is not as wanted yet.
    pub fn unwanted(&self) -> Vec<String> {
        let mut unwanted = Vec::new();
        let mut want = |holds: bool, what: &str| {
            if !holds {
                unwanted.push(what.to_owned());
            }
        };
        let members = self.wanted.members;
        let ids: BTreeSet<u64> = self.running().values().map(|volume| volume.node_id).collect();
        want(self.step.is_none(), "no step is under way");
        want(!self.deleting, "the KvCluster");
        want(self.rights.are_as_wanted(), "users and rights");
        want(self.monitor == Monitor::AsWanted, "the PodMonitor");
        want(self.set.as_ref().is_some_and(|set| set.replicas == members && set.current), "replicas");
        want(self.set.as_ref().is_some_and(|set| set.storage_bytes == self.wanted.storage_bytes), "storage");
        want(self.pods.len() == members as usize && self.pods.values().all(|pod| pod.ready), "ready pods");
        want(self.pods.values().all(|pod| pod.template == self.template_name()), "templates");
        let group = self.group.as_ref();
        want(group.is_some_and(|group| Some(group.cluster_id) == self.cluster_id), "the cluster id");
        want(group.is_some_and(|group| group.membership.configs == [ids.clone()]), "voters");
        want(group.is_some_and(|group| group.membership.nodes.len() == members as usize), "no learners");
        let recorded = |(i, claim): (&u32, &Claim)| {
            let on_disk = self.volumes.get(&claim.version.uid).map(|volume| volume.node_id);
            let same = claim.disk.map(|disk| disk.node_id) == on_disk && claim.auth == self.rights.auth();
            (*i >= members) || same
        };
        want(self.claims.iter().all(recorded), "claims on record");
        unwanted
    }
}
