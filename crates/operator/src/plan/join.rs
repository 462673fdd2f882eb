//! How a disk becomes a voter, be it a new member's or one that takes a lost one's place.

use kvorum_crd::Keep;

use super::view::View;
use super::{About, Decided, Notes, deleted_claim, release, risky, safe, wait};
use crate::fence::{Disk, Retired};
use crate::names::hex;
use crate::observed::Node;
use crate::step::{Risky, Step};

/// Writes on the members' claims whose disks they are and which image is pinned, where that is missing.
pub fn record_members(view: &View) -> Decided {
    view.observed.nodes.iter().find_map(|(ordinal, node)| {
        // A copy has the id of the member that it was made of.
        let member = view.ordinal(node.node_id) == Some(*ordinal);
        if member { record(view, *ordinal, node.node_id) } else { None }
    })
}

fn record(view: &View, ordinal: u32, node_id: u64) -> Decided {
    let claim = view.observed.claims.get(&ordinal)?;
    let there = claim.disk.filter(|disk| (disk.cluster_id, disk.node_id) == (view.cluster_id, node_id));
    let incarnation = view.leader.incarnation;
    let told = (claim.retired, claim.incarnation) == (Retired::No, incarnation);
    let on_it = (&claim.image, claim.tls, claim.auth, claim.policy);
    let observed = view.observed;
    let same = on_it == (&observed.pinned_image, observed.tls, observed.auth, observed.policy);
    if claim.deleting || (there.is_some() && told && same) {
        return None;
    }
    let disk = there.unwrap_or(Disk { cluster_id: view.cluster_id, node_id, founder: false });
    let step = Step::RecordDisk { ordinal, version: claim.version.clone(), disk, incarnation };
    let disk = hex(node_id);
    safe(
        step,
        format!(
            "That disk {disk} belongs to the cluster, its image, incarnation, TLS, rights and NetworkPolicy are not on record."
        ),
    )
}

/// The next step of the first member that is not a voter yet.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    (0..set.replicas.min(view.observed.wanted.members)).find_map(|ordinal| {
        if is_behind(view, ordinal) {
            return left_behind(view, ordinal, notes);
        }
        let node = view.observed.nodes.get(&ordinal)?;
        match view.membership.nodes.contains_key(&node.node_id) {
            true if view.voters.contains(&node.node_id) => None,
            true => promote(view, ordinal, node.node_id),
            false => take_in(view, ordinal, node, notes),
        }
    })
}

fn promote(view: &View, ordinal: u32, node_id: u64) -> Decided {
    if !view.fit(node_id) {
        let behind = view.leader.progress.get(&node_id).map_or(0, |progress| progress.bytes_behind);
        let pod = view.observed.pod_name(ordinal);
        // Not in bytes: each other number is another event.
        return wait(format!(
            "Waiting until member {pod} has caught up before it votes; it is {} MiB of log behind. If that number does not \
             fall, `kubectl logs {pod}` says why.",
            behind.div_ceil(1 << 20)
        ));
    }
    let lost = view.voters_at(ordinal);
    let mut voters = &view.voters - &lost;
    voters.insert(node_id);
    if !lost.is_empty() && !view.quorum_without(&lost) {
        return wait(voters_missing(
            view,
            &format!("the lost disk of member {} is replaced", view.observed.pod_name(ordinal)),
        ));
    }
    if !view.quorum_of(&voters) {
        return wait(voters_missing(view, &format!("member {} votes too", view.observed.pod_name(ordinal))));
    }
    let reason = match lost.first() {
        None => format!("Member {} has caught up.", view.observed.pod_name(ordinal)),
        Some(lost) => {
            format!(
                "Member {} has caught up on a new disk and takes the place of the lost disk {}.",
                view.observed.pod_name(ordinal),
                hex(*lost)
            )
        }
    };
    risky(Risky::ChangeVoters { voters, membership: view.membership.log_id }, reason)
}

