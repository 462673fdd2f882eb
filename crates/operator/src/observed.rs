//! What the operator knows of one cluster at one moment, as plain data: the plan's whole input.
//!
//! It holds no clock either: where time matters, whoever observed says how long something has lasted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvorum_crd::{AuthMode, Keep, TlsMode};

use crate::access::{AuthState, Sent};
use crate::certificates::Report;
use crate::fence::{Disk, LogId, Retired, Token, Version};
use crate::names;
use crate::step::Risky;

/// Everything a plan is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The KvCluster's name, for what people are told.
    pub name: String,
    /// What the spec wants.
    pub wanted: Wanted,
    /// The cluster id that the status has latched.
    pub cluster_id: Option<u64>,
    /// The risky step that the status records.
    pub step: Option<Risky>,
    /// The KvCluster is being deleted.
    pub deleting: bool,
    /// The KvCluster carries our finalizer.
    pub finalizer: bool,
    /// The namespace is being deleted, and everything in it goes, claims and the operator's rights included.
    pub namespace_ends: bool,
    /// The incarnation that pods are made for; 1 until a recovery.
    pub incarnation: u64,
    /// The token for which the incarnation was raised.
    pub recovery: Option<String>,
    /// The token of a recovery that a person asks for.
    pub recover_from: Option<String>,
    /// A random number for a cluster id, in case one is needed.
    pub fresh_id: u64,
    /// The image that a spec without one means: on record from the day the cluster was made, or of the
    /// operator that the cluster followed last.
    pub pinned_image: String,
    /// Services, disruption budget and the like are as they should be.
    pub objects_current: bool,
    /// Objects of somebody else that stand where this cluster's should.
    pub taken: Vec<Taken>,
    /// Objects that Kubernetes refuses as the spec has them: what, why and what to do, as sentences.
    pub refused: Vec<Refused>,
    /// The NetworkPolicy, where there is one that is not wanted.
    pub unwanted_policy: Option<Version>,
    /// The PodMonitor.
    pub monitor: Monitor,
    /// A newer pod template waits until somebody wants pods to be replaced.
    pub update_pending: bool,
    /// The StatefulSet.
    pub stateful_set: Option<StatefulSet>,
    /// Pods by ordinal.
    pub pods: BTreeMap<u32, Pod>,
    /// Ordinals whose pod the StatefulSet has not made for a while.
    pub unmade: BTreeSet<u32>,
    /// Members to which the Service sends clients; `None` where that cannot be read.
    pub endpoints: Option<usize>,
    /// Claims by ordinal.
    pub claims: BTreeMap<u32, Claim>,
    /// Whether the volumes can grow, where the spec wants larger ones.
    pub growth: Growth,
    /// What pods are made to speak.
    pub tls: TlsMode,
    /// What must be there before the first pods of a cluster can be made, as part of a sentence.
    pub tls_waits: Option<String>,
    /// Whether rights are to count, as it goes on record.
    pub auth: AuthMode,
    /// Whether there is to be a NetworkPolicy, as it goes on record.
    pub policy: bool,
    /// What is declared of users and rights; nothing where nobody has ever said anything of them.
    pub access: Option<Access>,
    /// Why the image that the spec wants cannot run what the cluster has.
    pub image_refused: Option<String>,
    /// What the nodes that answered said, by ordinal.
    pub nodes: BTreeMap<u32, Node>,
    /// Disks that answer another member; known only where no leader has answered.
    pub reached: BTreeSet<u64>,
    /// Machines that are cordoned.
    pub cordoned: Vec<String>,
    /// The operator lacks the right to read machines and volumes: whether one is gone, it cannot tell.
    pub machines_forbidden: bool,
}

impl Observed {
    /// The name of an ordinal's pod, which is what people know a member by.
    pub fn pod_name(&self, ordinal: u32) -> String {
        names::pod(&self.name, ordinal)
    }

    /// The ordinal of a member that does not lead itself and has just heard that a quorum has a leader: it is the
    /// operator that does not reach that one.
    pub fn vouched(&self) -> Option<u32> {
        let ours =
            |node: &Node| Some(node.cluster_id) == self.cluster_id && node.incarnation >= self.incarnation;
        let vouches = |node: &Node| node.confirmed && node.role != Role::Leader && ours(node);
        self.nodes.iter().find(|(_, node)| vouches(node)).map(|(ordinal, _)| *ordinal)
    }

    /// A member that answers knows, by its log, that this disk's data differs from what a majority held.
    pub fn is_corrupt(&self, node_id: u64) -> bool {
        self.nodes.values().any(|node| node.corrupt.contains(&node_id))
    }

    /// The name of an ordinal's claim.
    pub fn claim_name(&self, ordinal: u32) -> String {
        names::claim(&self.name, ordinal)
    }
}

