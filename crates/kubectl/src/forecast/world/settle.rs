//! What Kubernetes and the members do by themselves: machines are given up, pods run, leaders are elected, learners
//! catch up.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::fence::Disk;
use kvorum_operator::names::hex;
use kvorum_operator::observed::{self, Claim, Node, Pod, Progress, Role, StatefulSet};
use kvorum_operator::plan::View;

use super::{Volume, World};

impl World {
    /// What Kubernetes and the members do while the operator waits: what happened, in sentences without their full
    /// stops; nothing where all stands still.
    pub(crate) fn settle(&mut self) -> Vec<String> {
        let mut said = self.give_up_machines();
        said.extend(self.start_pods());
        said.extend(self.elect());
        said.extend(self.catch_up());
        said
    }

    /// A minute passes without the one machine of a volume.
    fn give_up_machines(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        let mut standby = self.free().into_iter();
        for (ordinal, claim) in &mut self.observed.claims {
            let pending = claim.machine == observed::Machine::Missing;
            if pending {
                claim.machine = observed::Machine::Gone;
                let home = claim.home.as_deref().unwrap_or("its machine");
                let pod = format!("{}-{ordinal}", self.observed.name);
                said.push(format!(
                    "for a minute no Node {home} is there: the disk of {pod} is gone for good"
                ));
            }
            if claim.machine == observed::Machine::Gone {
                claim.standby = standby.next().is_some();
            }
        }
        said
    }

    /// The StatefulSet makes pods that are missing, and those run that find a machine.
    pub(crate) fn start_pods(&mut self) -> Vec<String> {
        let Some(set) = self.observed.stateful_set.clone() else { return Vec::new() };
        let mut said = Vec::new();
        for ordinal in 0..set.replicas {
            let held = self.observed.claims.get(&ordinal).is_some_and(|claim| claim.deleting);
            match self.observed.pods.get(&ordinal) {
                None if held => self.remove_claim(ordinal),
                Some(pod) if pod.running || held => continue,
                _ => {}
            }
            let new = !self.observed.claims.contains_key(&ordinal);
            let Some(machine) = self.machine_for(ordinal) else {
                self.make_pending(ordinal, &set);
                continue;
            };
            if new {
                self.make_claim(ordinal, &machine, &set);
            }
            let version = self.version();
            let pod = Pod {
                version,
                running: true,
                ready: true,
                machine_ready: true,
                template: set.template.clone(),
                machine: Some(machine.clone()),
                ..Pod::default()
            };
            self.observed.pods.insert(ordinal, pod);
            self.answer(ordinal);
            let disk = if new { "with a new, empty disk" } else { "on its disk" };
            said.push(format!("pod {} runs on {machine}, {disk}", self.observed.pod_name(ordinal)));
        }
        self.sync();
        said
    }

    /// Where a quorum has no leader and could have one, the member that is furthest leads.
    pub(crate) fn elect(&mut self) -> Vec<String> {
        if self.has_leader() {
            return Vec::new();
        }
        let Some(cluster_id) = self.observed.cluster_id else { return Vec::new() };
        let alive: BTreeSet<u64> = self.observed.nodes.values().map(|node| node.node_id).collect();
        let has_quorum = |node: &Node| {
            let configs = &node.membership.configs;
            let majority = |set: &BTreeSet<u64>| set.intersection(&alive).count() * 2 > set.len();
            !configs.is_empty() && configs.iter().all(majority)
        };
        let may = |node: &&Node| {
            let votes = node.membership.configs.iter().any(|set| set.contains(&node.node_id));
            node.cluster_id == cluster_id && votes && node.role != Role::StatusOnly && has_quorum(node)
        };
        let best =
            self.observed.nodes.values().filter(may).max_by_key(|node| (node.incarnation, node.last_log));
        let Some(id) = best.map(|node| node.node_id) else { return Vec::new() };
        self.lead(id);
        vec![format!(
            "{} is elected, within an election's time",
            self.called.get(&id).cloned().unwrap_or(hex(id))
        )]
    }

