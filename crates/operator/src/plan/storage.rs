//! Larger volumes, without a restart of any pod.

use super::view::View;
use super::{About, Decided, Notes, risky, safe, wait};
use crate::build::quantity;
use crate::observed::{Growth, Observed};
use crate::step::{Risky, Step};

/// Grows the claims, and then makes the StatefulSet again, whose claim template cannot be changed.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    grow(view.observed, notes).or_else(|| follow_up(view.observed))
}

/// Grows the claims. That can be done below quorum too: full disks may be what the quorum was lost by.
pub fn grow(observed: &Observed, notes: &mut Notes) -> Decided {
    let (set, wanted) = (observed.stateful_set.as_ref()?, observed.wanted.storage_bytes);
    let mut claims = observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    let (&ordinal, _) = claims.find(|(_, claim)| claim.requested_bytes < wanted)?;
    if let Growth::Refused(why) = &observed.growth {
        let smallest = observed.claims.range(..set.replicas).map(|(_, claim)| claim.capacity_bytes);
        let smallest = smallest.filter(|bytes| *bytes > 0).min().unwrap_or_default();
        let message = format!(
            "{why} Set spec.storage.size back to {}, which the smallest volume has; or let the class allow it, or move the \
             data to another cluster.",
            quantity(smallest)
        );
        notes.add(About::Storage, "CannotGrow", message);
        return None;
    }
    safe(Step::GrowClaim { ordinal }, "The spec wants larger volumes.")
}

fn follow_up(observed: &Observed) -> Decided {
    let (set, wanted) = (observed.stateful_set.as_ref()?, observed.wanted.storage_bytes);
    if observed.growth != Growth::Allowed {
        return None;
    }
    let mut claims = observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    // A claim that is not bound yet has no capacity, and gets the size it asks for.
    if let Some((ordinal, _)) = claims.find(|(_, claim)| (1..wanted).contains(&claim.capacity_bytes)) {
        let claim = observed.claim_name(*ordinal);
        return wait(format!(
            "Waiting until the volume of claim {claim} has grown to spec.storage.size. If this stays, `kubectl describe \
             pvc {claim}` says what its storage class answers."
        ));
    }
    // A new StatefulSet would have the template that waits, and restart all members. Without it a new
    // member's volume is made as small as before, and then grows.
    if set.storage_bytes >= wanted || observed.update_pending {
        return None;
    }
    let version = set.version.clone();
    risky(
        Risky::RecreateStatefulSet { version },
        "The volumes have grown, and new members get larger ones only from a new StatefulSet.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Claim, StatefulSet, Wanted};

    /// Goal: a class that lets nothing grow is not asked again and again, and nothing waits for it; what can be done is
    /// said.
    #[test]
    fn a_class_that_refuses_stops_nothing() {
        let claim = Claim { requested_bytes: 10 << 30, capacity_bytes: 10 << 30, ..Claim::default() };
        let set = StatefulSet { replicas: 1, storage_bytes: 10 << 30, ..StatefulSet::default() };
        let observed = Observed {
            wanted: Wanted { storage_bytes: 20 << 30, ..Wanted::default() },
            growth: Growth::Refused("No.".into()),
            stateful_set: Some(set),
            claims: [(0, claim)].into(),
            ..Observed::default()
        };
        let mut notes = Notes::default();
        assert!(grow(&observed, &mut notes).is_none() && follow_up(&observed).is_none());
        assert!(notes.0[0].reason == "CannotGrow" && notes.0[0].message.contains("back to 10Gi"));
    }

    /// Goal: larger volumes restart nobody, also where a new operator would make pods otherwise.
    #[test]
    fn a_template_that_waits_goes_on_waiting() {
        let claim = Claim { requested_bytes: 20, capacity_bytes: 20, ..Claim::default() };
        let set = StatefulSet { replicas: 1, storage_bytes: 10, ..StatefulSet::default() };
        let mut observed = Observed {
            wanted: Wanted { storage_bytes: 20, ..Wanted::default() },
            stateful_set: Some(set),
            claims: [(0, claim)].into(),
            ..Observed::default()
        };
        assert!(follow_up(&observed).is_some());
        observed.update_pending = true;
        assert!(follow_up(&observed).is_none());
    }
}
