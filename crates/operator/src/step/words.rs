//! What steps are called in sentences: of what was done, is done or could not be done.

use super::{Risky, Step};
use crate::names::{self, FINALIZER, RECOVER_FROM, hex};

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

    /// What there is to do, as in "delete pod demo-2".
    pub fn to_do(&self, cluster: &str) -> String {
        let Words { verb, object, .. } = self.words(cluster);
        format!("{verb} {object}")
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
            Step::ApplyObjects => words(
                "apply",
                "Applied",
                format!("Services, disruption budget and the like of KvCluster {cluster}"),
            ),
            Step::ApplyAccess { .. } => {
                words("declare", "Declared", format!("users and rights of KvCluster {cluster} to its leader"))
            }
            Step::ApplyMonitor => words("apply", "Applied", format!("PodMonitor {cluster}")),
            Step::DeleteMonitor { .. } => words("delete", "Deleted", format!("PodMonitor {cluster}")),
            Step::DeletePolicy { .. } => words("delete", "Deleted", format!("NetworkPolicy {cluster}")),
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
    use crate::fence::Version;

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
