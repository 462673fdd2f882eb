//! Disks that are lost for good: their claims are deleted, so that an empty disk comes in their place.

use super::view::View;
use super::{About, Decided, Notes, risky, wait};
use crate::names;
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
        return wait(format!(
            "Waiting until a majority of the voters has caught up without member {}: its claim {} is being deleted, and \
             its pod is deleted only then. If this stays, bring the other members back (`kvorum status`).",
            view.observed.pod_name(ordinal),
            view.observed.claim_name(ordinal),
        ));
    }
    let version = view.observed.pods.get(&ordinal)?.version.clone();
    risky(
        Risky::DeletePod { ordinal, version },
        format!(
            "Its claim {} is being deleted, which the pod holds up; the next pod gets a new disk.",
            view.observed.claim_name(ordinal)
        ),
    )
}

/// Deletes the claim of a disk that is lost for good.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let claims = view.observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    claims.into_iter().find_map(|(&ordinal, claim)| {
        let reason = lost(view, ordinal, claim, notes)?;
        if !view.quorum_without(&view.voters_at(ordinal)) {
            let message = format!(
                "{reason} The disk is replaced once a majority has caught up without it; bring the others back."
            );
            notes.add(About::Storage, "NoQuorumWithout", message);
            return None;
        }
        let version = claim.version.clone();
        risky(Risky::DeleteClaim { ordinal, version }, reason)
    })
}

fn lost(view: &View, ordinal: u32, claim: &Claim, notes: &mut Notes) -> Option<String> {
    if claim.declared_lost {
        return Some(format!(
            "The annotation {} on claim {} says that the disk is lost.",
            names::DISK_LOST,
            view.observed.claim_name(ordinal)
        ));
    }
    let (pod, member) = (view.observed.pods.get(&ordinal), view.observed.pod_name(ordinal));
    let unscheduled = pod.filter(|pod| pod.machine.is_none()).and_then(|pod| pod.trouble.as_ref());
    if let (true, Some(trouble)) = (view.observed.machines_forbidden, unscheduled) {
        let message = format!(
            "Member {member} does not run: {trouble}. The operator has no right to read Nodes and PersistentVolumes, and \
             cannot tell whether the machine with its disk is gone; if it is: kubectl annotate pvc {} {}={}",
            view.observed.claim_name(ordinal),
            names::DISK_LOST,
            claim.version.uid
        );
        notes.add(About::Storage, "MachinesForbidden", message);
    }
    if claim.machine == Machine::Exists || pod.is_some_and(|pod| pod.running) {
        return None;
    }
    let message = match (claim.machine, view.observed.standby) {
        (Machine::Gone, true) => {
            return Some(format!(
                "The machine with the disk of member {member} is gone for good, and another stands by."
            ));
        }
        (Machine::Gone, false) => format!(
            "The machine with the disk of member {member} is gone, and no Ready machine without a member stands by: add a \
             machine, and the member gets a new disk there."
        ),
        _ => format!(
            "The machine with the disk of member {member} is gone, for less than a minute so far; it may come back."
        ),
    };
    notes.add(About::Storage, "MachineGone", message);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Version;
    use crate::observed::{Node, Observed, Pod, Role, StatefulSet};

    /// Goal: an operator that may not look whether a machine is gone says so, and what a person can do.
    #[test]
    fn missing_rights_are_said() {
        let version = Version { uid: "the-uid".into(), ..Version::default() };
        let last_log = crate::fence::LogId { term: 1, index: 1 };
        let leader = Node {
            node_id: 1,
            cluster_id: 9,
            role: Role::Leader,
            confirmed: true,
            last_log,
            ..Node::default()
        };
        let pod = Pod { trouble: Some("it is not scheduled".into()), ..Pod::default() };
        let mut observed = Observed {
            cluster_id: Some(9),
            stateful_set: Some(StatefulSet { replicas: 2, ..StatefulSet::default() }),
            pods: [(1, pod)].into(),
            claims: [(1, Claim { version, ..Claim::default() })].into(),
            nodes: [(0, leader)].into(),
            ..Observed::default()
        };
        let said = |observed: &Observed| {
            let mut notes = Notes::default();
            assert!(next(&View::of(observed).expect("a leader is confirmed"), &mut notes).is_none());
            notes.0.into_iter().map(|note| note.message).collect::<String>()
        };
        assert_eq!(said(&observed), "");
        observed.machines_forbidden = true;
        assert!(said(&observed).ends_with("kvorum.io/disk-lost=the-uid"));
        observed.pods.get_mut(&1).unwrap().machine = Some("node-1".into());
        assert_eq!(said(&observed), "", "its machine is there");
    }
}
