//! A cluster and its machines, as far as a forecast needs them: what a step does to them, and what they do by
//! themselves while the operator waits.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::fence::{Disk, LogId, Retired, Version};
use kvorum_operator::names::hex;
use kvorum_operator::observed::{
    self, Claim, Membership, Monitor, Node, Observed, Pod, Progress, Role, StatefulSet,
};
use kvorum_operator::plan::View;
use kvorum_operator::step::{Risky, Step};

/// New disks have ids from here down, which no real one has.
const FRESH: u64 = u64::MAX;
/// The template that a change of the spec makes.
const NEXT_TEMPLATE: &str = "next";
/// A peer that is away has been silent for so long: longer than any cluster takes to notice.
const AWAY_MS: u64 = 3_600_000;

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its Node's name.
    pub(crate) name: String,
    /// It is Ready, and the scheduler would let a member on to it.
    pub(crate) takes: bool,
}

/// A volume, as far as its machines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// The one machine that has it, where there is only one.
    pub(crate) home: Option<String>,
    /// Machines of today that can use it.
    pub(crate) fits: BTreeSet<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The plan's input.
    pub(crate) observed: Observed,
    /// Machines that exist.
    pub(crate) machines: Vec<Machine>,
    /// Volumes, by ordinal. One that is not among them is new.
    pub(crate) volumes: BTreeMap<u32, Volume>,
    /// The image that the spec wants.
    pub(crate) image: String,
    /// No two members may share a machine.
    pub(crate) apart: bool,
    /// The template that pods are made from once it is applied.
    template: String,
    /// Disks that were made on the way.
    fresh: u64,
    /// How many objects were.
    made: u64,
    /// What a disk is called.
    called: BTreeMap<u64, String>,
}

impl World {
    /// As it is now.
    pub(crate) fn new(observed: Observed, image: String) -> World {
        let template = observed.stateful_set.as_ref().map(|set| set.template.clone()).unwrap_or_default();
        let of_claims =
            observed.claims.iter().filter_map(|(ordinal, claim)| Some((claim.disk?.node_id, *ordinal)));
        let of_nodes = observed.nodes.iter().map(|(ordinal, node)| (node.node_id, *ordinal));
        let called =
            of_claims.chain(of_nodes).map(|(id, ordinal)| (id, observed.pod_name(ordinal))).collect();
        let (machines, volumes) = Default::default();
        World { observed, machines, volumes, image, apart: false, template, fresh: FRESH, made: 0, called }
    }

    /// Disks by the names of their members. Those that do not exist yet have ids that nobody should look for.
    pub(crate) fn names(&self, text: &str) -> String {
        let named = |text: String, (id, name): (&u64, &String)| {
            let (id, beside) = (hex(*id), format!("{name}, node {}", hex(*id)));
            text.replace(&beside, name).replace(&format!("node {id}"), name).replace(&id, name)
        };
        self.called.iter().fold(text.to_owned(), named)
    }

    /// Why pods do not run, in sentences.
    pub(crate) fn pending(&self) -> String {
        let waits = self.observed.pods.iter().filter(|(_, pod)| !pod.running);
        let said = waits.filter_map(|(ordinal, pod)| {
            Some(format!(
                " Pod {} does not run: {}.",
                self.observed.pod_name(*ordinal),
                pod.trouble.as_ref()?
            ))
        });
        said.collect()
    }

    /// A quorum has a leader.
    pub(crate) fn has_leader(&self) -> bool {
        View::of(&self.observed).is_some()
    }

    /// The leader's ordinal.
    pub(crate) fn leader(&self) -> Option<u32> {
        let view = View::of(&self.observed)?;
        self.observed
            .nodes
            .iter()
            .find(|(_, node)| node.node_id == view.leader.node_id)
            .map(|(ordinal, _)| *ordinal)
    }

    /// Members that run on a machine.
    pub(crate) fn pods_on(&self, machine: &str) -> Vec<u32> {
        let there = self.observed.pods.iter().filter(|(_, pod)| pod.machine.as_deref() == Some(machine));
        there.map(|(ordinal, _)| *ordinal).collect()
    }

    /// Volumes that a machine alone has.
    pub(crate) fn volumes_of(&self, machine: &str) -> Vec<u32> {
        let there = self.volumes.iter().filter(|(_, volume)| volume.home.as_deref() == Some(machine));
        there.map(|(ordinal, _)| *ordinal).collect()
    }

