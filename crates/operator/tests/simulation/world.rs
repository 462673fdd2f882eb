//! A simulated Kubernetes with one KvCluster in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kvorum_crd::Keep;
use kvorum_operator::fence::{LogId, Retired, Token, Version};
use kvorum_operator::observed::{
    Claim, Machine, Membership, Monitor, Node, Observed, Pod, Role, StatefulSet, Wanted,
};
use kvorum_operator::plan::{Note, Offer, View, offer};
use kvorum_operator::step::{Risky, Step};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use crate::raft::{Group, Logs};

/// What is on a claim's volume.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    node_id: u64,
    cluster_id: u64,
    incarnation: u64,
    log: u64,
    /// As this disk knows it.
    membership: Membership,
}

#[derive(Debug)]
pub struct World {
    wanted: Wanted,
    template: u64,
    /// Pods of the wanted template never run.
    broken: bool,
    cluster_id: Option<u64>,
    step: Option<Risky>,
    objects_current: bool,
    monitor: Monitor,
    set: Option<StatefulSet>,
    pods: BTreeMap<u32, Pod>,
    claims: BTreeMap<u32, Claim>,
    /// By the claim's uid.
    volumes: BTreeMap<String, Volume>,
    standby: bool,
    /// No pod is scheduled.
    blocked: bool,
    /// As the status has them: the incarnation, and the token it was raised for.
    incarnation: u64,
    recovery: Option<String>,
    /// What a person asks for.
    recover_from: Option<String>,
    /// The operator does not reach these.
    cut_off: BTreeSet<u32>,
    /// Pods, by uid, whose machines do not say that they have ended.
    stuck: BTreeSet<String>,
    /// The KvCluster is being deleted, and carries the finalizer.
    deleting: bool,
    finalizer: bool,
    /// How often the KvCluster was made again.
    pub lives: u32,
    /// For so many rounds there has been no quorum.
    without_quorum: u32,
    group: Option<Group>,
    founded: Vec<u64>,
    counter: u64,
    /// What the operator did against what it promises.
    broken_promise: Option<String>,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "wanted {:?}, cluster {:?}, step {:?}", self.wanted, self.cluster_id, self.step)?;
        writeln!(f, "{:?}", self.set)?;
        for (i, pod) in &self.pods {
            writeln!(f, "pod {i}: {pod:?}")?;
        }
        for (i, claim) in &self.claims {
            writeln!(f, "claim {i}: {claim:?} {:?}", self.volumes.get(&claim.version.uid))?;
        }
        writeln!(f, "{:?}", self.group)
    }
}

