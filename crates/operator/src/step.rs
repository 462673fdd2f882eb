//! The steps of a plan, and the record of a risky one in the status.

use std::collections::BTreeSet;

use kvorum_crd::StepRecord;

use crate::fence::{Disk, LogId, Retired, Token, Version};
use crate::names::{self, FINALIZER, RECOVER_FROM, hex, unhex};

/// One step. Each is one idempotent effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All is as wanted.
    Rest,
    /// Something has to happen first.
    Wait,
    /// Apply Services, disruption budget and the like.
    ApplyObjects,
    /// Apply the PodMonitor.
    ApplyMonitor,
    /// Delete the PodMonitor.
    DeleteMonitor {
        /// As it was seen.
        version: Version,
    },
    /// Put our finalizer on the KvCluster.
    AddFinalizer,
    /// Take it off.
    RemoveFinalizer,
    /// Make the StatefulSet.
    CreateStatefulSet {
        /// Its pods.
        replicas: u32,
    },
    /// Apply the StatefulSet's template; no pod restarts by that.
    UpdateStatefulSet {
        /// The version it replaces.
        version: Version,
    },
    /// More pods.
    Grow {
        /// How many.
        replicas: u32,
        /// The StatefulSet as it was seen.
        version: Version,
    },
    /// Write on a claim whose disk it is.
    RecordDisk {
        /// The claim.
        ordinal: u32,
        /// As it was seen.
        version: Version,
        /// What to write.
        disk: Disk,
    },
    /// Write on a claim that its disk takes part no more.
    Retire {
        /// The claim.
        ordinal: u32,
        /// As it was seen.
        version: Version,
        /// How it left.
        retired: Retired,
    },
    /// Ask for a larger volume.
    GrowClaim {
        /// The claim.
        ordinal: u32,
    },
    /// Write the cluster's id into the status, for ever.
    Latch {
        /// The id.
        cluster_id: u64,
    },
    /// Tell the founder to found the cluster.
    Initialize {
        /// Where.
        ordinal: u32,
        /// Which disk.
        node_id: u64,
        /// The cluster's id.
        cluster_id: u64,
    },
    /// Make pods and Services for the next incarnation only.
    RaiseIncarnation {
        /// Which.
        to: u64,
        /// The survivor that begins it, and no other ever.
        token: Token,
    },
    /// Take the annotation off that asked for a recovery: there is a quorum.
    DropToken,
    /// Hand leadership over.
    TransferLeader {
        /// To this node.
        to: u64,
    },
    /// Delete the StatefulSet with its pods, because the KvCluster is being deleted.
    DeleteStatefulSet {
        /// As it was seen.
        version: Version,
    },
    /// Write down a risky step.
    Record(Risky),
    /// Take the risky step that is written down.
    Act(Risky),
    /// The risky step that is written down is done, or can no longer be.
    Forget(Risky),
    /// The risky step that is written down must not be taken any more.
    Abandon(Risky),
}

/// A step that could cost the cluster a member: one at a time, written down first, and fenced by the
/// version of what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Risky {
    /// Add a node that does not vote.
    AddLearner {
        /// Its id.
        node_id: u64,
        /// Where it is.
        ordinal: u32,
        /// The membership this is for.
        membership: LogId,
    },
    /// Remove a node that does not vote.
    RemoveLearner {
        /// Its id.
        node_id: u64,
        /// The membership this is for.
        membership: LogId,
    },
    /// Make these the voters.
    ChangeVoters {
        /// All of them.
        voters: BTreeSet<u64>,
        /// The membership this is for.
        membership: LogId,
    },
    /// Delete a pod; the StatefulSet makes a new one.
    DeletePod {
        /// Which.
        ordinal: u32,
        /// In which version.
        version: Version,
    },
    /// Delete a claim with its disk.
    DeleteClaim {
        /// Which.
        ordinal: u32,
        /// In which version.
        version: Version,
    },
    /// One pod less.
    Shrink {
        /// How many stay.
        replicas: u32,
        /// The StatefulSet as it was seen.
        version: Version,
    },
    /// Make the survivor of a quorum that is lost for good the only voter of the next incarnation.
    Recover {
        /// Where it is.
        ordinal: u32,
        /// The survivor as it was seen.
        token: Token,
        /// The incarnation that it begins.
        to: u64,
    },
    /// Delete the StatefulSet without its pods, to make it again.
    RecreateStatefulSet {
        /// As it was seen.
        version: Version,
    },
}

