//! The steps of a plan, and the record of a risky one in the status.

use std::collections::BTreeSet;
use std::fmt;

use crate::crd::StepRecord;
use crate::names::{hex, unhex};
use crate::observed::{Disk, LogId, Token, Version};

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
    /// Write on a claim that its member was removed.
    Retire {
        /// The claim.
        ordinal: u32,
        /// As it was seen.
        version: Version,
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

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::ApplyMonitor => f.write_str("apply the PodMonitor"),
            Step::DeleteMonitor { .. } => f.write_str("delete the PodMonitor"),
            Step::CreateStatefulSet { replicas } => write!(f, "create the StatefulSet with {replicas} pods"),
            Step::Grow { replicas, .. } => write!(f, "scale the StatefulSet up to {replicas} pods"),
            Step::RecordDisk { ordinal, disk, .. } => {
                write!(f, "write node id {} on claim {ordinal}", hex(disk.node_id))
            }
            Step::Retire { ordinal, .. } => write!(f, "keep claim {ordinal} as retired"),
            Step::GrowClaim { ordinal } => write!(f, "grow claim {ordinal}"),
            Step::Latch { cluster_id } => write!(f, "take {} as the cluster's id", hex(*cluster_id)),
            Step::Initialize { ordinal, cluster_id, .. } => {
                write!(f, "found cluster {} on member {ordinal}", hex(*cluster_id))
            }
            Step::RaiseIncarnation { to, .. } => write!(f, "make pods for incarnation {to} only"),
            Step::TransferLeader { to } => write!(f, "hand leadership over to {}", hex(*to)),
            Step::Act(risky) => risky.fmt(f),
            Step::Record(risky) => write!(f, "plan to {risky}"),
            Step::Forget(risky) => write!(f, "done: {risky}"),
            Step::Abandon(risky) => write!(f, "give up to {risky}"),
            other => f.write_str(other.kind()),
        }
    }
}

impl fmt::Display for Risky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Risky::AddLearner { node_id, ordinal, .. } => {
                write!(f, "add member {ordinal} ({}) as a learner", hex(*node_id))
            }
            Risky::RemoveLearner { node_id, .. } => write!(f, "remove the learner {}", hex(*node_id)),
            Risky::ChangeVoters { .. } => write!(f, "make {} the voters", self.target()),
            Risky::DeletePod { ordinal, .. } => write!(f, "replace pod {ordinal}"),
            Risky::DeleteClaim { ordinal, .. } => write!(f, "delete claim {ordinal} and its disk"),
            Risky::Shrink { replicas, .. } => write!(f, "scale the StatefulSet down to {replicas} pods"),
            Risky::Recover { token, .. } => {
                write!(f, "recover the cluster from {} alone", hex(token.node_id))
            }
            Risky::RecreateStatefulSet { .. } => f.write_str("make the StatefulSet again around its pods"),
        }
    }
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
}