/// What the spec wants, as far as the plan is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// How many members.
    pub members: u32,
    /// Only observe.
    pub paused: bool,
    /// Each disk's size.
    pub storage_bytes: u64,
    /// A member that its leader has not heard of for longer is not there.
    pub silent_ms_max: u64,
    /// What becomes of a disk whose member is gone.
    pub when_scaled: Keep,
    /// What becomes of the disks in the end.
    pub when_deleted: Keep,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            members: 3,
            paused: false,
            storage_bytes: 0,
            silent_ms_max: 1_000,
            when_scaled: Keep::Delete,
            when_deleted: Keep::Retain,
        }
    }
}

/// What the spec declares of users and rights, beside what is known of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A fingerprint of all that is declared; none where something of it cannot be read.
    pub fingerprint: Option<u64>,
    /// Nothing is declared.
    pub is_empty: bool,
    /// Something is declared, and nobody has ever said whether it counts.
    pub unsaid: bool,
    /// Whether rights are to count.
    pub mode: AuthMode,
    /// Whether they do, as far as is on record.
    pub on_record: AuthMode,
    /// They have been wanted for a moment only: what is missing may come at any time.
    pub soon: bool,
    /// What this operator declared last.
    pub sent: Option<Sent>,
    /// What could not be read: a sentence.
    pub unread: Option<String>,
    /// Why the members have just not taken this declaration: a sentence.
    pub refused: Option<String>,
}

/// An object of somebody else under a name that this cluster needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Its kind.
    pub kind: &'static str,
    /// Whose it is, and what to do: a sentence.
    pub said: String,
}

/// An object that Kubernetes refuses as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The key under which it is remembered.
    pub kind: &'static str,
    /// Why, and what to do: whole sentences.
    pub said: String,
    /// It is time to ask again.
    pub due: bool,
}

/// The PodMonitor, beside what the spec says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Monitor {
    /// It is as wanted, or not wanted and not there.
    #[default]
    AsWanted,
    /// It is wanted, and not known to be as the spec says.
    Differs,
    /// It is ours, and not wanted any more.
    Unwanted(Version),
    /// It is wanted and cannot be had: why, and what to do.
    Impossible(String),
}

/// Whether the volumes can grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// As far as is known.
    #[default]
    Allowed,
    /// Their class says no: why, as a sentence.
    Refused(String),
}

/// The StatefulSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatefulSet {
    /// Which one.
    pub version: Version,
    /// It is going away.
    pub deleting: bool,
    /// Pods it keeps.
    pub replicas: u32,
    /// All but its replicas and its claims' size is as it should be.
    pub current: bool,
    /// The hash of its pod template.
    pub template: String,
    /// The size of the claims it makes.
    pub storage_bytes: u64,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Which one.
    pub version: Version,
    /// It is going away.
    pub deleting: bool,
    /// Its container runs.
    pub running: bool,
    /// Clients are sent to it.
    pub ready: bool,
    /// The hash of the template it was made from.
    pub template: String,
    /// The machine it runs on.
    pub machine: Option<String>,
    /// Why its container does not run, as the kubelet or the scheduler says.
    pub trouble: Option<String>,
    /// What it waits for is what every pod waits for at first.
    pub starts: bool,
    /// It is not ready, and has not run as it should for longer than a start takes.
    pub troubled: bool,
    /// It should have been gone for a while.
    pub stuck: bool,
    /// It has not run for minutes, though it was made.
    pub pending: bool,
    /// Its machine is Ready, as far as that is known.
    pub machine_ready: bool,
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Which one.
    pub version: Version,
    /// It is going away.
    pub deleting: bool,
    /// Since so long, as far as that was seen.
    pub deleting_for: Duration,
    /// Whose disk it is, as far as that was written on it.
    pub disk: Option<Disk>,
    /// The incarnation that was written on it; 0: none.
    pub incarnation: u64,
    /// The image that was written on it: a StatefulSet that is made anew begins with it.
    pub image: String,
    /// What was written on it that its pod speaks.
    pub tls: TlsMode,
    /// What was written on it of whether rights count.
    pub auth: AuthMode,
    /// What was written on it of whether there is a NetworkPolicy.
    pub policy: bool,
    /// Its disk takes part no more, and is kept.
    pub retired: Retired,
    /// The size that is asked for.
    pub requested_bytes: u64,
    /// The size that is there; 0 while it is not bound.
    pub capacity_bytes: u64,
    /// Its volume has grown, and its file system follows only when another pod mounts it.
    pub grows_on_restart: bool,
    /// A person says that its disk is gone for good.
    pub declared_lost: bool,
    /// A person lets it go, if it is one that is kept for a person.
    pub released: bool,
    /// The volume that it is bound to; empty while it is not.
    pub volume: String,
    /// The one machine on which the volume can be used, where there is only one.
    pub home: Option<String>,
    /// Whether a machine exists that can use the volume.
    pub machine: Machine,
    /// A Ready machine without a member would take this claim's pod, were its volume not elsewhere.
    pub standby: bool,
}

