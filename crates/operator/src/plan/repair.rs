//! Disks that are lost for good: their claims are deleted, so that an empty disk comes in their place.

use super::view::View;
use super::{About, Decided, Notes, risky, wait};
use crate::observed::{Claim, Machine};
use crate::step::Risky;

/// A claim that is being deleted is held by its pod, which goes next.
pub fn finish_deletion(view: &View) -> Decided {
    let held = view.observed.claims.iter().find(|(ordinal, claim)| {
        let pod = view.observed.pods.get(ordinal);
        claim.deleting && pod.is_some_and(|pod| !pod.deleting)
    });
    let (&ordinal, _) = held?;
    if !view.quorum_without(&view.voters_at(ordinal)) {
        return wait(format!("a caught-up quorum without member {ordinal}, whose claim is being deleted"));
    }
    let version = view.observed.pods.get(&ordinal)?.version.clone();
    risky(Risky::DeletePod { ordinal, version }, format!("claim {ordinal} is being deleted"))
}

/// Deletes the claim of a disk that is lost for good.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let claims = view.observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    claims.into_iter().find_map(|(&ordinal, claim)| {
        let reason = lost(view, ordinal, claim, notes)?;
        if !view.quorum_without(&view.voters_at(ordinal)) {
            let message = format!("{reason}; it is replaced once the others are a caught-up quorum");
            notes.add(About::Storage, "NoQuorumWithout", message);
            return None;
        }
        let version = claim.version.clone();
        risky(Risky::DeleteClaim { ordinal, version }, reason)
    })
}

fn lost(view: &View, ordinal: u32, claim: &Claim, notes: &mut Notes) -> Option<String> {
    if claim.declared_lost {
        return Some(format!("a person says that the disk of member {ordinal} is lost"));
    }
    let pod = view.observed.pods.get(&ordinal);
    if claim.machine == Machine::Exists || pod.is_some_and(|pod| pod.running) {
        return None;
    }
    let message = match (claim.machine, view.observed.standby) {
        (Machine::Gone, true) => {
            return Some(format!("the machine with the disk of member {ordinal} is gone"));
        }
        (Machine::Gone, false) => format!(
            "the machine with the disk of member {ordinal} is gone, and no Ready machine without a member stands by; \
             add a machine"
        ),
        _ => format!("the machine with the disk of member {ordinal} is gone for less than a minute"),
    };
    notes.add(About::Storage, "MachineGone", message);
    None
}