fn take_in(view: &View, ordinal: u32, node: &Node, notes: &mut Notes) -> Decided {
    let claim = view.observed.claims.get(&ordinal)?;
    if claim.deleting {
        let then = format!("member {} gets a new disk", view.observed.pod_name(ordinal));
        return wait(deleted_claim(view.observed, ordinal, &then));
    }
    if !node.is_blank() {
        return retired_disk(view, ordinal, node.node_id, notes);
    }
    let lost = view.voters_at(ordinal);
    if !lost.is_empty() && !view.quorum_without(&lost) {
        return wait(voters_missing(
            view,
            &format!("the lost disk of member {} is replaced", view.observed.pod_name(ordinal)),
        ));
    }
    if let Some(record) = record(view, ordinal, node.node_id) {
        return Some(record);
    }
    let (node_id, membership) = (node.node_id, view.membership.log_id);
    risky(
        Risky::AddLearner { node_id, ordinal, membership },
        "It has an empty disk, and catches up before it votes.",
    )
}

/// That a change waits for a majority that could do without the member it is about.
fn voters_missing(view: &View, then: &str) -> String {
    let behind: Vec<_> = view.voters.iter().filter(|id| !view.fit(**id)).map(|id| hex(*id)).collect();
    format!(
        "Waiting until enough voters have caught up: then {then}. Not there or behind: {}. If this stays, bring them back \
         (`kvorum status`).",
        behind.join(", ")
    )
}

/// A disk whose id was removed never takes part again: another must come in its place.
fn retired_disk(view: &View, ordinal: u32, node_id: u64, notes: &mut Notes) -> Decided {
    let claim = view.observed.claims.get(&ordinal)?;
    if view.observed.wanted.when_scaled == Keep::Retain && !claim.released {
        notes.add(
            About::Storage,
            "RetiredDisk",
            format!(
                "The disk of member {} ({}) was removed from the cluster and is kept, since whenScaled is Retain. To let \
                 a new disk take its place: {}",
                view.observed.pod_name(ordinal),
                hex(node_id),
                release::how(view.observed, ordinal, claim)
            ),
        );
        return None;
    }
    let reason =
        format!("Its disk {} was removed from the cluster and never takes part again.", hex(node_id));
    give_up(view, ordinal, reason)
}

/// Deletes the claim of a disk that takes part no more, once a majority has caught up without it.
fn give_up(view: &View, ordinal: u32, reason: String) -> Decided {
    if !view.quorum_without(&view.voters_at(ordinal)) {
        let claim = view.observed.claim_name(ordinal);
        return wait(voters_missing(
            view,
            &format!("claim {claim}, whose disk takes part no more, is deleted"),
        ));
    }
    let version = view.observed.claims.get(&ordinal)?.version.clone();
    risky(Risky::DeleteClaim { ordinal, version }, reason)
}

/// A disk that a recovery left behind may have what no other has: it stays until a person lets it go.
fn left_behind(view: &View, ordinal: u32, notes: &mut Notes) -> Decided {
    let claim = view.observed.claims.get(&ordinal)?;
    // That a person has declared it lost is for the repair.
    if claim.deleting || claim.declared_lost {
        return None;
    }
    if let (Retired::No, Some(_)) = (claim.retired, claim.disk) {
        let retired = Retired::Behind { incarnation: view.leader.incarnation };
        return safe(
            Step::Retire { ordinal, version: claim.version.clone(), retired },
            "A recovery left its disk behind, and only a person lets it go.",
        );
    }
    if claim.released {
        return give_up(view, ordinal, release::granted(view.observed, ordinal));
    }
    let (member, how) = (view.observed.pod_name(ordinal), release::how(view.observed, ordinal, claim));
    notes.add(
        About::Storage,
        "LeftBehind",
        format!(
            "The disk of member {member} was left behind by a recovery and may have writes that the survivor lacked. It \
             is kept, and until it goes no new disk comes in its place; to let it go: {how}"
        ),
    );
    None
}

