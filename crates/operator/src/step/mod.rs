//! The steps of a plan: what they are called in sentences is in `words`, and how a risky one is written into the status
//! in `record`.

mod record;
mod words;

use std::collections::BTreeSet;

use crate::access::Sent;
use crate::fence::{Disk, LogId, Retired, Token, Version};

/// One step. Each is one idempotent effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All is as wanted.
    Rest,
    /// Something has to happen first.
    Wait,
    /// Apply Services, disruption budget and the like.
    ApplyObjects,
    /// Declare users, roles and rights.
    ApplyAccess {
        /// What is remembered of it then.
        sent: Sent,
    },
    /// Apply the PodMonitor.
    ApplyMonitor,
    /// Delete the PodMonitor.
    DeleteMonitor {
        /// As it was seen.
        version: Version,
    },
    /// Delete the NetworkPolicy.
    DeletePolicy {
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
        /// And of which incarnation its cluster is.
        incarnation: u64,
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
        /// Nobody is let in before it is declared what clients may do.
        closed: bool,
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
}

impl Step {
    /// Its name in events and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Rest => "Rest",
            Step::Wait => "Wait",
            Step::ApplyObjects => "ApplyObjects",
            Step::ApplyAccess { .. } => "ApplyAccess",
            Step::ApplyMonitor => "ApplyMonitor",
            Step::DeleteMonitor { .. } => "DeleteMonitor",
            Step::DeletePolicy { .. } => "DeletePolicy",
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