    /// Learners get what they lack.
    fn catch_up(&mut self) -> Vec<String> {
        let Some(view) = View::of(&self.observed) else { return Vec::new() };
        let alive: BTreeSet<u64> = self.observed.nodes.values().map(|node| node.node_id).collect();
        let lacks = |id: &u64| view.leader.progress.get(id).is_none_or(|progress| progress.matched == 0);
        let new: Vec<u64> = view.learners().filter(|id| alive.contains(id) && lacks(id)).collect();
        let index = view.leader.last_log.index.max(1);
        let leader = self.leader().and_then(|ordinal| self.observed.nodes.get_mut(&ordinal));
        let Some(leader) = leader else { return Vec::new() };
        for id in &new {
            leader.progress.insert(*id, Progress { matched: index, ..Progress::default() });
        }
        self.sync();
        new.iter()
            .map(|id| format!("{} catches up", self.called.get(id).cloned().unwrap_or(hex(*id))))
            .collect()
    }

    /// Machines without a member that would take one.
    fn free(&self) -> Vec<String> {
        let taken = |name: &String| self.observed.pods.values().any(|pod| pod.machine.as_ref() == Some(name));
        let free = self.machines.iter().filter(|machine| machine.takes && !taken(&machine.name));
        free.map(|machine| machine.name.clone()).collect()
    }

    fn machine_for(&self, ordinal: u32) -> Option<String> {
        let takes =
            |name: &String| self.machines.iter().any(|machine| machine.takes && machine.name == *name);
        let free = self.free();
        let shared = self.machines.iter().filter(|machine| machine.takes && !self.apart);
        let mut shared: Vec<String> = shared.map(|machine| machine.name.clone()).collect();
        // The scheduler prefers those with the fewest members.
        shared.sort_by_key(|name| self.pods_on(name).len());
        let candidates: Vec<String> = free.iter().cloned().chain(shared).collect();
        match self.volumes.get(&ordinal) {
            Some(Volume { home: Some(home), .. }) => Some(home.clone()).filter(takes),
            Some(volume) => candidates.into_iter().find(|name| volume.fits.contains(name)),
            None => candidates.into_iter().next(),
        }
    }

    fn make_pending(&mut self, ordinal: u32, set: &StatefulSet) {
        if self.observed.pods.contains_key(&ordinal) {
            return;
        }
        let trouble = Some("it is not scheduled: no machine takes it".into());
        let version = self.version();
        let pod = Pod { version, template: set.template.clone(), trouble, ..Pod::default() };
        self.observed.pods.insert(ordinal, pod);
    }

    fn make_claim(&mut self, ordinal: u32, machine: &str, set: &StatefulSet) {
        let bytes = set.storage_bytes;
        let claim = Claim {
            version: self.version(),
            requested_bytes: bytes,
            capacity_bytes: bytes,
            volume: "new".into(),
            home: Some(machine.to_owned()),
            ..Claim::default()
        };
        self.observed.claims.insert(ordinal, claim);
        self.volumes
            .insert(ordinal, Volume { home: Some(machine.to_owned()), fits: [machine.to_owned()].into() });
    }

    /// The node of a pod that runs begins to answer: as the member whose disk it has, or Unjoined.
    fn answer(&mut self, ordinal: u32) {
        let disk: Option<Disk> = self.observed.claims.get(&ordinal).and_then(|claim| claim.disk);
        let leader = View::of(&self.observed).map(|view| view.leader.clone());
        let node = match disk {
            Some(disk) => Node {
                node_id: disk.node_id,
                cluster_id: disk.cluster_id,
                role: Role::Follower,
                ..leader.or_else(|| self.observed.nodes.values().next().cloned()).unwrap_or_default()
            },
            None => {
                self.called.insert(self.fresh, self.observed.pod_name(ordinal));
                Node { node_id: self.fresh, ..Node::default() }
            }
        };
        if disk.is_none() {
            self.fresh -= 1;
        }
        self.observed.nodes.insert(ordinal, Node { confirmed: false, progress: BTreeMap::new(), ..node });
    }
}
