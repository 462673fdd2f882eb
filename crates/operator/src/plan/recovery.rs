//! Recovery from one survivor, when a person asks for exactly that.
//!
//! First pods and Services are for the next incarnation only, and every other pod is replaced: an old
//! disk that comes back then serves its status only, and the old ones cannot form a quorum beside the new
//! cluster. Their claims are retired, and stay until a person lets them go. Only then the survivor is told, and
//! only while every disk that could have more than the survivor answers that it has not, or is proven lost.

use super::proof::{self, Silent};
use super::view::View;
use super::{About, Decided, Notes, risky, safe, wait};
use crate::fence::{Retired, Token};
use crate::names::hex;
use crate::observed::{Node, Observed};
use crate::step::{Risky, Step};

/// The next step of a recovery that was asked for.
pub fn next(observed: &Observed, notes: &mut Notes) -> Decided {
    let wanted = observed.recover_from.as_deref()?;
    let named = |(ordinal, node): &(&u32, &Node)| {
        !node.is_blank() && node.is_at_home(**ordinal) && node.token().to_string() == wanted
    };
    let survivor = observed.nodes.iter().find(named);
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
    alone(observed, ordinal, node)
}

/// Sees to it that no other disk can go on by itself or be taken for one of the next incarnation, and then tells
/// the survivor.
fn alone(observed: &Observed, ordinal: u32, survivor: &Node) -> Decided {
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
    if let Some(silent) = proof::unproven(observed, survivor).first() {
        return wait(format!(
            "{} It is waited for, since it could have what the survivor lacks.",
            silent.said(observed)
        ));
    }
    let left = observed.claims.iter().find(|(_, claim)| {
        let disk = claim.disk.filter(|disk| disk.cluster_id == survivor.cluster_id);
        disk.is_some_and(|disk| disk.node_id != survivor.node_id)
            && claim.retired == Retired::No
            && !claim.deleting
    });
    if let Some((other, claim)) = left {
        let (version, retired) = (claim.version.clone(), Retired::Behind { incarnation: to });
        return safe(
            Step::Retire { ordinal: *other, version, retired },
            "The recovery leaves its disk behind, and only a person lets it go.",
        );
    }
    risky(
        Risky::Recover { ordinal, token: survivor.token(), to },
        "The annotation kvorum.io/recover-from asks for it, and no other pod is of the old incarnation.",
    )
}

/// What can be done about a quorum that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A person may recover the cluster from this survivor.
    From(Token),
    /// A person could recover the cluster from this survivor, were it not for a disk that has more in its log and whose
    /// data is known to differ.
    Behind(Token),
    /// These disks may have what every disk that answers lacks.
    Silent(Vec<Silent>),
    /// No disk that answers has the cluster's data, and none that is silent may have it.
    Nothing,
}

/// The token of the member that has the most of the log, once all others that could have more are proven lost.
pub fn offer(observed: &Observed) -> Offer {
    let Some(cluster_id) = observed.cluster_id else { return Offer::Nothing };
    let best = survivor(observed);
    // Where nobody answers who has data, the claims tell who may.
    let none = Node { cluster_id, incarnation: observed.incarnation, ..Node::default() };
    let silent = proof::unproven(observed, best.unwrap_or(&none));
    match best {
        _ if !silent.is_empty() => Offer::Silent(silent),
        Some(best) if corrupt_and_ahead(observed, best).is_some() => Offer::Behind(best.token()),
        Some(best) => Offer::From(best.token()),
        None => Offer::Nothing,
    }
}

/// The member that has the most of the log; of the latest incarnation's, since the logs of disks that were left
/// behind may have gone on by themselves. One whose data is known to differ comes last, whatever its log has.
fn survivor(observed: &Observed) -> Option<&Node> {
    let has_data = |(ordinal, node): &(&u32, &Node)| {
        Some(node.cluster_id) == observed.cluster_id && !node.is_blank() && node.is_at_home(**ordinal)
    };
    let survivors = observed.nodes.iter().filter(has_data).map(|(_, node)| node);
    survivors.max_by_key(|node| (node.incarnation, !observed.is_corrupt(node.node_id), node.last_log))
}

