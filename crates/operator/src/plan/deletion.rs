//! The end of a KvCluster. Without `whenDeleted: Delete` Kubernetes' own garbage collection does all:
//! it takes what the KvCluster owns, and no claim is owned.

use kvorum_crd::Keep;

use super::{Decided, safe, wait};
use crate::names;
use crate::observed::Observed;
use crate::step::Step;

/// Keeps the finalizer in step with the policy.
pub fn hold(observed: &Observed) -> Decided {
    match (observed.wanted.when_deleted, observed.finalizer) {
        (Keep::Delete, false) => {
            safe(Step::AddFinalizer, "Its policy whenDeleted is Delete: the claims go with the KvCluster.")
        }
        (Keep::Retain, true) => safe(
            Step::RemoveFinalizer,
            "Its policy whenDeleted is Retain: the claims stay when the KvCluster goes.",
        ),
        _ => None,
    }
}

/// Deletes what the policy says. No node has to answer for that.
pub fn next(observed: &Observed) -> Decided {
    if !observed.finalizer {
        return wait(
            "The KvCluster is being deleted, and Kubernetes removes what belongs to it; the claims stay.",
        );
    }
    if observed.wanted.when_deleted == Keep::Delete {
        // First whatever would make new claims.
        match &observed.stateful_set {
            Some(set) if set.deleting => {
                return wait(format!(
                    "Waiting until StatefulSet {0} and its pods, which are being deleted, are gone: then the claims are \
                     deleted. If it stays, `kubectl get pods -l {1}` shows which pod does not end.",
                    observed.name,
                    names::selector_text(&observed.name),
                ));
            }
            Some(set) => {
                let version = set.version.clone();
                return safe(Step::DeleteStatefulSet { version }, "The KvCluster is being deleted.");
            }
            None => {}
        }
        let claim = observed.claims.iter().find(|(_, claim)| !claim.deleting);
        if let Some((ordinal, claim)) = claim {
            let step = crate::step::Risky::DeleteClaim { ordinal: *ordinal, version: claim.version.clone() };
            return super::risky(
                step,
                "The KvCluster is being deleted, and its policy whenDeleted is Delete.",
            );
        }
    }
    safe(Step::RemoveFinalizer, "Nothing is left to delete.")
}
