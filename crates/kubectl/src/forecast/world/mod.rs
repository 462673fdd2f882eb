//! A cluster and its machines, as far as a forecast needs them: what a step does to them, and what they do by
//! themselves while the operator waits.

mod settle;
mod take;

use std::collections::{BTreeMap, BTreeSet};

use kvorum_operator::fence::Version;
use kvorum_operator::names::hex;
use kvorum_operator::observed::{self, Claim, Observed, Progress, Role};
use kvorum_operator::plan::View;

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
    pub(crate) fn new(mut observed: Observed, image: String) -> World {
        // What the operator declares is not seen from here; that it does, is.
        observed.nodes.values_mut().for_each(|node| node.closed = false);
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
