//! Larger volumes, without a restart of any pod.

use super::view::View;
use super::{Decided, Notes, risky, safe, wait};
use crate::step::{Risky, Step};

/// Grows the claims, and then makes the StatefulSet again, whose claim template cannot be changed.
pub fn next(view: &View, _: &mut Notes) -> Decided {
    let (observed, wanted) = (view.observed, view.observed.wanted.storage_bytes);
    let set = observed.stateful_set.as_ref()?;
    let mut claims = observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    if let Some((&ordinal, _)) = claims.clone().find(|(_, claim)| claim.requested_bytes < wanted) {
        return safe(Step::GrowClaim { ordinal }, "the spec wants larger volumes");
    }
    // A claim that is not bound yet has no capacity, and gets the size it asks for.
    if let Some((ordinal, _)) = claims.find(|(_, claim)| (1..wanted).contains(&claim.capacity_bytes)) {
        return wait(format!("the volume of member {ordinal} to grow"));
    }
    if set.storage_bytes >= wanted {
        return None;
    }
    let version = set.version.clone();
    risky(
        Risky::RecreateStatefulSet { version },
        "new members get larger volumes only from a new StatefulSet",
    )
}
