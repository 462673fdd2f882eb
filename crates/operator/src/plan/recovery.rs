//! Recovery from one survivor, when a person asks for exactly that.
//!
//! First pods and Services are for the next incarnation only, and every other pod is replaced: an old
//! disk that comes back then refuses to start, and the old ones cannot form a quorum beside the new
//! cluster. Only then the survivor is told.

use super::view::View;
use super::{About, Decided, Notes, risky, safe, wait};
use crate::names::hex;
use crate::observed::{Node, Observed};
use crate::step::{Risky, Step};

/// The next step of a recovery that was asked for.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    let wanted = observed.recover_from.as_deref()?;
    let survivor =
        observed.nodes.iter().find(|(_, node)| !node.is_blank() && node.token().to_string() == wanted);
    let Some((&ordinal, node)) = survivor else {
        if restarts(observed) || is_told(observed, wanted) {
            return wait(
                "Waiting until the survivor, which restarts for that, leads the next incarnation. If this stays, its log \
                 says why: kubectl logs of the pod that the token names.",
            );
        }
        notes.add(
            About::Degraded,
            "RecoverRefused",
            format!("No member that answers is in the state that the annotation names, {wanted}. Take the token that \
                     the condition QuorumLost names now."),
        );
        return None;
    };
    if let Some(refusal) = refusal(observed, node) {
        notes.add(About::Degraded, "RecoverRefused", refusal);
        return None;
    }
    if observed.recovery.as_deref() != Some(wanted) {
        // Another survivor may have begun any incarnation so far, and be silent now.
        let (to, token) = (observed.incarnation.max(node.incarnation) + 1, node.token());
        return safe(
            Step::RaiseIncarnation { to, token },
            "The annotation kvorum.io/recover-from asks for a recovery, and no pod of the old one may come back.",
        );
    }
    let to = observed.incarnation;
    let template = &observed.stateful_set.as_ref()?.template;
    let mut others =
        observed.pods.iter().filter(|(other, pod)| **other != ordinal && pod.template != *template);
    if let Some((other, pod)) = others.clone().find(|(_, pod)| !pod.deleting) {
        let step = Risky::DeletePod { ordinal: *other, version: pod.version.clone() };
        return risky(step, "It must not come back with the incarnation that the recovery ends.");
    }
    if let Some((other, _)) = others.find(|(_, pod)| pod.machine_ready) {
        let pod = observed.pod_name(*other);
        return wait(format!(
            "Waiting until pod {pod}, which is of the incarnation that the recovery ends, has ended. If this stays, its \
             machine does not end it: if that is gone, delete its Node."
        ));
    }
    risky(
        Risky::Recover { ordinal, token: node.token(), to },
        "The annotation kvorum.io/recover-from asks for it, and no other pod is of the old incarnation.",
    )
}

/// The step on record is a recovery, and its survivor does not answer: it restarts for that.
pub fn restarts(observed: &Observed) -> bool {
    let Some(Risky::Recover { ordinal, token, .. }) = &observed.step else { return false };
    let wanted = observed.recover_from.as_deref() == Some(&token.to_string());
    let stays = observed.pods.get(ordinal).is_some_and(|pod| !pod.deleting);
    wanted && stays && !observed.nodes.contains_key(ordinal)
}

/// The survivor that the token names has begun the incarnation that was raised for it.
fn is_told(observed: &Observed, wanted: &str) -> bool {
    let begun = |node: &Node| {
        node.incarnation == observed.incarnation && wanted.contains(&format!("/{}@", hex(node.node_id)))
    };
    observed.recovery.as_deref() == Some(wanted) && observed.nodes.values().any(begun)
}

/// With a quorum nothing is to be recovered, and what was asked for must not start anything later.
pub fn over(observed: &Observed) -> Decided {
    observed.recover_from.as_ref()?;
    safe(Step::DropToken, "A quorum is there, and nothing is to be recovered any more.")
}

