//! Disks that are kept for a person go when that person says so, and no others.

use super::view::View;
use super::{About, Notes};
use crate::fence::Retired;
use crate::names;
use crate::observed::{Claim, Observed};

/// What a person types to let a kept disk go.
pub fn how(observed: &Observed, ordinal: u32, claim: &Claim) -> String {
    let (name, uid) = (observed.claim_name(ordinal), &claim.version.uid);
    format!("kubectl annotate pvc {name} {}={uid}", names::RELEASE)
}

/// Why a kept disk goes.
pub fn granted(observed: &Observed, ordinal: u32) -> String {
    let name = observed.claim_name(ordinal);
    format!("The annotation {} on claim {name} lets its disk go, which takes part no more.", names::RELEASE)
}

/// A member's own disk is not let go that way.
pub fn refuse(view: &View, notes: &mut Notes) {
    let is_members = |(_, claim): &(&u32, &Claim)| {
        let member = claim.disk.is_some_and(|disk| view.membership.nodes.contains_key(&disk.node_id));
        claim.released && claim.retired == Retired::No && member && !claim.deleting
    };
    let Some((&ordinal, _)) = view.observed.claims.iter().find(is_members) else { return };
    let name = view.observed.claim_name(ordinal);
    let message = format!(
        "Claim {name} has the annotation {}, but its disk is a member's, and nothing is deleted. Take the annotation off: \
         kubectl annotate pvc {name} {}-",
        names::RELEASE,
        names::RELEASE
    );
    notes.add(About::Storage, "ReleaseRefused", message);
}
