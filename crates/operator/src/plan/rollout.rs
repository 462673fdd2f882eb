//! Replacing pods that were made from an older template: one at a time, the leader last.

use super::view::View;
use super::{About, Decided, Notes, join, recovery, risky, safe, wait};
use crate::observed::{Observed, Pod};
use crate::step::{Risky, Step};

/// Outdated pods that do not run are replaced whatever else is the matter: nothing is lost by it, and
/// a corrected spec heals what a bad one broke.
pub fn broken(observed: &Observed) -> Decided {
    let mut broken = outdated(observed).filter(|(_, pod)| !pod.running && !pod.deleting);
    let (&ordinal, pod) = broken.find(|(ordinal, _)| !recovery::holds(observed, **ordinal))?;
    let version = pod.version.clone();
    risky(Risky::DeletePod { ordinal, version }, "It was made from an older template and does not run.")
}

/// The next pod to be replaced that runs.
pub fn next(view: &View, notes: &mut Notes) -> Decided {
    due(view.observed).next()?;
    let leader = view.ordinal(view.leader.node_id);
    // First what runs and does not get ready: as it should be, it may.
    let unready = |(ordinal, pod): &(&u32, &Pod)| !pod.ready && !pod.deleting && may_restart(view, **ordinal);
    let (ordinal, pod) = match due(view.observed).find(unready) {
        Some((ordinal, pod)) => (*ordinal, pod),
        None => {
            if let Some(unready) = wait_for_ready(view, notes) {
                return Some(unready);
            }
            // Then followers, from the highest ordinal down.
            let follower = due(view.observed).rev().find(|(ordinal, _)| Some(**ordinal) != leader);
            let (&ordinal, pod) = follower.or_else(|| due(view.observed).next())?;
            (ordinal, pod)
        }
    };
    if !may_restart(view, ordinal) {
        return wait(format!(
            "Waiting until a majority of the voters has caught up without member {}, whose pod is to be replaced. If this \
             stays, bring the other members back (`kvorum status`).",
            view.observed.pod_name(ordinal)
        ));
    }
    let heir = view.heir(&view.voters);
    match heir {
        Some(to) if Some(ordinal) == leader => {
            safe(Step::TransferLeader { to }, "The leader's pod is to be replaced, last of all.")
        }
        _ => {
            let version = pod.version.clone();
            let interrupts = if view.voters.len() <= 2 {
                " The cluster is interrupted until the next one is ready."
            } else {
                ""
            };
            risky(
                Risky::DeletePod { ordinal, version },
                format!("{}{interrupts}", why(view.observed, ordinal, pod)),
            )
        }
    }
}

/// One pod at a time: all others are there and ready before the next one goes.
fn wait_for_ready(view: &View, notes: &mut Notes) -> Decided {
    // Whom a recovery left behind never gets ready.
    let replicas = view.observed.stateful_set.as_ref()?.replicas;
    for ordinal in (0..replicas).filter(|ordinal| !join::is_behind(view, *ordinal)) {
        let Some(pod) = view.observed.pods.get(&ordinal) else {
            let pod = view.observed.pod_name(ordinal);
            return wait(format!(
                "Waiting until the StatefulSet has made pod {pod} again, before the next one is replaced. If this stays, \
                 `kubectl describe statefulset {}` says why it cannot.",
                view.observed.name
            ));
        };
        if pod.deleting || !pod.ready {
            let name = view.observed.pod_name(ordinal);
            if pod.troubled {
                let trouble = pod.why_not_ready();
                let message = format!(
                    "The rolling change stops until pod {name} is ready: {trouble}. Correct the spec if it is to blame; \
                     pods that do not run are then replaced first."
                );
                notes.add(About::Degraded, "RolloutStopped", message);
            }
            return wait(format!(
                "Waiting until pod {name} is ready before the next one is replaced. If this stays, `kubectl describe pod \
                 {name}` and `kubectl logs {name}` say why."
            ));
        }
    }
    None
}

/// A majority has caught up without it. One or two members cannot do without any: there all must have
/// caught up, and the interruption is announced by the step's event.
fn may_restart(view: &View, ordinal: u32) -> bool {
    match view.voters.len() {
        0..=2 => view.fit_among(&view.voters) == view.voters.len(),
        _ => view.quorum_without(&view.voters_at(ordinal)),
    }
}

/// Pods are being replaced, one after another.
pub fn is_rolling(observed: &Observed) -> bool {
    due(observed).next().is_some()
}

/// Pods that are to be replaced: they are outdated, or keep their volume from growing.
fn due(observed: &Observed) -> impl DoubleEndedIterator<Item = (&u32, &Pod)> {
    let set = observed.stateful_set.as_ref();
    let due = move |(ordinal, pod): &(&u32, &Pod)| {
        let wanted = set.is_some_and(|set| **ordinal < set.replicas);
        wanted && (is_outdated(observed, pod) || grows_on_restart(observed, **ordinal))
    };
    observed.pods.iter().filter(due)
}

fn is_outdated(observed: &Observed, pod: &Pod) -> bool {
    observed.stateful_set.as_ref().is_some_and(|set| pod.template != set.template)
}