/// Whether a recovery that is under way needs this pod as it is: its node is to be told, and restarts then.
pub fn holds(observed: &Observed, ordinal: u32) -> bool {
    let disk = observed.claims.get(&ordinal).and_then(|claim| claim.disk);
    let survivor = observed.recover_from.as_ref().zip(disk);
    survivor.is_some_and(|(token, disk)| token.contains(&hex(disk.node_id))) && View::of(observed).is_none()
}

/// Why a recovery could lose what another member has.
fn refusal(observed: &Observed, survivor: &Node) -> Option<String> {
    let ours = |node: &&Node| node.cluster_id == survivor.cluster_id && !node.is_blank();
    let latest = observed.nodes.values().filter(ours).max_by_key(|node| node.incarnation);
    if let Some(node) = latest.filter(|node| node.incarnation > survivor.incarnation) {
        return Some(format!(
            "Another member is of a later incarnation. Recover from that one: {}",
            node.token()
        ));
    }
    let voters = survivor.membership.configs.iter().flatten();
    for voter in voters.filter(|voter| **voter != survivor.node_id) {
        let ordinal = survivor.membership.nodes.get(voter).copied().flatten();
        let node = observed.nodes.values().find(|node| node.node_id == *voter);
        // Where its pod answers with another disk, there is nothing left that could answer.
        let replaced = ordinal.is_some_and(|ordinal| observed.nodes.contains_key(&ordinal));
        match (node, ordinal.and_then(|ordinal| observed.pods.get(&ordinal))) {
            (Some(node), _) if node.last_log > survivor.last_log => {
                return Some(format!(
                    "Another member has a newer log. Recover from that one: {}",
                    node.token()
                ));
            }
            (None, Some(pod)) if pod.machine_ready && !replaced => {
                let ordinal = ordinal.unwrap_or_default();
                return Some(format!(
                    "Member {0} does not answer, but its machine is Ready, and it may have a newer log. Bring it back, or, \
                     if its disk is lost: kubectl delete pvc {1} && kubectl delete pod {0}",
                    observed.pod_name(ordinal),
                    observed.claim_name(ordinal),
                ));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    //! Goal: nothing less exact than the token starts a recovery, and nothing that could have more is
    //! passed over. Method: a table of observations.
    use super::*;
    use crate::fence::LogId;
    use crate::observed::{Membership, Pod, Role, StatefulSet};
    use crate::plan::plan;

    fn observed() -> Observed {
        let membership = Membership {
            log_id: LogId { term: 1, index: 1 },
            configs: vec![[1, 2, 3].into()],
            nodes: [(1, Some(0)), (2, Some(1)), (3, Some(2))].into(),
        };
        let node = Node {
            node_id: 1,
            cluster_id: 9,
            incarnation: 1,
            last_log: LogId { term: 2, index: 7 },
            membership,
            ..Node::default()
        };
        let pod = |running| Pod { running, template: "old".into(), ..Pod::default() };
        Observed {
            cluster_id: Some(9),
            incarnation: 1,
            recover_from: Some(node.token().to_string()),
            stateful_set: Some(StatefulSet { replicas: 3, template: "old".into(), ..StatefulSet::default() }),
            pods: [(0, pod(true)), (1, pod(true)), (2, pod(true))].into(),
            nodes: [(0, node)].into(),
            ..Observed::default()
        }
    }

    fn step(observed: &Observed) -> Option<Step> {
        let mut notes = Notes::default();
        next(observed, &mut notes).map(|(decision, _)| match decision {
            super::super::Decision::Safe(step) => step,
            super::super::Decision::Risky(step) => Step::Record(step),
        })
    }

    #[test]
    fn old_pods_go_before_the_survivor_is_told() {
        let mut seen = observed();
        let token = seen.nodes[&0].token();
        assert_eq!(step(&seen), Some(Step::RaiseIncarnation { to: 2, token }));
        (seen.incarnation, seen.recovery) = (2, Some(token.to_string()));
        seen.stateful_set.as_mut().unwrap().template = "new".into();
        assert!(matches!(step(&seen), Some(Step::Record(Risky::DeletePod { ordinal: 1, .. }))));
        for ordinal in [1, 2] {
            seen.pods.get_mut(&ordinal).unwrap().deleting = true;
        }
        let recover = Risky::Recover { ordinal: 0, token, to: 2 };
        assert_eq!(step(&seen), Some(Step::Record(recover.clone())));
        // Its pod was made anew meanwhile, for an incarnation that its disk is not of yet.
        let survivor = seen.nodes.get_mut(&0).unwrap();
        (survivor.role, survivor.status_only) = (Role::StatusOnly, "old".into());
        assert_eq!(step(&seen), Some(Step::Record(recover)));
    }

    #[test]
    fn no_two_survivors_begin_one_incarnation() {
        let mut seen = observed();
        let token = seen.nodes[&0].token();
        (seen.incarnation, seen.recovery) = (2, Some("1/0000000000000002@2.7".into()));
        assert_eq!(step(&seen), Some(Step::RaiseIncarnation { to: 3, token }), "2 may be another's");
        seen.recovery = None;
        assert_eq!(step(&seen), Some(Step::RaiseIncarnation { to: 3, token }), "nobody knows whose 2 is");
    }

    #[test]
    fn the_survivor_keeps_its_pod() {
        let mut seen = observed();
        let disk = crate::fence::Disk { cluster_id: 9, node_id: 1, founder: false };
        seen.claims.insert(0, crate::observed::Claim { disk: Some(disk), ..Default::default() });
        assert!(holds(&seen, 0) && !holds(&seen, 1));
        seen.recover_from = None;
        assert!(!holds(&seen, 0));
    }

    #[test]
    fn a_survivor_that_restarts_is_waited_for() {
        let mut seen = Observed { objects_current: true, ..observed() };
        seen.stateful_set.as_mut().unwrap().current = true;
        let survivor = seen.nodes.remove(&0).unwrap();
        let recover = Risky::Recover { ordinal: 0, token: survivor.token(), to: 2 };
        (seen.incarnation, seen.recovery) = (2, Some(survivor.token().to_string()));
        let refused = plan(&seen);
        assert_eq!((refused.step, refused.notes.len()), (Step::Wait, 1), "nobody knows why it is silent");
        seen.step = Some(recover.clone());
        let silent = plan(&seen);
        assert_eq!((silent.step, silent.notes), (Step::Wait, vec![]));
        seen.nodes.insert(0, Node { incarnation: 2, role: Role::Candidate, ..survivor });
        let back = plan(&seen);
        assert_eq!((back.step, back.notes), (Step::Forget(recover), vec![]));
        seen.step = None;
        let alone = plan(&seen);
        assert_eq!((alone.step, alone.notes), (Step::Wait, vec![]), "until it leads");
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for token in ["", "1/0000000000000001@2.6", "2/0000000000000001@2.7", "1/0000000000000002@2.7"] {
            let seen = Observed { recover_from: Some(token.into()), ..observed() };
            assert_eq!(step(&seen), None, "{token}");
        }
        assert_eq!(step(&Observed { recover_from: None, ..observed() }), None);
    }

    #[test]
    fn whoever_may_have_more_is_not_passed_over() {
        let mut newer = observed();
        let last_log = LogId { term: 2, index: 8 };
        newer.nodes.insert(1, Node { node_id: 2, last_log, ..newer.nodes[&0].clone() });
        assert_eq!(step(&newer), None);
        let mut later = observed();
        later.nodes.insert(1, Node { node_id: 4, incarnation: 2, ..later.nodes[&0].clone() });
        assert_eq!(step(&later), None);
        let mut silent = observed();
        silent.pods.get_mut(&2).unwrap().machine_ready = true;
        assert_eq!(step(&silent), None);
        // It restarts again and again, as one whose spec is bad does.
        silent.pods.get_mut(&2).unwrap().running = false;
        assert_eq!(step(&silent), None);
        silent.nodes.insert(2, Node { node_id: 4, ..Node::default() });
        let token = silent.nodes[&0].token();
        let raise = Step::RaiseIncarnation { to: 2, token };
        assert_eq!(step(&silent), Some(raise), "member 2's disk is gone");
    }
}