impl Risky {
    /// Its name in events, metrics and the status.
    pub fn kind(&self) -> &'static str {
        match self {
            Risky::AddLearner { .. } => "AddLearner",
            Risky::RemoveLearner { .. } => "RemoveLearner",
            Risky::ChangeVoters { .. } => "ChangeVoters",
            Risky::DeletePod { .. } => "DeletePod",
            Risky::DeleteClaim { .. } => "DeleteClaim",
            Risky::Shrink { .. } => "Shrink",
            Risky::Recover { .. } => "Recover",
            Risky::RecreateStatefulSet { .. } => "RecreateStatefulSet",
        }
    }

    fn target(&self) -> String {
        match self {
            Risky::AddLearner { node_id, ordinal, .. } => format!("{}@{ordinal}", hex(*node_id)),
            Risky::RemoveLearner { node_id, .. } => hex(*node_id),
            Risky::ChangeVoters { voters, .. } => {
                voters.iter().map(|id| hex(*id)).collect::<Vec<_>>().join(",")
            }
            Risky::DeletePod { ordinal, .. } | Risky::DeleteClaim { ordinal, .. } => ordinal.to_string(),
            Risky::Shrink { replicas, .. } => replicas.to_string(),
            Risky::Recover { ordinal, token, to } => {
                format!("{ordinal}:{}/{}:{to}", token.incarnation, hex(token.node_id))
            }
            Risky::RecreateStatefulSet { .. } => String::new(),
        }
    }

    fn version(&self) -> Option<&Version> {
        match self {
            Risky::DeletePod { version, .. }
            | Risky::DeleteClaim { version, .. }
            | Risky::Shrink { version, .. }
            | Risky::RecreateStatefulSet { version } => Some(version),
            Risky::AddLearner { .. }
            | Risky::RemoveLearner { .. }
            | Risky::ChangeVoters { .. }
            | Risky::Recover { .. } => None,
        }
    }

    fn membership(&self) -> Option<LogId> {
        match self {
            Risky::AddLearner { membership, .. }
            | Risky::RemoveLearner { membership, .. }
            | Risky::ChangeVoters { membership, .. } => Some(*membership),
            Risky::Recover { token, .. } => Some(token.last_log),
            _ => None,
        }
    }

    /// As the status keeps it.
    pub fn record(&self) -> StepRecord {
        StepRecord {
            kind: self.kind().to_owned(),
            target: self.target(),
            uid: self.version().map(|version| version.uid.clone()),
            resource_version: self.version().map(|version| version.resource_version.clone()),
            membership: self.membership().map(|at| format!("{}.{}", at.term, at.index)),
        }
    }

    /// From the status; `None` where no operator of ours wrote it.
    pub fn read(record: &StepRecord) -> Option<Risky> {
        let version =
            || Some(Version { uid: record.uid.clone()?, resource_version: record.resource_version.clone()? });
        let membership = || {
            let (term, index) = record.membership.as_ref()?.split_once('.')?;
            Some(LogId { term: term.parse().ok()?, index: index.parse().ok()? })
        };
        let number = || record.target.parse().ok();
        Some(match record.kind.as_str() {
            "AddLearner" => {
                let (id, ordinal) = record.target.split_once('@')?;
                let (node_id, ordinal) = (unhex(id)?, ordinal.parse().ok()?);
                Risky::AddLearner { node_id, ordinal, membership: membership()? }
            }
            "RemoveLearner" => {
                Risky::RemoveLearner { node_id: unhex(&record.target)?, membership: membership()? }
            }
            "ChangeVoters" => {
                let voters = record.target.split(',').map(unhex).collect::<Option<_>>()?;
                Risky::ChangeVoters { voters, membership: membership()? }
            }
            "DeletePod" => Risky::DeletePod { ordinal: number()?, version: version()? },
            "DeleteClaim" => Risky::DeleteClaim { ordinal: number()?, version: version()? },
            "Shrink" => Risky::Shrink { replicas: number()?, version: version()? },
            "Recover" => {
                let (ordinal, survivor) = record.target.split_once(':')?;
                let (survivor, to) = survivor.split_once(':')?;
                let (incarnation, id) = survivor.split_once('/')?;
                let (incarnation, node_id) = (incarnation.parse().ok()?, unhex(id)?);
                let token = Token { incarnation, node_id, last_log: membership()? };
                Risky::Recover { ordinal: ordinal.parse().ok()?, token, to: to.parse().ok()? }
            }
            "RecreateStatefulSet" => Risky::RecreateStatefulSet { version: version()? },
            _ => return None,
        })
    }
}