fn grows_on_restart(observed: &Observed, ordinal: u32) -> bool {
    observed.claims.get(&ordinal).is_some_and(|claim| claim.grows_on_restart)
}

fn why(observed: &Observed, ordinal: u32, pod: &Pod) -> &'static str {
    match is_outdated(observed, pod) {
        false if grows_on_restart(observed, ordinal) => {
            "Its volume has grown, and its file system follows when the next pod mounts it."
        }
        _ => "It was made from an older template.",
    }
}

fn outdated(observed: &Observed) -> impl DoubleEndedIterator<Item = (&u32, &Pod)> {
    let template = observed.stateful_set.as_ref().map(|set| (&set.template, set.replicas));
    observed.pods.iter().filter(move |(ordinal, pod)| {
        template.is_some_and(|(template, replicas)| **ordinal < replicas && pod.template != *template)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Membership, Node, Progress, Role, StatefulSet};

    /// As many members as that, all caught up and outdated; member 0 leads.
    fn observed(members: u32) -> Observed {
        let ids = || (0..members).map(|ordinal| (u64::from(ordinal) + 1, ordinal));
        let membership = Membership {
            configs: vec![ids().map(|(id, _)| id).collect()],
            nodes: ids().map(|(id, ordinal)| (id, Some(ordinal))).collect(),
            ..Membership::default()
        };
        let node =
            |id| Node { node_id: id, cluster_id: 9, membership: membership.clone(), ..Node::default() };
        let mut nodes: std::collections::BTreeMap<u32, Node> =
            ids().map(|(id, ordinal)| (ordinal, node(id))).collect();
        let leader = nodes.get_mut(&0).expect("there is one");
        (leader.role, leader.confirmed) = (Role::Leader, true);
        leader.progress = ids().map(|(id, _)| (id, Progress { matched: 1, ..Progress::default() })).collect();
        let pod = Pod { running: true, ready: true, template: "old".into(), ..Pod::default() };
        Observed {
            cluster_id: Some(9),
            stateful_set: Some(StatefulSet {
                replicas: members,
                template: "new".into(),
                ..StatefulSet::default()
            }),
            pods: (0..members).map(|ordinal| (ordinal, pod.clone())).collect(),
            nodes,
            ..Observed::default()
        }
    }

    fn decided(observed: &Observed) -> (Option<u32>, String) {
        let view = View::of(observed).expect("a leader is confirmed");
        let (decision, reason) = super::next(&view, &mut Notes::default()).expect("pods are outdated");
        match decision {
            super::super::Decision::Risky(Risky::DeletePod { ordinal, .. }) => (Some(ordinal), reason),
            _ => (None, reason),
        }
    }

    /// Goal: a corrected spec heals a pod that runs with a bad one and never gets ready, and does so
    /// first; nothing is restarted that the majority needs. Method: a table of clusters.
    #[test]
    fn what_is_not_ready_is_replaced_first() {
        let mut seen = observed(3);
        assert_eq!(decided(&seen).0, Some(2), "the highest follower");
        seen.pods.get_mut(&1).unwrap().ready = false;
        assert_eq!(decided(&seen).0, Some(1));
        seen.nodes.remove(&2);
        assert_eq!(
            decided(&seen).0,
            Some(1),
            "kubelet and leader speak for whom the operator does not reach"
        );
        let silent = Progress { matched: 1, silent_ms: 60_000, ..Progress::default() };
        seen.nodes.get_mut(&0).unwrap().progress.insert(3, silent);
        assert_eq!(decided(&seen).0, None, "it is needed for the majority");
        let mut seen = observed(3);
        seen.pods.get_mut(&1).unwrap().ready = false;
        seen.pods.get_mut(&1).unwrap().template = "new".into();
        assert_eq!(decided(&seen).0, None, "it is as it should be, and comes");
    }

    /// Goal: volumes whose file system grows only when they are mounted restart one member at a time, the leader last.
    #[test]
    fn a_volume_grows_by_a_restart_of_its_own() {
        let mut seen = observed(3);
        seen.stateful_set.as_mut().unwrap().template = "old".into();
        assert!(!is_rolling(&seen));
        let claim = crate::observed::Claim { grows_on_restart: true, ..Default::default() };
        seen.claims = (0..3).map(|ordinal| (ordinal, claim.clone())).collect();
        let (first, reason) = decided(&seen);
        assert_eq!(first, Some(2));
        assert!(reason.contains("file system"), "{reason}");
        seen.claims.get_mut(&2).unwrap().grows_on_restart = false;
        seen.pods.get_mut(&2).unwrap().ready = false;
        assert_eq!(decided(&seen).0, None, "one at a time");
        seen.pods.get_mut(&2).unwrap().ready = true;
        assert_eq!(decided(&seen).0, Some(1));
    }

    /// Goal: who has one or two members is told that a restart interrupts.
    #[test]
    fn an_interruption_is_announced() {
        for (members, announced) in [(1, true), (2, true), (3, false)] {
            let mut seen = observed(members);
            if members > 1 {
                seen.pods.get_mut(&0).unwrap().template = "new".into();
            }
            let (ordinal, reason) = decided(&seen);
            assert_eq!(ordinal, Some(members - 1));
            assert_eq!(reason.contains("interrupted"), announced, "{reason}");
        }
    }
}
