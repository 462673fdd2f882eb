//! The StatefulSet and the objects beside it.

use super::view::View;
use super::{About, Decided, Notes, safe, wait};
use crate::observed::Observed;
use crate::step::Step;

/// Makes what is missing and applies what differs.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    if !observed.objects_current {
        return safe(
            Step::ApplyObjects,
            "Services or disruption budget are not known to be as the spec says",
        );
    }
    let Some(set) = &observed.stateful_set else {
        let replicas = replicas_of_missing(observed);
        return safe(Step::CreateStatefulSet { replicas }, "there is no StatefulSet");
    };
    if set.deleting {
        return wait("the StatefulSet goes, and is made again then");
    }
    if set.storage_bytes > observed.wanted.storage_bytes {
        notes.add(
            About::Storage,
            "CannotShrink",
            "the volumes are larger than spec.storage.size, and volumes cannot shrink; set it back",
        );
    }
    if !set.current {
        return safe(
            Step::UpdateStatefulSet { version: set.version.clone() },
            "the StatefulSet is not known to be as the spec says",
        );
    }
    None
}

/// A StatefulSet that is gone is made again as it was, as far as pods and claims tell: the spec alone
/// could cut members off.
fn replicas_of_missing(observed: &Observed) -> u32 {
    let claims = observed.claims.iter().filter(|(_, claim)| !claim.retired).map(|(ordinal, _)| ordinal);
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
    safe(step, "the StatefulSet has fewer pods than the cluster has members")
}