impl Step {
    /// Its name in events and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Rest => "Rest",
            Step::Wait => "Wait",
            Step::ApplyObjects => "ApplyObjects",
            Step::ApplyMonitor => "ApplyMonitor",
            Step::DeleteMonitor { .. } => "DeleteMonitor",
            Step::AddFinalizer => "AddFinalizer",
            Step::RemoveFinalizer => "RemoveFinalizer",
            Step::CreateStatefulSet { .. } => "CreateStatefulSet",
            Step::UpdateStatefulSet { .. } => "UpdateStatefulSet",
            Step::Grow { .. } => "Grow",
            Step::RecordDisk { .. } => "RecordDisk",
            Step::Retire { .. } => "Retire",
            Step::GrowClaim { .. } => "GrowClaim",
            Step::Latch { .. } => "Latch",
            Step::Initialize { .. } => "Initialize",
            Step::RaiseIncarnation { .. } => "RaiseIncarnation",
            Step::DropToken => "DropToken",
            Step::TransferLeader { .. } => "TransferLeader",
            Step::DeleteStatefulSet { .. } => "DeleteStatefulSet",
            Step::Record(_) => "Record",
            Step::Act(risky) => risky.kind(),
            Step::Forget(_) => "Forget",
            Step::Abandon(_) => "Abandon",
        }
    }

    /// Nothing is to be done now.
    pub fn is_idle(&self) -> bool {
        matches!(self, Step::Rest | Step::Wait)
    }

    /// A member may be away or change its part by it. During any other step, and where that fails, a
    /// cluster is as Ready as its members are.
    pub fn touches_members(&self) -> bool {
        matches!(
            self,
            Step::Initialize { .. }
                | Step::RaiseIncarnation { .. }
                | Step::TransferLeader { .. }
                | Step::DeleteStatefulSet { .. }
                | Step::Record(_)
                | Step::Act(_)
                | Step::Forget(_)
                | Step::Abandon(_)
        )
    }
}

/// What a step does, to put into sentences of what was done, is done or could not be done.
struct Words {
    /// As in "to delete".
    verb: &'static str,
    /// As in "Deleted".
    past: &'static str,
    /// What it is done to, by the name that `kubectl` knows.
    object: String,
}

fn words(verb: &'static str, past: &'static str, object: impl Into<String>) -> Words {
    Words { verb, past, object: object.into() }
}

impl Step {
    /// That it was taken, for the cluster of this name: a sentence without its full stop.
    pub fn done(&self, cluster: &str) -> String {
        let Words { verb, past, object } = self.words(cluster);
        match self {
            Step::Record(_) => format!("Planned to {verb} {object}"),
            Step::Forget(_) => format!("The step to {verb} {object} is done, or its object has changed"),
            Step::Abandon(_) => {
                format!("Gave up the plan to {verb} {object}, which is no longer what comes next")
            }
            _ => format!("{past} {object}"),
        }
    }

