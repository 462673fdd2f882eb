//! The StatefulSet and the objects beside it.

use super::view::View;
use super::{About, Decided, Notes, deleted_claim, safe, wait};
use crate::fence::Retired;
use crate::observed::{Observed, Refused, Taken};
use crate::step::Step;

/// Makes what is missing and applies what differs.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    if let Some(taken) = taken(observed, notes) {
        return Some(taken);
    }
    for refused in &observed.refused {
        notes.add(About::Degraded, "SpecRefused", refused.said.clone());
    }
    if !observed.objects_current {
        return safe(Step::ApplyObjects, "They are not known to be as the spec says.");
    }
    if let Some(version) = &observed.unwanted_policy {
        let version = version.clone();
        return safe(Step::DeletePolicy { version }, "The spec says so: networkPolicy.enabled is false.");
    }
    let stands = |refused: &&Refused| !refused.due;
    if let (Some(refused), None) = (observed.refused.iter().find(stands), observed.cluster_id) {
        return wait(refused.said.clone());
    }
    let Some(set) = &observed.stateful_set else {
        // All that is left of an earlier life goes first: nobody takes it for this one's.
        let dying = observed.claims.values().all(|claim| claim.deleting);
        if let (Some(ordinal), true, None) = (observed.claims.keys().next(), dying, observed.cluster_id) {
            return wait(deleted_claim(observed, *ordinal, "the members of a new cluster are made"));
        }
        if let Some(waits) = &observed.tls_waits {
            return wait(format!(
                "Waiting for {waits}, without which no member is made: a new cluster speaks TLS unless spec.tls.mode is \
                 Disabled. If this stays, the condition CertificateProblem says why."
            ));
        }
        let replicas = replicas_of_missing(observed);
        return safe(Step::CreateStatefulSet { replicas }, "There is none yet, or it was deleted.");
    };
    if set.deleting {
        return wait(format!(
            "Waiting until StatefulSet {0}, which is being deleted, is gone: then it is made again around its pods. If it \
             stays, a finalizer holds it; `kubectl get statefulset {0} -o yaml` says which.",
            observed.name
        ));
    }
    if set.storage_bytes > observed.wanted.storage_bytes {
        notes.add(
            About::Storage,
            "CannotShrink",
            "The volumes are larger than spec.storage.size, and volumes cannot shrink: set it back to their size.",
        );
    }
    if let Some(refused) = &observed.image_refused {
        notes.add(About::Degraded, "ImageTooOld", refused.clone());
        return None;
    }
    if observed.refused.iter().filter(stands).any(|refused| refused.kind == "StatefulSet") {
        return None;
    }
    if !set.current {
        return safe(
            Step::UpdateStatefulSet { version: set.version.clone() },
            "It is not known to be as the spec says.",
        );
    }
    None
}

/// Says what stands in the way. A cluster that is there goes on without what it lacks; one that is not founded yet
/// waits.
fn taken(observed: &Observed, notes: &mut Notes) -> Decided {
    for taken in &observed.taken {
        notes.add(About::Name, "NameTaken", taken.said.clone());
    }
    let stops = |taken: &&Taken| observed.cluster_id.is_none() || taken.kind == "StatefulSet";
    let taken = observed.taken.iter().find(stops)?;
    wait(format!("Waiting until the name is free. {}", taken.said))
}

/// A StatefulSet that is gone is made again as it was, as far as pods and claims tell: the spec alone
/// could cut members off.
fn replicas_of_missing(observed: &Observed) -> u32 {
    let claims =
        observed.claims.iter().filter(|(_, claim)| claim.retired == Retired::No).map(|(ordinal, _)| ordinal);
    let members = View::of(observed).map(|view| view.floor());
    let highest = observed.pods.keys().chain(claims).max().map(|highest| highest + 1);
    highest.into_iter().chain(members).max().unwrap_or(observed.wanted.members)
}

/// No member may be cut off by a StatefulSet that somebody scaled down.
pub fn hold_members(view: &View) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let floor = view.floor();
    if set.replicas >= floor {
        return None;
    }
    let step = Step::Grow { replicas: floor, version: set.version.clone() };
    safe(
        step,
        "The StatefulSet has fewer pods than the cluster has members; to scale the cluster, change spec.members.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::StatefulSet;

    /// Goal: a spec that Kubernetes refuses stops no repair, and a condition says what it refuses; a cluster that is not
    /// founded yet waits.
    #[test]
    fn a_spec_that_is_refused_stops_nothing_else() {
        let set = StatefulSet { replicas: 3, ..StatefulSet::default() };
        let refused = |kind| vec![Refused { kind, said: "It is refused.".into(), due: false }];
        let mut observed = Observed {
            cluster_id: Some(9),
            objects_current: true,
            stateful_set: Some(set),
            refused: refused("StatefulSet"),
            ..Observed::default()
        };
        let look = |observed: &Observed| {
            let mut notes = Notes::default();
            (next(observed, &mut notes).map(|(_, reason)| reason), notes.0[0].reason)
        };
        assert_eq!(look(&observed), (None, "SpecRefused"));
        observed.refused[0].due = true;
        assert!(look(&observed).0.is_some(), "it is tried again");
        observed.refused = refused("Service");
        let update = Some("It is not known to be as the spec says.".to_owned());
        assert_eq!(look(&observed), (update, "SpecRefused"), "the StatefulSet is not what is refused");
        observed.cluster_id = None;
        assert_eq!(look(&observed), (Some("It is refused.".into()), "SpecRefused"));
    }

    /// Goal: an image that refuses the disks reaches no pod, and a condition says which is needed.
    #[test]
    fn an_image_that_is_too_old_is_not_rolled_out() {
        let mut observed = Observed {
            cluster_id: Some(9),
            objects_current: true,
            stateful_set: Some(StatefulSet { replicas: 3, ..StatefulSet::default() }),
            ..Observed::default()
        };
        let step = |observed: &Observed| {
            let mut notes = Notes::default();
            let step = next(observed, &mut notes).is_some();
            (step, notes.0.first().map(|note| note.reason))
        };
        assert_eq!(step(&observed), (true, None));
        observed.image_refused = Some("It is too old.".into());
        assert_eq!(step(&observed), (false, Some("ImageTooOld")));
    }
}
