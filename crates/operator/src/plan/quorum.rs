//! Below quorum: nothing is changed that could cost a disk.

use super::{About, Decided, Notes, safe, storage, wait};
use crate::fence::Retired;
use crate::observed::{Claim, Observed};
use crate::step::Step;

/// Nothing is done about a quorum that is there and that only the operator does not reach.
pub fn beyond_reach(observed: &Observed, notes: &mut Notes) -> Decided {
    let member = observed.pod_name(observed.vouched()?);
    if observed.recover_from.is_some() {
        let message =
            format!("A quorum is there, as member {member} confirms, and nothing is to be recovered.");
        notes.add(About::Degraded, "RecoverRefused", message);
    }
    wait(format!(
        "Waiting until the operator reaches the leader, which member {member} does. If this stays, look for a \
         NetworkPolicy or a broken network between the operator and the other members."
    ))
}

/// Brings pods back that were scaled away, and grows volumes. That, and what is done before with outdated
/// pods that do not run, is all: a corrected spec heals what a bad one broke, and the rest waits for a
/// leader.
pub fn below(observed: &Observed, notes: &mut Notes) -> Decided {
    let leaderless = "Waiting for a leader that a quorum confirms; nothing is changed until then that could cost a disk. \
                      If this stays, the condition QuorumLost says which members are missing and what to do.";
    bring_back(observed).or_else(|| storage::grow(observed, notes)).or_else(|| wait(leaderless))
}

/// The newest membership that any node knows says how many pods there must be; and so do the claims of members of
/// which it is not on record that they left: they may know a newer one, or have more, and only answer if they run.
fn bring_back(observed: &Observed) -> Decided {
    let set = observed.stateful_set.as_ref()?;
    let newest = observed.nodes.values().filter(|node| !node.is_blank()).max_by_key(|node| node.last_log);
    let members = newest.and_then(|node| node.membership.nodes.values().flatten().max().copied());
    let incarnation = newest.map_or(0, |node| node.incarnation);
    let may_answer = |claim: &Claim| match claim.retired {
        Retired::No => claim.is_members(),
        Retired::Left => false,
        // A recovery that was cut short retired it.
        Retired::Behind { incarnation: begun } => begun > incarnation && !claim.deleting,
    };
    let claims = observed.claims.iter().filter(|(_, claim)| may_answer(claim)).map(|(ordinal, _)| *ordinal);
    let highest = claims.max().max(members);
    let replicas = highest? + 1;
    if set.replicas >= replicas {
        return None;
    }
    let version = set.version.clone();
    safe(
        Step::Grow { replicas, version },
        "The StatefulSet has fewer pods than the cluster has members, and a majority of them is needed.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{StatefulSet, Wanted};
    use crate::plan::plan;

    /// Goal: whose members all stopped because their disks are full is helped by larger volumes.
    #[test]
    fn volumes_grow_without_a_leader() {
        let claim = Claim { requested_bytes: 10, capacity_bytes: 10, ..Claim::default() };
        let mut observed = Observed {
            wanted: Wanted { members: 1, storage_bytes: 20, ..Wanted::default() },
            cluster_id: Some(9),
            objects_current: true,
            stateful_set: Some(StatefulSet {
                replicas: 1,
                current: true,
                storage_bytes: 10,
                ..StatefulSet::default()
            }),
            claims: [(0, claim)].into(),
            ..Observed::default()
        };
        assert_eq!(plan(&observed).step, Step::GrowClaim { ordinal: 0 });
        observed.claims.get_mut(&0).unwrap().requested_bytes = 20;
        assert_eq!(plan(&observed).step, Step::Wait, "the StatefulSet waits for a leader");
    }
}
