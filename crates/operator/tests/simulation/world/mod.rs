//! A simulated Kubernetes with one KvCluster in it.

mod faults;
mod kubernetes;
mod observe;
mod person;
mod promises;
mod rights;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kvorum_crd::Keep;
use kvorum_operator::fence::Version;
use kvorum_operator::observed::{Claim, Membership, Monitor, Pod, StatefulSet, Wanted};
use kvorum_operator::step::{Risky, Step};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::raft::{Group, Logs};
use rights::Rights;

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
    pub rights: Rights,
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
        writeln!(f, "{:?}", self.rights)?;
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
            rights: Rights::new(rng),
            founded: Vec::new(),
            counter: 0,
            broken_promise: None,
        }
    }

    /// A cluster of so many members that nothing has happened to yet.
    pub fn of(members: u32, rng: &mut StdRng) -> World {
        let mut world = World::new(rng);
        world.wanted.members = members;
        world.rights.correct(world.template);
        world
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

    /// The StatefulSet has an older template.
    fn outdate(&mut self) {
        if let Some(set) = &mut self.set {
            set.current = false;
        }
    }

    fn template_name(&self) -> String {
        let template = if self.broken { BROKEN.to_owned() } else { format!("t{}", self.template) };
        format!("{template}.{}", self.incarnation)
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
}

/// A template whose pods never run.
const BROKEN: &str = "broken";
/// Rounds without a quorum before a person gives up what is away.
const PATIENCE: u32 = 10;

/// The incarnation that pods of a template are made for.
fn incarnation_min(template: &str) -> u64 {
    template.rsplit('.').next().and_then(|text| text.parse().ok()).unwrap_or(1)
}