/// A disk of the survivor's incarnation whose data differs, and whose log has what the survivor's lacks: its node would
/// not let the survivor go on without it, and only a person can say that it should.
fn corrupt_and_ahead<'a>(observed: &'a Observed, survivor: &Node) -> Option<(u32, &'a Node)> {
    let ahead = |(_, node): &(&u32, &Node)| {
        observed.is_corrupt(node.node_id)
            && node.cluster_id == survivor.cluster_id
            && node.incarnation == survivor.incarnation
            && node.last_log > survivor.last_log
    };
    let sound = !observed.is_corrupt(survivor.node_id);
    observed.nodes.iter().filter(|_| sound).find(ahead).map(|(ordinal, node)| (*ordinal, node))
}

/// What a person has to know who recovers from the survivor that a token names, or wants to.
pub fn caveat(observed: &Observed, token: &Token) -> Option<String> {
    let survivor = observed.nodes.values().find(|node| node.token() == *token)?;
    if observed.is_corrupt(survivor.node_id) {
        return Some(
            "Its data is known to differ from what a majority held (alarm CORRUPT): some of what it answers is wrong, and \
             after a recovery it counts as right. If there is a snapshot of before, restoring that is the other way."
                .into(),
        );
    }
    let (ordinal, node) = corrupt_and_ahead(observed, survivor)?;
    let (pod, claim) = (observed.pod_name(ordinal), observed.claim_name(ordinal));
    Some(format!(
        "Member {pod} has more in its log, up to {}.{}, but its data is known to differ from what a majority held (alarm \
         CORRUPT), and while it answers, no other is recovered from. To give up what only its log has: kubectl delete pvc \
         {claim} --wait=false && kubectl delete pod {pod}",
        node.last_log.term, node.last_log.index
    ))
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
    let best = self::survivor(observed).filter(|best| best.incarnation == survivor.incarnation);
    if let (Some(best), true) = (best, observed.is_corrupt(survivor.node_id))
        && !observed.is_corrupt(best.node_id)
    {
        return Some(format!(
            "The data of the disk that the token names is known to differ from what a majority held (alarm CORRUPT). Recover \
             from a sound one: {}",
            best.token()
        ));
    }
    if corrupt_and_ahead(observed, survivor).is_some() {
        return caveat(observed, &survivor.token());
    }
    let newer = observed.nodes.values().filter(ours).find(|node| node.last_log > survivor.last_log);
    if let Some(node) = newer.filter(|node| node.incarnation == survivor.incarnation) {
        return Some(format!("Another member has a newer log. Recover from that one: {}", node.token()));
    }
    // Those whose pods were made again for this very recovery answer soon.
    let restarts = |silent: &Silent| {
        let template = observed.stateful_set.as_ref().map(|set| &set.template);
        let pod = silent.ordinal.and_then(|ordinal| observed.pods.get(&ordinal));
        observed.recovery.as_ref() == Some(&survivor.token().to_string())
            && pod.is_some_and(|pod| pod.deleting || Some(&pod.template) == template)
    };
    let silent = proof::unproven(observed, survivor);
    let said: Vec<String> =
        silent.iter().filter(|silent| !restarts(silent)).map(|silent| silent.said(observed)).collect();
    (!said.is_empty()).then(|| {
        format!(
            "A disk that does not answer may have what the one named by the token lacks. {}",
            said.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    //! Goal: nothing less exact than the token starts a recovery, and nothing that could have more is
    //! passed over. Method: a table of observations.
    use super::*;
    use crate::fence::LogId;
    use crate::observed::{Claim, Machine, Membership, Pod, Role, StatefulSet};
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
    }

    /// Goal: a disk that may come back is not passed over, and what to do about it is said; one that is proven lost
    /// is. Method: a member that does not answer, in each state that it can be in.
    #[test]
    fn silence_proves_nothing() {
        let token = observed().nodes[&0].token();
        let mut cases = 0;
        let mut check = |lost: bool, why: &str, change: &dyn Fn(&mut Observed)| {
            let mut seen = observed();
            let disk = |node_id| Some(crate::fence::Disk { cluster_id: 9, node_id, founder: false });
            for ordinal in 0..3 {
                let version = crate::fence::Version { uid: format!("uid-{ordinal}"), ..Default::default() };
                let (disk, volume) = (disk(u64::from(ordinal) + 1), format!("pv-{ordinal}"));
                let home = Some(format!("machine-{ordinal}"));
                seen.claims.insert(ordinal, Claim { version, disk, volume, home, ..Claim::default() });
            }
            // Member 1 is lost for good in all of them.
            seen.claims.remove(&1);
            let pod = seen.pods.get_mut(&2).unwrap();
            pod.running = false;
            change(&mut seen);
            let raise = Step::RaiseIncarnation { to: 2, token };
            assert_eq!(step(&seen), lost.then_some(raise), "{why}");
            match offer(&seen) {
                Offer::From(offered) => assert!(lost && offered == token, "{why}"),
                Offer::Silent(silent) => {
                    assert!(!lost && silent == [Silent { node_id: 3, ordinal: Some(2) }], "{why}");
                    let said = silent[0].said(&seen);
                    let reached = seen.reached.contains(&3);
                    let names = ["0000000000000003", "data--2", "pv-2", "kvorum.io/disk-lost=uid-2"];
                    for name in names.into_iter().take(if reached { 1 } else { 4 }) {
                        assert!(said.contains(name), "{why}: {said}");
                    }
                }
                Offer::Behind(_) | Offer::Nothing => panic!("{why}"),
            }
            cases += 1;
        };
        check(false, "its pod is Pending", &|seen| {
            let pod = seen.pods.get_mut(&2).unwrap();
            pod.trouble = Some("it is not scheduled: all machines are cordoned".into());
        });
        check(false, "it has no pod", &|seen| _ = seen.pods.remove(&2));
        check(false, "it runs, cut off", &|seen| seen.pods.get_mut(&2).unwrap().running = true);
        check(false, "its claim is being deleted", &|seen| {
            seen.claims.get_mut(&2).unwrap().deleting = true;
        });
        check(false, "its machine is missing", &|seen| {
            seen.claims.get_mut(&2).unwrap().machine = Machine::Missing;
        });
        check(false, "its zone has no machine", &|seen| {
            seen.claims.get_mut(&2).unwrap().machine = Machine::Unfit;
        });
        check(false, "its machine is gone, and its pod runs", &|seen| {
            seen.claims.get_mut(&2).unwrap().machine = Machine::Gone;
            seen.pods.get_mut(&2).unwrap().running = true;
        });
        check(false, "the survivor does not know it as a voter", &|seen| {
            let membership = &mut seen.nodes.get_mut(&0).unwrap().membership;
            (membership.configs, membership.nodes) = (vec![[1].into()], [(1, Some(0))].into());
        });
        check(true, "its claim is gone", &|seen| _ = seen.claims.remove(&2));
        check(true, "its machine is gone", &|seen| {
            seen.claims.get_mut(&2).unwrap().machine = Machine::Gone;
        });
        check(true, "a person says so", &|seen| seen.claims.get_mut(&2).unwrap().declared_lost = true);
        check(true, "another disk answers in its place", &|seen| {
            _ = seen.nodes.insert(2, Node { node_id: 4, ..Node::default() });
        });
        check(true, "it had left before", &|seen| {
            seen.claims.get_mut(&2).unwrap().retired = Retired::Left;
        });
        check(false, "its machine is gone, and it answers another member", &|seen| {
            seen.claims.get_mut(&2).unwrap().machine = Machine::Gone;
            seen.reached.insert(3);
        });
        check(false, "a copy of it answers at another address", &|seen| {
            seen.nodes.insert(1, Node { node_id: 3, role: Role::StatusOnly, ..seen.nodes[&0].clone() });
        });
        assert_eq!(cases, 15);
    }

    /// Goal: a disk whose data is known to differ is nobody's first choice, and where it is the only one that is said.
    /// Method: two members that answer, one of them marked; the third is lost for good.
    #[test]
    fn a_corrupt_disk_is_the_last_to_be_recovered_from() {
        let seen = |corrupt: u64, index: u64| {
            let mut seen = observed();
            let last_log = LogId { term: 2, index };
            seen.nodes.insert(1, Node { node_id: 2, last_log, ..seen.nodes[&0].clone() });
            seen.nodes.values_mut().for_each(|node| node.corrupt = [corrupt].into());
            seen.claims = Default::default();
            seen.pods.remove(&2);
            let disk = Some(crate::fence::Disk { cluster_id: 9, node_id: 2, founder: false });
            seen.claims.insert(1, Claim { disk, ..Claim::default() });
            seen
        };
        let token = |seen: &Observed, ordinal: u32| seen.nodes[&ordinal].token();
        let equal = seen(1, 7);
        assert_eq!(offer(&equal), Offer::From(token(&equal, 1)), "the sound one");
        assert_eq!(caveat(&equal, &token(&equal, 1)), None);
        assert_eq!(step(&equal), None, "the token names the corrupt one");

        let ahead = seen(2, 8);
        assert_eq!(offer(&ahead), Offer::Behind(token(&ahead, 0)));
        let said = caveat(&ahead, &token(&ahead, 0)).unwrap();
        assert!(said.contains("up to 2.8") && said.contains("kubectl delete pvc data--1"), "{said}");
        assert_eq!(step(&ahead), None, "its node would refuse");
        let mut given_up = ahead;
        given_up.nodes.insert(1, Node { node_id: 5, ..Node::default() });
        assert_eq!(offer(&given_up), Offer::From(token(&given_up, 0)), "another disk is in its place");

        let mut alone = seen(1, 7);
        alone.nodes.remove(&1);
        alone.claims.remove(&1);
        assert_eq!(offer(&alone), Offer::From(token(&alone, 0)), "there is no other");
        assert!(caveat(&alone, &token(&alone, 0)).unwrap().contains("counts as right"));
        assert!(step(&alone).is_some());
    }

    /// Goal: an operator that is cut off from the leader recovers nothing, whatever it is asked.
    #[test]
    fn a_quorum_that_a_member_confirms_is_not_lost() {
        let mut seen = Observed { objects_current: true, ..observed() };
        seen.stateful_set.as_mut().unwrap().current = true;
        (seen.claims, seen.pods) = Default::default();
        assert!(matches!(plan(&seen).step, Step::RaiseIncarnation { .. }), "all others are lost");
        let node = seen.nodes.get_mut(&0).unwrap();
        (node.role, node.confirmed) = (Role::Follower, true);
        let refused = plan(&seen);
        assert_eq!((refused.step, refused.notes[0].reason), (Step::Wait, "RecoverRefused"));
    }

    /// Goal: what a recovery leaves behind is on record as that before the survivor is told.
    #[test]
    fn the_losers_are_retired_first() {
        let mut seen = observed();
        let token = seen.nodes[&0].token();
        let disk = |node_id| Some(crate::fence::Disk { cluster_id: 9, node_id, founder: false });
        for (ordinal, node_id) in [(0, 1), (1, 2), (2, 3)] {
            let claim = Claim { disk: disk(node_id), machine: Machine::Gone, ..Claim::default() };
            seen.claims.insert(ordinal, claim);
        }
        (seen.incarnation, seen.recovery) = (2, Some(token.to_string()));
        for pod in [1, 2] {
            seen.pods.remove(&pod);
        }
        for ordinal in [1, 2] {
            let retired = Retired::Behind { incarnation: 2 };
            let retire = Step::Retire { ordinal, version: Default::default(), retired };
            assert_eq!(step(&seen), Some(retire));
            seen.claims.get_mut(&ordinal).unwrap().retired = retired;
        }
        assert_eq!(step(&seen), Some(Step::Record(Risky::Recover { ordinal: 0, token, to: 2 })));
    }
}