impl World {
    pub fn new(rng: &mut StdRng) -> World {
        let when_scaled = if rng.random_bool(0.8) { Keep::Delete } else { Keep::Retain };
        let members = [1, 3, 3, 5][rng.random_range(0..4)];
        World {
            wanted: Wanted { members, storage_bytes: 1, when_scaled, ..Wanted::default() },
            template: 1,
            broken: false,
            cluster_id: None,
            step: None,
            objects_current: false,
            monitor: Monitor::AsWanted,
            set: None,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            volumes: BTreeMap::new(),
            standby: false,
            blocked: false,
            incarnation: 1,
            recovery: None,
            recover_from: None,
            cut_off: BTreeSet::new(),
            stuck: BTreeSet::new(),
            deleting: false,
            finalizer: false,
            lives: 1,
            without_quorum: 0,
            group: None,
            founded: Vec::new(),
            counter: 0,
            broken_promise: None,
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn version(&mut self) -> Version {
        let n = self.next();
        Version { uid: format!("u{n}"), resource_version: n.to_string() }
    }

    fn touched(&mut self, version: &Version) -> Version {
        Version { uid: version.uid.clone(), resource_version: self.next().to_string() }
    }

    /// The volumes of pods that run, by ordinal.
    fn running(&self) -> BTreeMap<u32, &Volume> {
        let runs = self.pods.iter().filter(|(_, pod)| pod.running && !pod.deleting);
        runs.filter_map(|(i, _)| Some((*i, self.volumes.get(&self.claims.get(i)?.version.uid)?))).collect()
    }

    /// Ids of members that take part: their disk runs where the membership says.
    fn alive(&self) -> BTreeSet<u64> {
        let Some(group) = &self.group else { return BTreeSet::new() };
        let takes_part = |(i, volume): &(u32, &Volume)| {
            volume.cluster_id == group.cluster_id
                && volume.incarnation == group.incarnation
                && !self.is_kept_out(*i, volume)
                && group.membership.nodes.get(&volume.node_id) == Some(&Some(*i))
        };
        self.running().into_iter().filter(takes_part).map(|(_, volume)| volume.node_id).collect()
    }

    /// Its pod is made for later incarnations only.
    fn is_kept_out(&self, ordinal: u32, volume: &Volume) -> bool {
        let pod = self.pods.get(&ordinal);
        pod.is_some_and(|pod| incarnation_min(&pod.template) > volume.incarnation) && volume.cluster_id != 0
    }

    pub fn has_quorum(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.is_quorum(&self.alive()))
    }

    /// Clusters of one or two members cannot be restarted without an interruption.
    pub fn may_interrupt(&self, step: &Step) -> bool {
        let few = self.group.as_ref().is_none_or(|group| group.voters().len() <= 2);
        self.deleting || few && matches!(step, Step::Act(Risky::DeletePod { .. }))
    }

    /// Somebody changes what pods are made of.
    pub fn change_template(&mut self) {
        self.template += 1;
        self.outdate();
    }

    /// A cluster of so many members that nothing has happened to yet.
    pub fn of(members: u32, rng: &mut StdRng) -> World {
        let mut world = World::new(rng);
        world.wanted.members = members;
        world
    }

    /// The step on record.
    pub fn recorded(&self) -> Option<Risky> {
        self.step.clone()
    }

    /// The step deletes an object.
    pub fn is_deletion(step: &Risky) -> bool {
        matches!(step, Risky::DeletePod { .. } | Risky::DeleteClaim { .. } | Risky::Shrink { .. })
    }

    fn with_logs<T>(&mut self, act: impl FnOnce(&mut Group, &mut Logs) -> T) -> Option<T> {
        let alive = self.alive();
        let group = self.group.as_mut()?;
        let volumes = self.volumes.values_mut().filter(|volume| alive.contains(&volume.node_id));
        let mut logs: Logs = volumes.map(|volume| (volume.node_id, &mut volume.log)).collect();
        Some(act(group, &mut logs))
    }

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

    fn keep_pods(&mut self, rng: &mut StdRng, faulty: bool) {
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

    fn grow_volumes(&mut self) {
        for claim in self.claims.values_mut() {
            claim.capacity_bytes = claim.requested_bytes;
        }
    }

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
        let node = |ordinal: u32, volume: &Volume| {
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
                progress: group.filter(|_| leads).map(|group| group.progress(&logs)).unwrap_or_default(),
                ..Node::default()
            }
        };
        let running = self.running();
        let nodes = running.iter().map(|(i, volume)| (*i, node(*i, volume)));
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
            ..Observed::default()
        }
    }

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
            Step::ApplyMonitor | Step::DeleteMonitor { .. } => {
                self.monitor = Monitor::AsWanted;
                true
            }
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
                self.change_claim(*ordinal, version, |claim| {
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
            Step::Initialize { ordinal, node_id, cluster_id } => {
                self.initialize(*ordinal, *node_id, *cluster_id)
            }
            Step::TransferLeader { to } => self.transfer(*to),
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
        }
    }

    /// The KvCluster is gone with all that it owned, and somebody makes it again.
    fn make_again(&mut self) {
        (self.deleting, self.finalizer, self.objects_current) = (false, false, false);
        (self.cluster_id, self.step, self.recovery, self.recover_from) = (None, None, None, None);
        self.set = None;
        self.pods.clear();
        self.lives += 1;
        let of_group = |group: &Group| self.volumes.values().any(|v| v.cluster_id == group.cluster_id);
        if !self.group.as_ref().is_some_and(of_group) {
            // All of its data was deleted with it.
            self.group = None;
            self.founded.clear();
        }
        let kept = self.claims.values().filter(|claim| !claim.deleting && claim.disk.is_some());
        self.incarnation = kept.map(|claim| claim.incarnation).max().unwrap_or_default().max(1);
    }

    fn forget(&mut self, risky: &Risky) -> bool {
        let same = self.step.as_ref() == Some(risky);
        if same {
            self.step = None;
        }
        same
    }

    fn touch_target(&mut self, risky: &Risky) {
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

    fn act(&mut self, risky: &Risky) -> bool {
        match risky {
            Risky::AddLearner { node_id, ordinal, membership } => {
                let group = self.group.as_ref().map(|group| (group.cluster_id, group.incarnation));
                let Some((cluster_id, incarnation)) = group else { return false };
                let here = self.running().get(ordinal).is_some_and(|volume| {
                    volume.node_id == *node_id && [0, cluster_id].contains(&volume.cluster_id)
                });
                if !here {
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
    fn recover(&mut self, ordinal: u32, token: &Token, to: u64) -> bool {
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
        let Some(group) = &mut self.group else { return false };
        group.recover(token.node_id, ordinal, log, to);
        for volume in self.volumes.values_mut().filter(|volume| volume.node_id == token.node_id) {
            (volume.incarnation, volume.log) = (to, log + 1);
            volume.membership = group.membership.clone();
        }
        true
    }

    /// Disks that exist, and may come back.
    fn intact(&self) -> Vec<&Volume> {
        let there = self
            .claims
            .values()
            .filter(|claim| !claim.deleting && claim.machine != Machine::Gone && !claim.declared_lost);
        there.filter_map(|claim| self.volumes.get(&claim.version.uid)).collect()
    }

    /// What nobody else has and no person has let go, on a claim that the operator deletes.
    fn misses(&self, ordinal: u32) -> Option<String> {
        let (group, claim) = (self.group.as_ref()?, self.claims.get(&ordinal)?);
        let volume = self.volumes.get(&claim.version.uid)?;
        let began = group.began.range(volume.incarnation + 1..).next().map(|(_, log)| *log)?;
        let let_go = claim.declared_lost || claim.released;
        let only = volume.cluster_id == group.cluster_id && volume.log > began && !let_go;
        only.then(|| format!("disk {} of before a recovery had writes that nobody else has", volume.node_id))
    }

    /// The StatefulSet has an older template.
    fn outdate(&mut self) {
        if let Some(set) = &mut self.set {
            set.current = false;
        }
    }

    fn create_set(&mut self, replicas: u32) -> bool {
        if self.set.is_some() {
            return false;
        }
        let (version, template) = (self.version(), self.template_name());
        let storage_bytes = self.wanted.storage_bytes;
        let set = StatefulSet { version, replicas, template, storage_bytes, current: true, deleting: false };
        self.set = Some(set);
        true
    }

    fn change_set(&mut self, version: &Version, change: impl FnOnce(&mut StatefulSet)) -> bool {
        let fresh = self.touched(version);
        let Some(set) = self.set.as_mut().filter(|set| set.version == *version) else { return false };
        change(set);
        set.version = fresh;
        true
    }

    fn change_claim(&mut self, ordinal: u32, version: &Version, change: impl FnOnce(&mut Claim)) -> bool {
        let fresh = self.touched(version);
        let claim = self.claims.get_mut(&ordinal).filter(|claim| claim.version == *version);
        let Some(claim) = claim else { return false };
        change(claim);
        claim.version = fresh;
        true
    }

    fn initialize(&mut self, ordinal: u32, node_id: u64, cluster_id: u64) -> bool {
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
        if self.group.is_none() {
            self.group = Some(Group::found(cluster_id, node_id, ordinal));
        }
        true
    }

    fn transfer(&mut self, to: u64) -> bool {
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

    fn template_name(&self) -> String {
        let template = if self.broken { BROKEN.to_owned() } else { format!("t{}", self.template) };
        format!("{template}.{}", self.incarnation)
    }

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

    /// Whether the cluster can lose this disk, as the design promises to survive one loss at a time.
    fn can_lose(&self, node_id: u64) -> bool {
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

    fn someone(&self, rng: &mut StdRng) -> Option<(u32, u64)> {
        let (i, claim) = self.claims.iter().choose(rng)?;
        Some((*i, self.volumes.get(&claim.version.uid)?.node_id))
    }

    /// Something goes wrong, or somebody wants something.
    pub fn fault(&mut self, rng: &mut StdRng) -> String {
        let kind = rng.random_range(0..29);
        let someone = self.someone(rng);
        match (kind, someone) {
            (0 | 1, _) => {
                self.wanted.members = [1, 2, 3, 3, 4, 5][rng.random_range(0..6)];
                format!("members: {}", self.wanted.members)
            }
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
            (14, _) if self.group.is_some() => {
                (self.cluster_id, self.step, self.recovery) = (None, None, None);
                // The claims know it, where a node of it has ever been seen to lead.
                let latest = self.claims.values().filter(|claim| !claim.deleting);
                let latest = latest.map(|claim| claim.incarnation).max();
                self.incarnation = latest.unwrap_or_default().max(1);
                self.outdate();
                "the status is erased".into()
            }
            (15, _) => {
                self.monitor = Monitor::Differs;
                "a PodMonitor is wanted".into()
            }
            (16, _) => {
                self.monitor = Monitor::Unwanted(self.version());
                "a PodMonitor is not wanted any more".into()
            }
            (17 | 18, _) if self.can_lose(0) => self.lose_most(rng),
            (19, _) => {
                self.blocked = true;
                self.pods.retain(|_, _| rng.random_bool(0.4));
                "no pod finds a machine, and most are deleted".into()
            }
            (20, _) => {
                self.blocked = false;
                "pods find machines again".into()
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
            (23, Some((i, _))) => {
                let claim = self.claims.get_mut(&i).expect("it was chosen");
                claim.declared_lost = claim.machine == Machine::Gone;
                format!("the disk of {i} is declared lost: {}", claim.declared_lost)
            }
            (24, _) => {
                self.cut_off = (0..5).filter(|_| rng.random_bool(0.4)).collect();
                format!("the operator is cut off from {:?}", self.cut_off)
            }
            (25, _) => {
                self.cut_off.clear();
                "the operator reaches all".into()
            }
            (26, Some((i, _))) => {
                if let Some(pod) = self.pods.get_mut(&i) {
                    (pod.running, pod.ready, pod.deleting) = (false, false, true);
                    self.stuck.insert(pod.version.uid.clone());
                }
                format!("pod {i} is deleted, and its machine does not say that it has ended")
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
            _ => "nothing".into(),
        }
    }

    /// More disks than the cluster can do without are gone for good.
    fn lose_most(&mut self, rng: &mut StdRng) -> String {
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

    /// A person does what the condition QuorumLost says.
    fn ask_for_recovery(&mut self, observed: &Observed) -> String {
        if self.without_quorum < PATIENCE || View::of(observed).is_some() {
            return "nothing".into();
        }
        match offer(observed) {
            Offer::From(token) => {
                self.recover_from = Some(token.to_string());
                format!("recover from {token}")
            }
            Offer::Silent(silent) => {
                for ordinal in silent.iter().filter_map(|silent| silent.ordinal) {
                    if let Some(claim) = self.claims.get_mut(&ordinal) {
                        claim.declared_lost = claim.machine == Machine::Gone;
                    }
                }
                format!("{silent:?} may have more")
            }
            Offer::Nothing => "nothing".into(),
        }
    }

    /// A person corrects a spec that cannot work.
    pub fn correct(&mut self) {
        (self.blocked, self.recover_from) = (false, None);
        self.cut_off.clear();
        self.stuck.clear();
        if std::mem::take(&mut self.broken)
            && let Some(set) = &mut self.set
        {
            set.current = false;
        }
    }

    /// A person deletes a cluster without data, with its claims, and makes it again.
    fn give_up(&mut self) {
        assert!(self.group.is_none(), "a person is told to give up a cluster that has data");
        (self.cluster_id, self.step) = (None, None);
        self.pods.clear();
        self.claims.clear();
    }

    /// A person does what the notes ask for.
    pub fn heed(&mut self, observed: &Observed, notes: &[Note]) {
        if self.cluster_id.is_some() {
            self.ask_for_recovery(observed);
        }
        // All of its data went with an earlier life, and the condition QuorumLost says that nothing is left.
        let waited = self.without_quorum > PATIENCE && self.cluster_id.is_some();
        let founds = self.claims.values().any(|claim| claim.disk.is_some_and(|disk| disk.founder));
        if waited && !founds && self.group.is_none() && offer(observed) == Offer::Nothing {
            self.give_up();
        }
        for note in notes {
            match note.reason {
                "MachineGone" => self.standby = true,
                "FounderLost" => self.give_up(),
                "RetiredClaim" | "RetiredDisk" | "LeftBehind" => {
                    let members =
                        self.group.as_ref().map(|group| group.membership.nodes.clone()).unwrap_or_default();
                    let retired =
                        |claim: &Claim| claim.disk.is_some_and(|disk| !members.contains_key(&disk.node_id));
                    for claim in self.claims.values_mut().filter(|claim| retired(claim)) {
                        claim.released = true;
                    }
                }
                _ => {}
            }
        }
        // New volumes come up where there are machines.
        if self.standby {
            for (i, claim) in &mut self.claims {
                let held = self.pods.contains_key(i);
                if claim.machine == Machine::Gone && claim.disk.is_none() && !held {
                    claim.machine = Machine::Exists;
                }
            }
        }
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
            (*i >= members) || claim.disk.map(|disk| disk.node_id) == on_disk
        };
        want(self.claims.iter().all(recorded), "claims on record");
        unwanted
    }
}

/// A template whose pods never run.
const BROKEN: &str = "broken";
/// Rounds without a quorum before a person gives up what is away.
const PATIENCE: u32 = 10;

/// The incarnation that pods of a template are made for.
fn incarnation_min(template: &str) -> u64 {
    template.rsplit('.').next().and_then(|text| text.parse().ok()).unwrap_or(1)
}