/// The recovery that began the present incarnation, or an earlier one, left this disk behind.
pub fn is_behind(view: &View, ordinal: u32) -> bool {
    let Some(claim) = view.observed.claims.get(&ordinal) else { return false };
    let disk = claim.disk.filter(|disk| disk.cluster_id == view.cluster_id);
    let is_member = |id: u64| view.membership.nodes.contains_key(&id);
    match (claim.retired, view.observed.nodes.get(&ordinal)) {
        // What is on an empty disk now is nothing that anybody could miss.
        (_, Some(node)) if node.is_blank() || is_member(node.node_id) => false,
        (Retired::Behind { .. }, _) => true,
        (_, Some(node)) => node.cluster_id == view.cluster_id && node.incarnation < view.leader.incarnation,
        // It is on record whose disk it is, and that is no member of this incarnation.
        (retired, None) => {
            let runs = view.observed.pods.get(&ordinal).is_some_and(|pod| pod.running);
            let left = disk.is_some_and(|disk| !is_member(disk.node_id));
            view.leader.incarnation > 1 && retired == Retired::No && left && !runs
        }
    }
}

/// Removes learners that will never be voters: their disk is gone, or no longer wanted.
pub fn leftover(view: &View) -> Decided {
    let wanted = view.observed.wanted.members;
    let gone = |id: &u64| match view.ordinal(*id) {
        // Somebody else's learner, at an address that is not ours.
        None => false,
        Some(ordinal) if ordinal >= wanted => true,
        Some(ordinal) => view.observed.nodes.get(&ordinal).is_some_and(|node| node.node_id != *id),
    };
    let node_id = view.learners().find(gone)?;
    let membership = view.membership.log_id;
    risky(
        Risky::RemoveLearner { node_id, membership },
        "Its disk is gone, or its member is no longer wanted.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Claim, Membership, Observed, Role};

    /// Goal: a StatefulSet that is made anew, as for larger volumes, or around kept claims, runs the image
    /// that the cluster came to run last, not that of its first day. The founder's mark stays.
    #[test]
    fn a_new_image_is_put_on_record() {
        let membership =
            Membership { configs: vec![[1].into()], nodes: [(1, Some(0))].into(), ..Membership::default() };
        let node = Node {
            node_id: 1,
            cluster_id: 9,
            incarnation: 2,
            role: Role::Leader,
            confirmed: true,
            membership,
            ..Node::default()
        };
        let disk = Disk { cluster_id: 9, node_id: 1, founder: true };
        let claim =
            |image: &str| Claim { disk: Some(disk), image: image.into(), incarnation: 2, ..Claim::default() };
        let recorded = |claim: Claim| {
            let observed = Observed {
                cluster_id: Some(9),
                pinned_image: "kvorum:2".into(),
                claims: [(0, claim)].into(),
                nodes: [(0, node.clone())].into(),
                ..Observed::default()
            };
            record_members(&View::of(&observed).expect("a leader is confirmed")).map(|(decision, _)| decision)
        };
        assert!(recorded(claim("kvorum:2")).is_none());
        // A copy of its disk is recorded nowhere.
        let copied = Observed {
            cluster_id: Some(9),
            claims: [(1, claim("kvorum:1"))].into(),
            nodes: [(0, node.clone()), (1, Node { role: Role::StatusOnly, ..node.clone() })].into(),
            ..Observed::default()
        };
        assert!(record_members(&View::of(&copied).expect("a leader is confirmed")).is_none());
        // Whoever recovers a status that was erased needs it.
        let older = recorded(Claim { incarnation: 1, ..claim("kvorum:2") });
        assert!(matches!(older, Some(super::super::Decision::Safe(Step::RecordDisk { incarnation: 2, .. }))));
        let step = recorded(claim("kvorum:1"));
        assert!(
            matches!(step, Some(super::super::Decision::Safe(Step::RecordDisk { disk: d, .. })) if d == disk)
        );
    }
}
