//! Whether a cluster has a NetworkPolicy.

use kube::ResourceExt as _;
use kvorum_crd::KvCluster;

use super::objects::Objects;
use crate::names;

/// Whether there is to be one. Where the spec does not say it, a cluster keeps what it was made with: a new operator closes
/// no port that somebody uses, and one that was deleted is made again. `may`: this operator makes some at all.
pub fn wanted(cluster: &KvCluster, objects: &Objects, may: bool) -> bool {
    cluster.spec.network_policy.enabled.unwrap_or_else(|| {
        let there = objects.policy.as_ref().is_ok_and(Option::is_some);
        let new = objects.set.is_none() && objects.disks().is_empty() && objects.others_policy.is_none();
        there || on_record(objects) || (may && new)
    })
}

/// What the StatefulSet says or, without one, the claims.
fn on_record(objects: &Objects) -> bool {
    match &objects.set {
        Some(set) => set.annotations().get(names::POLICY).is_some_and(|word| word == names::POLICY_ENABLED),
        None => objects.disks().iter().any(|claim| claim.policy),
    }
}