    /// That it is being taken.
    pub fn begun(&self, cluster: &str) -> String {
        let Words { verb, object, .. } = self.words(cluster);
        match self {
            Step::Forget(_) | Step::Abandon(_) => self.done(cluster),
            _ => format!("The next step is to {verb} {object}"),
        }
    }

    /// That it could not be taken.
    pub fn failed(&self, cluster: &str) -> String {
        let Words { verb, object, .. } = self.words(cluster);
        match self {
            Step::Record(_) | Step::Forget(_) | Step::Abandon(_) => {
                format!("Could not write down the step to {verb} {object}")
            }
            _ => format!("Could not {verb} {object}"),
        }
    }

    fn words(&self, cluster: &str) -> Words {
        let set = || format!("StatefulSet {cluster}");
        match self {
            Step::Rest | Step::Wait => words("look at", "Looked at", format!("KvCluster {cluster}")),
            Step::ApplyObjects => {
                words("apply", "Applied", format!("Services and PodDisruptionBudget of KvCluster {cluster}"))
            }
            Step::ApplyMonitor => words("apply", "Applied", format!("PodMonitor {cluster}")),
            Step::DeleteMonitor { .. } => words("delete", "Deleted", format!("PodMonitor {cluster}")),
            Step::AddFinalizer => {
                words("put", "Put", format!("finalizer {FINALIZER} on KvCluster {cluster}"))
            }
            Step::RemoveFinalizer => {
                words("take", "Took", format!("finalizer {FINALIZER} off KvCluster {cluster}"))
            }
            Step::CreateStatefulSet { replicas } => {
                words("create", "Created", format!("{} with {}", set(), pods(*replicas)))
            }
            Step::UpdateStatefulSet { .. } => {
                words("apply", "Applied", format!("{}, which restarts no pod", set()))
            }
            Step::Grow { replicas, .. } => {
                words("scale", "Scaled", format!("{} up to {}", set(), pods(*replicas)))
            }
            Step::RecordDisk { ordinal, disk, .. } => {
                let claim = names::claim(cluster, *ordinal);
                words(
                    "write",
                    "Wrote",
                    format!("on claim {claim} that its disk is node {}", hex(disk.node_id)),
                )
            }
            Step::Retire { ordinal, .. } => {
                let claim = names::claim(cluster, *ordinal);
                words("mark", "Marked", format!("claim {claim} as retired; it is kept, with its disk"))
            }
            Step::GrowClaim { ordinal } => words(
                "ask",
                "Asked",
                format!("for a larger volume on claim {}", names::claim(cluster, *ordinal)),
            ),
            Step::Latch { cluster_id } => {
                let id = hex(*cluster_id);
                words("take", "Took", format!("{id} as the cluster id of KvCluster {cluster}, for ever"))
            }
            Step::Initialize { ordinal, cluster_id, .. } => {
                let pod = names::pod(cluster, *ordinal);
                words("found", "Founded", format!("cluster {} on member {pod}", hex(*cluster_id)))
            }
            Step::RaiseIncarnation { to, .. } => {
                words("raise", "Raised", format!("the incarnation of KvCluster {cluster} to {to}"))
            }
            Step::DropToken => words("take", "Took", format!("{RECOVER_FROM} off KvCluster {cluster}")),
            Step::TransferLeader { to } => {
                words("hand", "Handed", format!("leadership over to node {}", hex(*to)))
            }
            Step::DeleteStatefulSet { .. } => words("delete", "Deleted", format!("{} with its pods", set())),
            Step::Record(risky) | Step::Act(risky) | Step::Forget(risky) | Step::Abandon(risky) => {
                risky.words(cluster)
            }
        }
    }
}