/// Whether the machine that holds a volume exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// As far as is known.
    #[default]
    Exists,
    /// There is no such machine, but there was one a moment ago.
    Missing,
    /// There has been no such machine for so long that it is gone.
    Gone,
    /// No machine that exists fits the volume, but it is not bound to one machine: another that fits may come.
    Unfit,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Its disk belongs to no cluster.
    #[default]
    Unjoined,
    /// It does not vote.
    Learner,
    /// It votes.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
    /// Its disk is one that the cluster does not count on: it answers its status and nothing else.
    StatusOnly,
}

/// What a node said of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its disk's id.
    pub node_id: u64,
    /// Its cluster; 0 while Unjoined.
    pub cluster_id: u64,
    /// The incarnation of its cluster.
    pub incarnation: u64,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// It leads, and a quorum has just confirmed that: what it says of the membership is the latest. Or it votes, and
    /// has just heard from a leader of whom that is true; that is asked only where no leader answers.
    pub confirmed: bool,
    /// Its last log entry.
    pub last_log: LogId,
    /// What it has applied.
    pub applied: u64,
    /// The membership as it knows it.
    pub membership: Membership,
    /// How far others are; only the leader knows.
    pub progress: BTreeMap<u64, Progress>,
    /// Its version.
    pub version: String,
    /// The feature level of its cluster, as far as it knows.
    pub feature_level: u32,
    /// The highest one that it knows; a release of before there was any says 0.
    pub feature_level_max: u32,
    /// The members whose data differs from what a majority holds, as its log says.
    pub corrupt: BTreeSet<u64>,
    /// How it speaks TLS, if it does.
    pub tls: Option<NodeTls>,
    /// Its cluster was founded closed, and lets nobody in before it is declared what clients may do.
    pub closed: bool,
    /// Users and rights, as it has applied them.
    pub auth: AuthState,
    /// Whom it lets pass, and would refuse if rights counted.
    pub let_pass: Vec<LetPass>,
    /// A token came that is signed by a key it does not know.
    pub unknown_token_key: bool,
    /// Its alarms.
    pub alarms: Vec<String>,
    /// Why it answers its status and nothing else, and what to do; empty where it serves.
    pub status_only: String,
    /// Its disk lacks what it has acknowledged.
    pub went_back: bool,
}

/// Somebody whom a node lets pass because rights are only looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetPass {
    /// Who it is; empty: he has not proven to be anybody.
    pub user: String,
    /// How he has proven it.
    pub proof: String,
    /// What he would be told.
    pub why: String,
}

/// How a node speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTls {
    /// What its ports take.
    pub mode: TlsMode,
    /// What it has loaded.
    pub report: Report,
    /// Connections of clients without TLS.
    pub plain_clients: u32,
    /// Connections to its port for members without TLS.
    pub plain_peers: u32,
}

/// A membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The entry that made it.
    pub log_id: LogId,
    /// The voters; two sets while a joint change is under way, none before the cluster is founded.
    pub configs: Vec<BTreeSet<u64>>,
    /// Voters and learners, with the ordinal whose address they have.
    pub nodes: BTreeMap<u64, Option<u32>>,
}

/// How far the leader knows a peer to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its last entry that is the leader's too.
    pub matched: u64,
    /// Bytes that it lacks.
    pub bytes_behind: u64,
    /// Since when it is silent.
    pub silent_ms: u64,
}

impl Pod {
    /// Why it does not run, or what is known instead.
    pub fn why_not_ready(&self) -> &str {
        self.trouble.as_deref().unwrap_or("it runs again after it had stopped, and is not ready yet")
    }
}

impl Claim {
    /// A member's disk, as far as is written on it.
    pub fn is_members(&self) -> bool {
        self.disk.is_some() && self.retired == Retired::No && !self.deleting
    }
}

impl Node {
    /// It votes, as far as it knows, and stands for its cluster.
    pub fn is_voter(&self) -> bool {
        matches!(self.role, Role::Follower | Role::Candidate | Role::Leader)
    }

    /// Its disk is where its cluster knows it: it is not a copy of another member's.
    pub fn is_at_home(&self, ordinal: u32) -> bool {
        self.membership.nodes.get(&self.node_id).copied().flatten().is_none_or(|home| home == ordinal)
    }

    /// The token for a recovery from this node.
    pub fn token(&self) -> Token {
        Token { incarnation: self.incarnation, node_id: self.node_id, last_log: self.last_log }
    }

    /// It has never been part of any cluster's membership.
    pub fn is_blank(&self) -> bool {
        self.last_log.index == 0 && self.membership.configs.iter().all(BTreeSet::is_empty)
    }
}