    /// Volumes that no machine of those that are left can use, though others that may come could.
    pub(crate) fn unfit(&self) -> Vec<u32> {
        let usable =
            |volume: &Volume| self.machines.iter().any(|machine| volume.fits.contains(&machine.name));
        let unfit = self.volumes.iter().filter(|(_, volume)| volume.home.is_none() && !usable(volume));
        unfit.map(|(ordinal, _)| *ordinal).collect()
    }

    /// The spec wants other pods.
    pub(crate) fn renew_template(&mut self) {
        self.template = NEXT_TEMPLATE.into();
        if let Some(set) = &mut self.observed.stateful_set {
            set.current = false;
        }
    }

    /// A member stops. Its pod is made again, and waits where it finds no machine.
    pub(crate) fn kill(&mut self, ordinal: u32, trouble: String) {
        self.observed.nodes.remove(&ordinal);
        if let Some(pod) = self.observed.pods.get_mut(&ordinal) {
            (pod.running, pod.ready, pod.machine_ready, pod.machine) = (false, false, false, None);
            pod.trouble = Some(trouble);
            if let Some(set) = &self.observed.stateful_set {
                pod.template = set.template.clone();
            }
        }
        self.sync();
    }

    /// What a step of the operator does at once.
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Rest | Step::Wait => {}
            Step::ApplyObjects => self.observed.objects_current = true,
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
                if let Some(claim) = self.observed.claims.get_mut(ordinal) {
                    (claim.disk, claim.image, claim.retired) = (Some(*disk), image, Retired::No);
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
        let shared =
            || self.machines.iter().filter(|machine| machine.takes && !self.apart).map(|m| m.name.clone());
        let candidates: Vec<String> = free.iter().cloned().chain(shared()).collect();
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

    /// This node leads from now on.
    fn lead(&mut self, id: u64) {
        let term = self.observed.nodes.values().map(|node| node.term).max().unwrap_or_default() + 1;
        let progress = View::of(&self.observed).map(|view| view.leader.progress.clone()).unwrap_or_default();
        for node in self.observed.nodes.values_mut() {
            let leads = node.node_id == id;
            (node.confirmed, node.term) = (leads, term);
            match (leads, node.role) {
                (true, _) => {
                    node.role = Role::Leader;
                    node.progress = progress.clone();
                }
                (false, Role::Leader | Role::Candidate) => node.role = Role::Follower,
                _ => {}
            }
        }
        self.sync();
    }

    /// Without a majority nobody leads; whoever does knows who is there, and all members know the membership.
    fn sync(&mut self) {
        let Some(view) = View::of(&self.observed) else { return };
        let alive: BTreeSet<u64> = self.observed.nodes.values().map(|node| node.node_id).collect();
        let majority = |set: &BTreeSet<u64>| set.intersection(&alive).count() * 2 > set.len();
        let (leader, membership) = (view.leader.node_id, view.membership.clone());
        let (last_log, incarnation) = (view.leader.last_log, view.leader.incarnation);
        if !membership.configs.iter().all(majority) {
            for node in self.observed.nodes.values_mut().filter(|node| node.role == Role::Leader) {
                (node.role, node.confirmed) = (Role::Candidate, false);
            }
            return;
        }
        let voters: BTreeSet<u64> = membership.configs.iter().flatten().copied().collect();
        for node in self.observed.nodes.values_mut() {
            if !membership.nodes.contains_key(&node.node_id) {
                continue;
            }
            node.membership = membership.clone();
            (node.cluster_id, node.incarnation) = (self.observed.cluster_id.unwrap_or_default(), incarnation);
            node.last_log = last_log;
            if node.node_id == leader {
                for id in membership.nodes.keys().filter(|id| **id != leader) {
                    // A voter that answers has caught up once the operator has waited for it.
                    let known = node.progress.entry(*id).or_default();
                    match alive.contains(id) {
                        true if voters.contains(id) => {
                            *known = Progress { matched: last_log.index.max(1), ..Progress::default() };
                        }
                        true => known.silent_ms = 0,
                        false => known.silent_ms = AWAY_MS,
                    }
                }
            } else if node.role != Role::StatusOnly {
                node.role = if voters.contains(&node.node_id) { Role::Follower } else { Role::Learner };
            }
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

    fn remove_claim(&mut self, ordinal: u32) {
        self.observed.claims.remove(&ordinal);
        self.volumes.remove(&ordinal);
    }

    /// Of an object that is made now.
    fn version(&mut self) -> Version {
        self.made += 1;
        Version { uid: format!("made-{}", self.made), resource_version: "1".into() }
    }
}

/// The disk is gone with its machine.
pub(super) fn is_lost(claim: &Claim) -> bool {
    claim.declared_lost || matches!(claim.machine, observed::Machine::Missing | observed::Machine::Gone)
}
