//! The end of a KvCluster. Without `whenDeleted: Delete` Kubernetes' own garbage collection does all:
//! it takes what the KvCluster owns, and no claim is owned.

use std::time::Duration;

use kvorum_crd::Keep;

use super::{About, Decided, Notes, safe, wait};
use crate::names;
use crate::observed::Observed;
use crate::step::Step;

/// A claim that is deleted and still there so long after is told of: its pod has had time to end.
const CLAIM_STAYS: Duration = Duration::from_secs(60);
/// After so long the KvCluster goes without it: what holds a claim then, a pod on a machine that is gone for example,
/// may hold it for ever.
const CLAIM_GIVEN_UP: Duration = Duration::from_secs(600);

/// Keeps the finalizer in step with the policy.
pub fn hold(observed: &Observed) -> Decided {
    if observed.namespace_ends {
        return ends_with_its_namespace(observed);
    }
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

/// The claims go with the namespace whatever the policy says, and so may the operator's rights in it: a finalizer that
/// is still there then would hold the namespace for ever.
fn ends_with_its_namespace(observed: &Observed) -> Decided {
    let reason = "The namespace is being deleted, and everything in it goes, the claims too.";
    match observed.finalizer {
        true => safe(Step::RemoveFinalizer, reason),
        false => wait(reason),
    }
}

/// Deletes what the policy says. No node has to answer for that.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    if !observed.finalizer {
        return wait(
            "The KvCluster is being deleted, and Kubernetes removes what belongs to it; the claims stay.",
        );
    }
    if observed.namespace_ends {
        return ends_with_its_namespace(observed);
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
        // A StatefulSet that was deleted without its pods left them to nobody, and they hold their claims.
        if let Some((ordinal, pod)) = observed.pods.iter().find(|(_, pod)| !pod.deleting) {
            let step = crate::step::Risky::DeletePod { ordinal: *ordinal, version: pod.version.clone() };
            return super::risky(step, "The KvCluster is being deleted, and the pod's StatefulSet is gone.");
        }
        return claims_stay(observed, notes).or_else(|| {
            safe(Step::RemoveFinalizer, "Nothing is left to delete, or it is held by others for ten minutes.")
        });
    }
    safe(Step::RemoveFinalizer, "The claims stay.")
}

/// Whoever makes a KvCluster of this name after this one must not find its claims.
fn claims_stay(observed: &Observed, notes: &mut Notes) -> Decided {
    let held = || observed.claims.iter().filter(|(_, claim)| claim.deleting_for < CLAIM_GIVEN_UP);
    let names: Vec<String> = held().map(|(ordinal, _)| observed.claim_name(*ordinal)).collect();
    let (_, longest) = held().max_by_key(|(_, claim)| claim.deleting_for)?;
    let message = format!(
        "Waiting until these claims, which are deleted, are gone: {}. If they stay, a pod still uses them, or a finalizer \
         holds them (`kubectl describe pvc`); after ten minutes the KvCluster goes without them.",
        names.join(", ")
    );
    if longest.deleting_for > CLAIM_STAYS {
        notes.add(About::Storage, "ClaimsStay", message.clone());
    }
    wait(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Claim, Wanted};
    use crate::plan::plan;

    /// Goal: no finalizer stays behind in a namespace that goes, where its operator has no rights a moment later; and none
    /// is added there.
    #[test]
    fn the_finalizer_goes_before_the_namespace() {
        let step = |deleting, finalizer, namespace_ends| {
            let wanted = Wanted { when_deleted: Keep::Delete, ..Wanted::default() };
            let claims = [(0, Claim::default())].into();
            plan(&Observed { wanted, deleting, finalizer, namespace_ends, claims, ..Observed::default() })
                .step
        };
        assert_eq!(step(false, true, true), Step::RemoveFinalizer);
        assert_eq!(step(true, true, true), Step::RemoveFinalizer);
        assert_eq!(step(false, false, true), Step::Wait);
        assert_eq!(step(false, false, false), Step::AddFinalizer);
    }

    /// Goal: pods that nobody owns hold no claim for ever.
    #[test]
    fn pods_without_a_stateful_set_go_too() {
        let claim = Claim { deleting: true, ..Claim::default() };
        let mut observed = Observed {
            wanted: Wanted { when_deleted: Keep::Delete, ..Wanted::default() },
            deleting: true,
            finalizer: true,
            pods: [(0, crate::observed::Pod::default())].into(),
            claims: [(0, claim)].into(),
            ..Observed::default()
        };
        let step = plan(&observed).step;
        assert!(matches!(step, Step::Record(crate::step::Risky::DeletePod { ordinal: 0, .. })), "{step:?}");
        observed.pods.get_mut(&0).unwrap().deleting = true;
        assert_eq!(plan(&observed).step, Step::Wait);
    }

    /// Goal: a KvCluster goes after its claims, so that the next of its name does not meet them; but not never.
    #[test]
    fn the_claims_go_first() {
        let deleting_for = |seconds| {
            let deleting_for = Duration::from_secs(seconds);
            let claim = Claim { deleting: true, deleting_for, ..Claim::default() };
            plan(&Observed {
                wanted: Wanted { when_deleted: Keep::Delete, ..Wanted::default() },
                deleting: true,
                finalizer: true,
                claims: [(0, claim)].into(),
                ..Observed::default()
            })
        };
        let young = deleting_for(1);
        assert_eq!((young.step, young.notes.len()), (Step::Wait, 0));
        let old = deleting_for(61);
        assert_eq!((old.step, old.notes[0].reason), (Step::Wait, "ClaimsStay"));
        assert_eq!(deleting_for(600).step, Step::RemoveFinalizer);
    }
}
