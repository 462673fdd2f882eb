//! More members, fewer members, and the disks of those that left.

use std::collections::BTreeSet;

use kvorum_crd::Keep;

use super::view::View;
use super::{About, Decided, Notes, deleted_claim, release, risky, safe, wait};
use crate::fence::Retired;
use crate::step::{Risky, Step};

/// One member less: leadership, membership, pod, in this order.
pub fn down(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let wanted = view.observed.wanted.members;
    let top = set.replicas.checked_sub(1).filter(|top| *top >= wanted)?;
    if view.floor() <= top {
        let step = Risky::Shrink { replicas: top, version: set.version.clone() };
        return risky(step, format!("Member {} has left the cluster.", view.observed.pod_name(top)));
    }
    // Mostly the highest goes. Where those who stay would be no quorum with the next one, more go at
    // once: of 3 members with one dead, 2 cannot stay, but 1 can.
    for keep in (wanted..set.replicas).rev() {
        let stays = |id: &u64| view.ordinal(*id).is_none_or(|ordinal| ordinal < keep);
        let voters: BTreeSet<u64> = view.voters.iter().copied().filter(stays).collect();
        if voters == view.voters || !view.quorum_of(&voters) {
            continue;
        }
        let reason = format!("The spec wants {wanted} members, and there are {}.", set.replicas);
        if !voters.contains(&view.leader.node_id) {
            let heir = view.heir(&voters)?;
            return safe(Step::TransferLeader { to: heir }, reason);
        }
        return risky(Risky::ChangeVoters { voters, membership: view.membership.log_id }, reason);
    }
    let message = format!(
        "The spec wants {wanted} members, but of those who would stay no majority has caught up. Bring them back, or set \
         spec.members to {}.",
        set.replicas
    );
    notes.add(About::Degraded, "CannotScaleDown", message.clone());
    None
}

/// The claims of members that left are deleted or kept, as the spec says.
pub fn retire(view: &View) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let left = view.observed.claims.range(set.replicas..).find(|(ordinal, claim)| {
        let ours = claim.disk.is_some_and(|disk| {
            disk.cluster_id == view.cluster_id && !view.membership.nodes.contains_key(&disk.node_id)
        });
        let behind = matches!(claim.retired, Retired::Behind { .. });
        let left = claim.retired == Retired::Left;
        let kept = behind || (left && view.observed.wanted.when_scaled == Keep::Retain);
        let kept = kept && !claim.released;
        ours && !kept && !claim.deleting && !view.observed.pods.contains_key(ordinal)
    });
    let (&ordinal, claim) = left?;
    let version = claim.version.clone();
    let released = claim.released && claim.retired != Retired::No;
    match view.observed.wanted.when_scaled {
        // What it holds may not be on a majority of the others yet.
        Keep::Delete if !view.quorum_of(&view.voters) => None,
        Keep::Retain if released && !view.quorum_of(&view.voters) => None,
        _ if released => {
            risky(Risky::DeleteClaim { ordinal, version }, release::granted(view.observed, ordinal))
        }
        Keep::Delete => risky(
            Risky::DeleteClaim { ordinal, version },
            format!(
                "Member {} has left the cluster, and whenScaled is Delete.",
                view.observed.pod_name(ordinal)
            ),
        ),
        Keep::Retain => safe(
            Step::Retire { ordinal, version, retired: Retired::Left },
            format!(
                "Member {} has left the cluster, and whenScaled is Retain.",
                view.observed.pod_name(ordinal)
            ),
        ),
    }
}

/// One pod more, once all that are there vote.
pub fn up(view: &View, notes: &mut Notes) -> Decided {
    let set = view.observed.stateful_set.as_ref()?;
    let next = set.replicas;
    if next >= view.observed.wanted.members {
        return None;
    }
    if let Some(ordinal) = (0..next).find(|ordinal| view.voters_at(*ordinal).is_empty()) {
        let pod = view.observed.pod_name(ordinal);
        return wait(format!(
            "Waiting until member {pod} votes before another one comes. If this stays, `kubectl describe pod {pod}` and \
             `kubectl logs {pod}` say why it does not."
        ));
    }
    if let Some(claim) = view.observed.claims.get(&next) {
        if claim.deleting {
            let then = format!("member {} gets a new disk", view.observed.pod_name(next));
            return wait(deleted_claim(view.observed, next, &then));
        }
        if claim.disk.is_some() {
            notes.add(
                About::Storage,
                "RetiredClaim",
                format!(
                    "Claim {} holds the disk of a member that left, which never takes part again. To scale up, let it \
                     go: {}",
                    view.observed.claim_name(next),
                    release::how(view.observed, next, claim)
                ),
            );
            return None;
        }
    }
    let step = Step::Grow { replicas: next + 1, version: set.version.clone() };
    safe(step, format!("The spec wants {} members.", view.observed.wanted.members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Disk;
    use crate::observed::{Claim, Membership, Node, Observed, Pod, Progress, Role, StatefulSet};

    /// Goal: the disk of a member that left goes only once those who stay have caught up.
    #[test]
    fn a_disk_that_left_goes_when_a_majority_has_caught_up() {
        let membership = Membership {
            configs: vec![[1, 2].into()],
            nodes: [(1, Some(0)), (2, Some(1))].into(),
            ..Membership::default()
        };
        let leader = Node {
            node_id: 1,
            cluster_id: 9,
            role: Role::Leader,
            confirmed: true,
            membership,
            progress: [(2, Progress { matched: 1, bytes_behind: 2 << 20, ..Progress::default() })].into(),
            ..Node::default()
        };
        let follower = Node { node_id: 2, cluster_id: 9, ..Node::default() };
        let disk = Some(Disk { cluster_id: 9, node_id: 3, founder: false });
        let mut observed = Observed {
            cluster_id: Some(9),
            stateful_set: Some(StatefulSet { replicas: 2, ..StatefulSet::default() }),
            pods: [(0, Pod::default()), (1, Pod::default())].into(),
            claims: [(2, Claim { disk, ..Claim::default() })].into(),
            nodes: [(0, leader), (1, follower)].into(),
            ..Observed::default()
        };
        let goes =
            |observed: &Observed| retire(&View::of(observed).expect("a leader is confirmed")).is_some();
        assert!(!goes(&observed), "member 1 is two mebibytes behind");
        observed.nodes.get_mut(&0).unwrap().progress.get_mut(&2).unwrap().bytes_behind = 0;
        assert!(goes(&observed));
    }
}
