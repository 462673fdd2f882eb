//! Disks that are lost for good: their claims are deleted, so that an empty disk comes in their place.

use super::view::View;
use super::{About, Decided, Notes, join, risky, wait};
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
    let replacement = replacement(view);
    if let Some(ordinal) = replacement {
        report_pending(view, ordinal, notes);
    }
    let claims = view.observed.claims.range(..set.replicas).filter(|(_, claim)| !claim.deleting);
    claims.into_iter().find_map(|(&ordinal, claim)| {
        // What a recovery left behind only a person lets go, who may declare it lost.
        if join::is_behind(view, ordinal) && !claim.declared_lost {
            return None;
        }
        let reason = lost(view, ordinal, claim, notes)?;
        // A person knows what he says; a guess about machines is made once, until it has proved right.
        if let Some(waits) = replacement.filter(|_| !claim.declared_lost) {
            let waits = view.observed.pod_name(waits);
            let message = format!("{reason} Its disk is replaced once the new member {waits} runs and votes.");
            notes.add(About::Storage, "OneAtATime", message);
            return None;
        }
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

/// A member whose disk was replaced, or which is new, and which does not vote yet.
fn replacement(view: &View) -> Option<u32> {
    let is_new = |(ordinal, claim): (&u32, &Claim)| {
        let votes = claim.disk.is_some_and(|disk| view.voters.contains(&disk.node_id));
        let new = claim.disk.is_none()
            || claim.disk.is_some_and(|disk| view.membership.nodes.contains_key(&disk.node_id));
        (!votes && new && claim.machine != Machine::Gone && !join::is_behind(view, *ordinal))
            .then_some(*ordinal)
    };
    let wanted = view.observed.stateful_set.as_ref()?.replicas.min(view.observed.wanted.members);
    view.observed.claims.range(..wanted).find_map(is_new)
}

fn report_pending(view: &View, ordinal: u32, notes: &mut Notes) {
    let Some(pod) = view.observed.pods.get(&ordinal).filter(|pod| pod.pending) else { return };
    let (member, claim) = (view.observed.pod_name(ordinal), view.observed.claim_name(ordinal));
    let why = pod.trouble.as_deref().unwrap_or("nobody says why");
    let message = format!(
        "The new member {member} has not run for two minutes: {why}. No other disk is replaced until it does; `kubectl \
         describe pod {member}` and `kubectl describe pvc {claim}` say what it waits for."
    );
    notes.add(About::Storage, "ReplacementPending", message);
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
    if claim.disk.is_some_and(|disk| view.is_corrupt(disk.node_id)) {
        return Some(format!(
            "The data on the disk of member {member} differs from what a majority of the members holds (CORRUPT)."
        ));
    }
    if went_back(view, ordinal, claim) {
        return Some(format!(
            "The disk of member {member} lacks what it has acknowledged: it was put back from a copy, or loses what it has \
             synced."
        ));
    }
    let unscheduled = pod.filter(|pod| pod.machine.is_none() && pod.troubled);
    let unscheduled = unscheduled.and_then(|pod| pod.trouble.as_ref());
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
    if claim.disk.is_some_and(|disk| view.hears(disk.node_id)) {
        let message = format!(
            "The machine with the disk of member {member} has no Node, but the member answers its leader, and its disk is \
             not lost. Let the machine join again, or shut it down."
        );
        notes.add(About::Storage, "MachineUnlisted", message);
        return None;
    }
    let (reason, message) = match (claim.machine, claim.standby) {
        (Machine::Gone, true) => {
            return Some(format!(
                "The machine with the disk of member {member} is gone for good, and another stands by."
            ));
        }
        (Machine::Gone, false) => (
            "MachineGone",
            format!(
                "The machine with the disk of member {member} is gone, and no Ready machine without a member stands by to \
                 which its pod may be scheduled, by its nodeSelector, affinity and tolerations: add a machine, and the \
                 member gets a new disk there."
            ),
        ),
        (Machine::Unfit, _) => (
            "NoMachineFits",
            format!(
                "No machine fits the volume of member {member}, {volume}. It is not bound to one machine, so that another \
                 one can use it, and nothing is deleted: `kubectl describe pv {volume}` says which would fit, by its zone \
                 for example.",
                volume = claim.volume
            ),
        ),
        (Machine::Exists | Machine::Missing, _) => (
            "MachineGone",
            format!(
                "The machine with the disk of member {member} is gone, for less than a minute so far; it may come back."
            ),
        ),
    };
    notes.add(About::Storage, reason, message);
    None
}

/// The claim's own disk says so itself: what it lacks the others have, so that it is worth nothing to them.
fn went_back(view: &View, ordinal: u32, claim: &Claim) -> bool {
    let node = view.observed.nodes.get(&ordinal).filter(|node| node.went_back);
    node.is_some_and(|node| {
        node.cluster_id == view.cluster_id && claim.disk.is_some_and(|disk| disk.node_id == node.node_id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Version;
    use crate::observed::{Membership, Node, Observed, Pod, Progress, Role, StatefulSet};

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
        let pod = Pod { trouble: Some("it is not scheduled".into()), troubled: true, ..Pod::default() };
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

    /// Five members; those with an id of 1 to 3 are well, and the machine of member 4 is gone.
    fn four_and_a_lost_one() -> Observed {
        let membership = Membership {
            configs: vec![[1, 2, 3, 4, 5].into()],
            nodes: (1..=5).map(|id| (id, Some(id as u32 - 1))).collect(),
            ..Membership::default()
        };
        let progress = Progress { matched: 1, ..Progress::default() };
        let leader = Node {
            node_id: 1,
            cluster_id: 9,
            incarnation: 1,
            role: Role::Leader,
            confirmed: true,
            membership,
            progress: (2..=3).map(|id| (id, progress)).collect(),
            ..Node::default()
        };
        let node = |id| Node { node_id: id, cluster_id: 9, incarnation: 1, ..Node::default() };
        let claim = |id| {
            let disk = Some(crate::fence::Disk { cluster_id: 9, node_id: id, founder: false });
            Claim { disk, standby: true, ..Claim::default() }
        };
        let mut observed = Observed {
            wanted: crate::observed::Wanted { members: 5, ..Default::default() },
            cluster_id: Some(9),
            stateful_set: Some(StatefulSet { replicas: 5, ..StatefulSet::default() }),
            pods: (0..5).map(|ordinal| (ordinal, Pod::default())).collect(),
            claims: (0..5).map(|ordinal| (ordinal, claim(u64::from(ordinal) + 1))).collect(),
            nodes: [(0, leader), (1, node(2)), (2, node(3))].into(),
            ..Observed::default()
        };
        observed.claims.get_mut(&3).unwrap().machine = Machine::Gone;
        observed
    }

    fn repaired(observed: &Observed) -> (bool, Vec<&'static str>) {
        let mut notes = Notes::default();
        let step = next(&View::of(observed).expect("a leader is confirmed"), &mut notes);
        (step.is_some(), notes.0.into_iter().map(|note| note.reason).collect())
    }

    /// Goal: nothing more is deleted while what was made last does not run, and that is reported after a while.
    #[test]
    fn one_disk_is_replaced_at_a_time() {
        let mut seen = four_and_a_lost_one();
        assert_eq!(repaired(&seen), (true, vec![]));
        seen.claims.get_mut(&4).unwrap().disk = None;
        assert_eq!(repaired(&seen), (false, vec!["OneAtATime"]), "member 4 has a new disk");
        seen.pods.get_mut(&4).unwrap().pending = true;
        assert_eq!(repaired(&seen), (false, vec!["ReplacementPending", "OneAtATime"]));
        seen.claims.get_mut(&3).unwrap().declared_lost = true;
        assert!(repaired(&seen).0, "a person knows");
    }

    /// Goal: a disk whose data the others outvote is replaced, while they are a majority without it; and it does not
    /// count as one of them.
    #[test]
    fn a_disk_that_the_others_outvote_is_replaced() {
        let mut seen = four_and_a_lost_one();
        seen.claims.get_mut(&3).unwrap().machine = Machine::Exists;
        assert!(!repaired(&seen).0);
        seen.nodes.get_mut(&0).unwrap().corrupt = [4].into();
        assert_eq!(repaired(&seen), (true, vec![]));
        seen.nodes.get_mut(&0).unwrap().corrupt = [2, 4].into();
        assert_eq!(repaired(&seen), (false, vec!["NoQuorumWithout", "NoQuorumWithout"]));
    }

    /// Goal: a disk that was put back from a copy is replaced, where it is this claim's and this cluster's, while the
    /// others are a majority. Method: what it says of itself, changed one at a time.
    #[test]
    fn a_disk_that_went_back_is_replaced() {
        let mut seen = four_and_a_lost_one();
        seen.claims.get_mut(&3).unwrap().machine = Machine::Exists;
        let aside = Node { node_id: 4, cluster_id: 9, role: Role::StatusOnly, ..Node::default() };
        seen.nodes.insert(3, aside.clone());
        assert!(!repaired(&seen).0, "set aside for another reason");
        seen.nodes.insert(3, Node { went_back: true, ..aside.clone() });
        assert_eq!(repaired(&seen), (true, vec![]));
        seen.nodes.insert(3, Node { went_back: true, cluster_id: 8, ..aside.clone() });
        assert!(!repaired(&seen).0, "another cluster's");
        seen.nodes.insert(3, Node { went_back: true, node_id: 5, ..aside.clone() });
        assert!(!repaired(&seen).0, "not the claim's");
        seen.nodes.insert(3, Node { went_back: true, ..aside });
        seen.nodes.remove(&2);
        assert_eq!(repaired(&seen), (false, vec!["NoQuorumWithout"]));
    }

    /// Goal: a machine whose Node was deleted and which goes on is not gone.
    #[test]
    fn whoever_answers_the_leader_is_not_lost() {
        let mut seen = four_and_a_lost_one();
        let heard = Progress { matched: 1, ..Progress::default() };
        seen.nodes.get_mut(&0).unwrap().progress.insert(4, heard);
        assert_eq!(repaired(&seen), (false, vec!["MachineUnlisted"]));
        let silent = Progress { silent_ms: 60_000, ..heard };
        seen.nodes.get_mut(&0).unwrap().progress.insert(4, silent);
        assert_eq!(repaired(&seen), (true, vec![]));
    }

    /// Goal: what others may use is not given up, nor what a recovery left behind, until a person says so.
    #[test]
    fn only_what_never_comes_back_is_replaced() {
        for machine in [Machine::Exists, Machine::Missing, Machine::Unfit] {
            let mut seen = four_and_a_lost_one();
            seen.claims.get_mut(&3).unwrap().machine = machine;
            assert!(!repaired(&seen).0, "{machine:?}");
        }
        let mut seen = four_and_a_lost_one();
        let claim = seen.claims.get_mut(&3).unwrap();
        claim.retired = crate::fence::Retired::Behind { incarnation: 2 };
        assert!(!repaired(&seen).0);
        seen.claims.get_mut(&3).unwrap().declared_lost = true;
        assert!(repaired(&seen).0);
        let mut seen = four_and_a_lost_one();
        seen.claims.get_mut(&3).unwrap().standby = false;
        assert_eq!(repaired(&seen), (false, vec!["MachineGone"]));
    }
}