impl Risky {
    fn words(&self, cluster: &str) -> Words {
        match self {
            Risky::AddLearner { node_id, ordinal, .. } => {
                let pod = names::pod(cluster, *ordinal);
                words(
                    "add",
                    "Added",
                    format!("member {pod}, node {}, which does not vote yet", hex(*node_id)),
                )
            }
            Risky::RemoveLearner { node_id, .. } => {
                words("remove", "Removed", format!("node {}, which does not vote", hex(*node_id)))
            }
            Risky::ChangeVoters { voters, .. } => {
                let ids: Vec<_> = voters.iter().map(|id| hex(*id)).collect();
                words("make", "Made", format!("these nodes the voters: {}", ids.join(", ")))
            }
            Risky::DeletePod { ordinal, .. } => {
                let pod = names::pod(cluster, *ordinal);
                words("delete", "Deleted", format!("pod {pod}, which the StatefulSet makes again"))
            }
            Risky::DeleteClaim { ordinal, .. } => {
                words("delete", "Deleted", format!("claim {} and its disk", names::claim(cluster, *ordinal)))
            }
            Risky::Shrink { replicas, .. } => {
                words("scale", "Scaled", format!("StatefulSet {cluster} down to {}", pods(*replicas)))
            }
            Risky::Recover { ordinal, token, .. } => {
                let pod = names::pod(cluster, *ordinal);
                let node = hex(token.node_id);
                words(
                    "recover",
                    "Told a survivor to recover",
                    format!("the cluster from member {pod}, node {node}, alone"),
                )
            }
            Risky::RecreateStatefulSet { .. } => words(
                "delete",
                "Deleted",
                format!("StatefulSet {cluster} alone, to make it again around its pods"),
            ),
        }
    }
}

fn pods(count: u32) -> String {
    if count == 1 { "1 pod".into() } else { format!("{count} pods") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a step that one operator wrote down is exactly what the next one finds.
    #[test]
    fn records_are_read_back() {
        let version = Version { uid: "u".into(), resource_version: "7".into() };
        let membership = LogId { term: 3, index: 9 };
        let steps = [
            Risky::AddLearner { node_id: 5, ordinal: 2, membership },
            Risky::RemoveLearner { node_id: 5, membership },
            Risky::ChangeVoters { voters: [1, u64::MAX].into(), membership },
            Risky::DeletePod { ordinal: 2, version: version.clone() },
            Risky::DeleteClaim { ordinal: 2, version: version.clone() },
            Risky::Shrink { replicas: 2, version: version.clone() },
            Risky::Recover {
                ordinal: 2,
                token: Token { incarnation: 1, node_id: 5, last_log: membership },
                to: 2,
            },
            Risky::RecreateStatefulSet { version },
        ];
        for step in steps {
            assert_eq!(Risky::read(&step.record()), Some(step));
        }
        assert_eq!(Risky::read(&StepRecord::default()), None);
    }

    /// Goal: whoever reads `kubectl describe` learns what was done, to which object by its name.
    #[test]
    fn steps_are_told_in_sentences() {
        let version = Version { uid: "u".into(), resource_version: "7".into() };
        let replace = Risky::DeletePod { ordinal: 2, version: version.clone() };
        let pod = "pod demo-2, which the StatefulSet makes again";
        let table = [
            (Step::Act(replace.clone()), format!("Deleted {pod}")),
            (Step::Record(replace.clone()), format!("Planned to delete {pod}")),
            (
                Step::Forget(replace.clone()),
                format!("The step to delete {pod} is done, or its object has changed"),
            ),
            (
                Step::Abandon(replace.clone()),
                format!("Gave up the plan to delete {pod}, which is no longer what comes next"),
            ),
            (
                Step::Grow { replicas: 3, version: version.clone() },
                "Scaled StatefulSet demo up to 3 pods".into(),
            ),
            (
                Step::Act(Risky::DeleteClaim { ordinal: 0, version: version.clone() }),
                "Deleted claim data-demo-0 and its disk".into(),
            ),
            (
                Step::Act(Risky::Shrink { replicas: 1, version }),
                "Scaled StatefulSet demo down to 1 pod".into(),
            ),
        ];
        for (step, said) in table {
            assert_eq!(step.done("demo"), said);
        }
        assert_eq!(Step::Act(replace.clone()).failed("demo"), format!("Could not delete {pod}"));
        assert_eq!(Step::Record(replace).begun("demo"), format!("The next step is to delete {pod}"));
    }
}
